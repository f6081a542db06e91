"""Kills a program at a chosen system call, by strace.

A point is the n-th call of one name by the program's own process, before the call takes effect. Child processes
are not traced.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A folder changes only by these calls, apart from new empty files.
CHANGING = (
    *("write", "pwrite64", "writev", "sendfile", "copy_file_range", "ftruncate", "truncate", "fallocate"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("chmod", "fchmod", "fchmodat", "utimensat", "fsync", "fdatasync", "flock"),
)


@dataclass(frozen=True)
class Point:
    """The ``nth`` call of ``name``."""

    name: str
    nth: int

    def __str__(self) -> str:
        return f"{self.name} {self.nth}"


def points(argv: Sequence[str | Path], log: Path, calls: Sequence[str] = CHANGING) -> list[Point]:
    """The points of a complete run in order. The run must succeed."""
    done = traced(argv, log, calls)
    assert done.returncode == 0, done.stderr
    seen: Counter[str] = Counter()
    found = []
    for name in re.findall(r"^(\w+)\(", log.read_text(errors="replace"), re.MULTILINE):
        seen[name] += 1
        found.append(Point(name, seen[name]))
    assert found
    return found


def traced(
    argv: Sequence[str | Path], log: Path, calls: Sequence[str] = CHANGING, *, inject: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` under strace."""
    words = ["-e", f"inject={inject}"] if inject else []
    return subprocess.run(
        ["strace", "-qq", "-o", log, "-e", f"trace={','.join(calls)}", "-e", "signal=none", *words, *argv],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip


def killed(argv: Sequence[str | Path], point: Point, log: Path) -> None:
    """Run ``argv`` and kill it at ``point``."""
    done = traced(argv, log, [point.name], inject=f"{point.name}:signal=SIGKILL:when={point.nth}")
    assert done.returncode == -9, f"{point} was not reached: {done.stderr}"


def spread(points: Sequence[Point], number: int | None) -> list[Point]:
    """``number`` points at even distances; all if None."""
    if number is None or number >= len(points):
        return list(points)
    return [points[int((index + 0.5) * len(points) / number)] for index in range(number)]
