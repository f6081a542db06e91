"""cargo's output as lines and progress, and how long the rest takes; failures.py explains its errors.

cargo redraws its progress with carriage returns:
``    Building [=====>      ] 412/803: mistralrs-core, candle-core(build)``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..base.text import clock
from ..report.report_data import Unit, covered

_PROGRESS = re.compile(r"Building \[[=> ]*\] (?P<done>\d+)/(?P<total>\d+)(?:: (?P<crates>.*))?")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# A terminal obeys some of them, and upstream's code prints what it likes.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

LONGEST = 1 << 20
"""The most characters of a line; the rest is a line of its own."""

LATE = 5.0
"""The seconds, and at least a tenth of its time, by which a unit is late."""


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units are finished; ``active`` are those in progress, a part of them if ``cut``."""

    done: int
    total: int
    active: tuple[str, ...] = ()
    cut: bool = False

    @property
    def crate(self) -> str:
        """The first of those in progress, or ""."""
        return self.active[0].partition("(")[0] if self.active else ""

    def line(self, flavour: str, seconds: float, rest: str = "") -> str:
        """One progress line: "[ada] 412/803 mistralrs-core, 3:10, about 1:20 left".

        ``seconds`` is the time since the build's start, ``rest`` the sentence of an estimate.
        """
        line = f"[{flavour}] {self.done}/{self.total} {self.crate or 'finishing'}, {clock(seconds)}"
        return f"{line}, {rest}" if rest else line


class Estimate:
    """How long the rest of a build takes, from the ``units`` of an earlier build of the flavour.

    Rules:

    1. The rest is the time that the unfinished units covered in the earlier build, side by side as they were there: one
       unit of upstream takes a third of its build, and a count of units knows nothing of that.
    2. Of the units that have not begun, as many are still to do as cargo counts; those that came last in the earlier
       build. The others are fresh.
    3. The end moves to a later time only with a reason: a unit runs longer than in the earlier build, or all do.
    4. Without an earlier build there is no estimate.
    """

    def __init__(self, units: Sequence[Unit] = ()) -> None:
        self._known = sorted(units, key=lambda unit: unit.began)
        self._began: dict[str, float] = {}
        self._finished: Counter[str] = Counter()
        self._took = self._usual = 0.0
        self._end: float | None = None

    def see(self, progress: Progress, now: float) -> None:
        """Take up a progress that cargo printed at ``now`` (monotonic seconds)."""
        for label in [label for label in self._began if label not in progress.active and not progress.cut]:
            took = now - self._began.pop(label)
            if usual := self._unfinished(label):
                self._took, self._usual = self._took + took, self._usual + usual.seconds
            self._finished[label] += 1
        for label in progress.active:
            self._began.setdefault(label, now)

    def sentence(self, progress: Progress, now: float) -> str:
        """What a progress line says of the rest, or ""."""
        if not self._known or progress.done >= progress.total:
            return ""
        left, late = self._left(progress, now)
        end = now + left
        if self._end is not None and end > self._end + LATE and not late:
            end, left = self._end, max(0.0, self._end - now)
        self._end = end
        return ", ".join([*([f"about {clock(left)} left"] if left >= 1 or not late else []), *late])

    def _left(self, progress: Progress, now: float) -> tuple[float, list[str]]:
        """The seconds of the rest, and why it takes longer than in the earlier build."""
        spans, late = [], []
        for label, began in self._began.items():
            if unit := self._unfinished(label):
                ran = (now - began) / self._pace
                spans.append((min(unit.began + ran, unit.began + unit.seconds), unit.began + unit.seconds))
                if now - began > unit.seconds * max(1.1, self._pace) + LATE:
                    name = label.partition("(")[0]
                    late.append(f"{name} runs for {clock(now - began)}, {clock(unit.seconds)} in the build before")
        waiting = progress.total - progress.done - len(self._began)
        unseen = [unit for unit in self._pending() if unit.label not in self._began]
        spans += [(unit.began, unit.began + unit.seconds) for unit in unseen[max(0, len(unseen) - waiting) :]]
        if self._pace >= 1.2 and not late:
            late.append(f"units take {self._pace:.1f} times as long as in the build before")
        return covered(spans) * self._pace, late

    @property
    def _pace(self) -> float:
        """The time of the finished units against their time in the earlier build; 1 until they tell something."""
        return max(0.5, self._took / self._usual) if self._usual >= LATE else 1.0

    def _unfinished(self, label: str) -> Unit | None:
        """The first unit of that label that has not finished; a crate may be there in several versions."""
        return next((unit for unit in self._pending() if unit.label == label), None)

    def _pending(self) -> list[Unit]:
        """All units that have not finished."""
        seen: Counter[str] = Counter()
        pending = []
        for unit in self._known:
            seen[unit.label] += 1
            if seen[unit.label] > self._finished[unit.label]:
                pending.append(unit)
        return pending


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
        crates = match["crates"] or ""
        labels = (label.strip(" .") for label in crates.split(","))
        active = tuple(filter(None, labels))
        yield Progress(int(match["done"]), int(match["total"]), active, cut=crates.endswith("..."))
    elif plain:
        yield plain
