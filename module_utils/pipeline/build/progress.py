"""cargo's output as lines and progress; failures.py explains its errors.

cargo redraws its progress with carriage returns:
``    Building [=====>      ] 412/803: mistralrs-core, candle-core``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..base.text import clock

_PROGRESS = re.compile(r"Building \[[=> ]*\] (?P<done>\d+)/(?P<total>\d+)(?:: (?P<crates>.*))?")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# A terminal obeys some of them, and upstream's code prints what it likes.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

LONGEST = 1 << 20
"""The most characters of a line; the rest is a line of its own."""

LONG_UNIT = 30.0
"""The fewest seconds without a finished unit after which a line shows how long the current one runs."""


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units are finished; ``crate`` is the first of those in progress."""

    done: int
    total: int
    crate: str

    def line(self, flavour: str, seconds: float, standing: float = 0.0) -> str:
        """One progress line: "[ada] 412/803 mistralrs-core, 3:10, about 1:20 left".

        ``seconds`` is the time since the build's start, ``standing`` the part of it since the last finished unit. One
        unit of upstream takes a third of its build: a unit that runs longer than the estimate for all the rest shows
        its own time instead.
        """
        line = f"[{flavour}] {self.done}/{self.total} {self.crate or 'finishing'}, {clock(seconds)}"
        left = seconds / max(self.done, 1) * (self.total - self.done)
        if standing >= max(left, LONG_UNIT):
            return f"{line}, running for {clock(standing)}"
        # The first tenth of the units is too cheap to estimate the rest.
        estimate = self.done * 10 >= self.total and self.done < self.total
        return f"{line}, about {clock(left)} left" if estimate else line


class LineReader:
    """Splits a stream of cargo's bytes into lines and progress; feed it, then ``close`` it."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, data: bytes) -> Iterator[str | Progress]:
        """The events of all complete lines. An incomplete line waits for its end."""
        *lines, self._rest = re.split(r"[\r\n]+", self._rest + data.decode(errors="replace"))
        if len(self._rest) > LONGEST:
            lines, self._rest = [*lines, self._rest], ""
        for line in lines:
            yield from _read(line)

    def close(self) -> Iterator[str | Progress]:
        """The events of the last line, if it has no end."""
        rest, self._rest = self._rest, ""
        yield from _read(rest)


def _read(line: str) -> Iterator[str | Progress]:
    plain = _CONTROL.sub("", _ESCAPE.sub("", line)).rstrip()
    match = _PROGRESS.search(plain)
    if match:
        crates = (match["crates"] or "").split(",")
        yield Progress(int(match["done"]), int(match["total"]), crates[0].split("(")[0].strip(" ."))
    elif plain:
        yield plain
