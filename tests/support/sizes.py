"""How much the trials try."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How much is tried."""

    round_seconds: float
    """Clients refresh for so long, first under our way of publishing, then under the control."""
    refreshes: int
    """Rounds are added until clients have refreshed and installed so often."""
    publishers: int
    points: int | None
    """System calls of each kind of call at which a program is killed; None for every one of them."""
    losses: int | None
    """The same for power losses, each with a file system of its own."""
    spaces: int | None
    """The same for calls that find no space on the disk."""
    large_mib: int
    """The size of a package that is not to be sent twice."""


SHORT = Sizes(round_seconds=8, refreshes=1, publishers=5, points=3, losses=2, spaces=1, large_mib=16)
LONG = Sizes(round_seconds=90, refreshes=1000, publishers=16, points=None, losses=None, spaces=None, large_mib=300)
