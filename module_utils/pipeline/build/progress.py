"""Reading what cargo prints: lines and progress. What an error means is told by failures.py.

Cargo redraws its progress with carriage returns:
``    Building [=====>      ] 412/803: mistralrs-core, candle-core``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PROGRESS = re.compile(r"Building \[[=> ]*\] (?P<done>\d+)/(?P<total>\d+)(?:: (?P<crates>.*))?")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

STANDS = 30.0
"""After so many seconds without a unit that is finished it may be told that it stands."""


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units are finished; ``crate`` is the first of those being compiled."""

    done: int
    total: int
    crate: str

    def line(self, flavour: str, seconds: float, standing: float = 0.0) -> str:
        """One line for a person: "[ada] 412/803 mistralrs-core, 3:10, about 1:20 left".

        ``seconds`` since the beginning, ``standing`` of them since a unit was finished. One unit of upstream takes a
        third of its build: where it stands for longer than all that is left was said to take, that is told instead.
        """
        told = f"[{flavour}] {self.done}/{self.total} {self.crate or 'finishing'}, {clock(seconds)}"
        left = seconds / max(self.done, 1) * (self.total - self.done)
        if standing >= max(left, STANDS):
            return f"{told}, at it for {clock(standing)}"
        # Before a tenth is done, units that cost little say nothing of those to come.
        guess = self.done * 10 >= self.total and self.done < self.total
        return f"{told}, about {clock(left)} left" if guess else told


def clock(seconds: float) -> str:
    """Seconds as 3:10 or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class LineReader:
    """Cuts a stream of cargo's bytes into lines and progress; feed it, then ``close`` it."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, data: bytes) -> Iterator[str | Progress]:
        """The whole lines so far. An unfinished line waits for its end."""
        *lines, self._rest = re.split(r"[\r\n]+", self._rest + data.decode(errors="replace"))
        for line in lines:
            yield from _read(line)

    def close(self) -> Iterator[str | Progress]:
        """What was left without an end."""
        rest, self._rest = self._rest, ""
        yield from _read(rest)


def _read(line: str) -> Iterator[str | Progress]:
    plain = _ESCAPE.sub("", line).rstrip()
    match = _PROGRESS.search(plain)
    if match:
        crates = (match["crates"] or "").split(",")
        yield Progress(int(match["done"]), int(match["total"]), crates[0].split("(")[0].strip(" ."))
    elif plain:
        yield plain
