"""Code that every room may import; it knows no step of the pipeline."""
