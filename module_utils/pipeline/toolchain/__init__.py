"""Pinned compilers below a builder's root."""
