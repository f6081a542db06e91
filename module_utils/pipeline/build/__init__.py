"""cargo and nvcc at work, and what a build cost."""
