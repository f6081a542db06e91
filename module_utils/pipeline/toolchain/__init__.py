"""Compilers, pinned and laid out below a builder's root."""
