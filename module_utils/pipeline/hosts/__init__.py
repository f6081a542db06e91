"""Machines that serve or run jobs."""
