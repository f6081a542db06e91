"""Reading what cargo prints: progress, and the first real error.

Cargo redraws its progress with carriage returns:
``    Building [=====>      ] 412/803: mistralrs-core, candle-core``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_PROGRESS = re.compile(r"Building \[[=> ]*\] (?P<done>\d+)/(?P<total>\d+)(?:: (?P<crates>.*))?")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ERROR = re.compile(r"error(\[E\d+\])?:")
# What build scripts and compilers print around their own errors.
_TOOL_ERROR = re.compile(r"(?i)(\berror\b|fatal|panicked|undefined (reference|symbol)|cannot find|not found)")


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units are finished; ``crate`` is the first of those being compiled."""

    done: int
    total: int
    crate: str

    def line(self, flavour: str, seconds: float) -> str:
        """One line for a person: "[ada] 412/803 mistralrs-core, 3:10, about 1:20 left"."""
        left = ""
        # Before a tenth is done, units that cost little say nothing of those to come.
        if self.done * 10 >= self.total and self.done < self.total:
            left = f", about {clock(seconds / self.done * (self.total - self.done))} left"
        return f"[{flavour}] {self.done}/{self.total} {self.crate or 'finishing'}, {clock(seconds)}{left}"


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


def first_error(lines: Iterable[str], limit: int = 25) -> list[str]:
    """The lines of the first real error in a build's log.

    rustc's first ``error`` block up to its blank line; for a build script that failed, the lines in
    its output that name an error, since the cause lies there (nvcc, gcc, a panic).
    """
    log = list(lines)
    start = next((i for i, line in enumerate(log) if _ERROR.match(line)), None)
    if start is None:
        return log[-limit:]
    block = log[start:]
    if "failed to run custom build command" in block[0]:
        shown = [line for line in block[1:] if _TOOL_ERROR.search(line)][: limit - 1]
        return [block[0], *(shown or block[1:limit])]
    end = next((i for i, line in enumerate(block[1:], 1) if _starts_anew(line)), len(block))
    return block[: min(end, limit)]


def _starts_anew(line: str) -> bool:
    return bool(re.match(r"(error|warning)(\[\w+\])?:|\s*Compiling ", line))
