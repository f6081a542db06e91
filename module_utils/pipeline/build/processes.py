"""What a build has running: this process's descendants, the memory they take, their end with a build that fails."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PERIOD = 0.5
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Peak:
    """The most that all took at once, and that one process of each program took, in bytes.

    It is the resident set, so memory that processes share counts for each: never less than what was taken.
    """

    together: int = 0
    programs: dict[str, int] = field(default_factory=dict)

    def see(self, processes: dict[int, tuple[int, str, int]], root: int) -> None:
        """Count ``root``'s descendants; ``processes`` maps a process to its parent, its program and its memory."""
        total = 0
        for pid in descendants(processes, root):
            _, program, size = processes[pid]
            total += size
            self.programs[program] = max(self.programs.get(program, 0), size)
        self.together = max(self.together, total)


@contextmanager
def watched() -> Iterator[Peak]:
    """The peak of what is started meanwhile; where an error passes here, all of that is ended.

    A process that leaves its parent (the cache's server, which has compilers of its own) is among them, if it is
    started while this lasts: this process becomes the one that orphans are given to.
    """
    peak, done = Peak(), threading.Event()
    _adopts(1)
    before = descendants(processes(), os.getpid())

    def watch() -> None:
        while not done.wait(PERIOD):
            peak.see(processes(), os.getpid())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    except BaseException:
        _end(before)
        raise
    finally:
        done.set()
        thread.join()
        _adopts(0)


def _adopts(orphans: int) -> None:
    """Whether orphans below are given to this process (1) or not (0)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, orphans, 0, 0, 0)


def _end(spared: set[int]) -> None:
    """Kill all descendants but those; one that is dead and waited for by nobody takes no memory."""
    while True:
        found = processes()
        left = {pid for pid in descendants(found, os.getpid()) - spared if found[pid][2]}
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def descendants(found: dict[int, tuple[int, str, int]], root: int) -> set[int]:
    """The processes below ``root``, of those that ``processes`` found."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in found.items():
        children.setdefault(parent, []).append(pid)
    below, waiting = set[int](), list(children.get(root, []))
    while waiting:
        pid = waiting.pop()
        below.add(pid)
        waiting += children.get(pid, [])
    return below


def processes() -> dict[int, tuple[int, str, int]]:
    """Every process: its parent, its program's name (15 characters, the kernel's), its resident set in bytes."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                text = Path("/proc", entry.name, "stat").read_text(errors="replace")
                # The name stands in parentheses and may hold any character.
                name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
                found[int(entry.name)] = (int(rest[1]), name, int(rest[21]) * _PAGE)
    return found
