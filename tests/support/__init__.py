"""Helpers of the tests: sites, hosts, disks and machines made of real programs."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
"""The project's folder."""
