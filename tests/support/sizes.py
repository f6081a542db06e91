"""The sizes of the fault tests: short by default, long for ``make faults``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The amount of work in a run of tests/faults."""

    round_seconds: float
    """Seconds of a round, for the engine and then for the control."""
    refreshes: int
    """Minimum of refreshes and installations by clients; rounds repeat until it is reached."""
    publishers: int
    """Concurrent publishers."""
    points: int | None
    """System calls at which a program is killed, for each scenario; all if None."""
    losses: int | None
    """The same for power losses."""
    spaces: int | None
    """The same for calls that fail with ENOSPC."""
    large_mib: int
    """Size in MiB of the package whose upload is resumed."""


SHORT = Sizes(round_seconds=8, refreshes=1, publishers=5, points=3, losses=2, spaces=1, large_mib=16)
LONG = Sizes(round_seconds=90, refreshes=1000, publishers=16, points=None, losses=None, spaces=None, large_mib=300)
