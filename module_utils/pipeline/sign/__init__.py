"""Signing keys, trusted keys and signatures."""
