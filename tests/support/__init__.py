"""What tests share: sites, hosts, disks and machines of their own, made of real programs."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
"""The project's folder."""
