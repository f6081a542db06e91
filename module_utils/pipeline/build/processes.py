"""The processes of a build: this process's descendants, their memory, and their end when the build fails."""

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

from .limits import control_groups, counted

PERIOD = 0.5
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Peak:
    """The peak memory in bytes of all processes ``together``, and of one process of each program.

    It counts resident sets. Shared memory counts for each process, so the sum is an upper bound.
    """

    together: int = 0
    programs: dict[str, int] = field(default_factory=dict)

    def see(self, processes: dict[int, tuple[int, str, int]], root: int) -> None:
        """Count the descendants of ``root``. ``processes`` maps a process id to its parent, program and memory."""
        total = 0
        for pid in descendants(processes, root):
            _, program, size = processes[pid]
            total += size
            self.programs[program] = max(self.programs.get(program, 0), size)
        self.together = max(self.together, total)


@contextmanager
def watched() -> Iterator[Peak]:
    """Tracks the peak memory of processes started in the block; kills them if it raises.

    That includes processes that leave their parent (the cache's server, which runs compilers of its own): in the block
    this process adopts orphaned descendants.
    """
    peak, done = Peak(), threading.Event()
    _adopt_orphans(1)
    before = descendants(processes(), os.getpid())

    def watch() -> None:
        while not done.wait(PERIOD):
            peak.see(processes(), os.getpid())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    except BaseException:
        _kill_all_but(before)
        raise
    finally:
        done.set()
        thread.join()
        _adopt_orphans(0)


def killed_for_memory(root: Path = Path("/")) -> int | None:
    """How many processes the kernel has killed for lack of memory so far; None where it does not count them.

    It counts them in a control group and below (cgroup-v2.rst, memory.events; v1/memory.rst, memory.oom_control),
    whichever limit was reached. The nearest group of this process that has such a file decides. The top group has none:
    there the count is the host's. ``root`` is the folder with ``proc`` and ``sys``, and / but for tests.
    """
    files = {"memory": "memory.oom_control", "": "memory.events"}
    with contextlib.suppress(OSError, ValueError):
        for group in control_groups(root):
            file = files.get(group.controller)
            if file and (found := group.row(file, "oom_kill")) is not None:
                return found
    return counted(root / "proc/vmstat", "oom_kill")


def _adopt_orphans(enabled: int) -> None:
    """Make this process the parent of orphaned descendants (1), or stop that (0); prctl(2)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, enabled, 0, 0, 0)


def _kill_all_but(spared: set[int]) -> None:
    """Kill all other descendants and wait until none has memory; zombies have none."""
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
    """The descendants of ``root`` in the result of ``processes``."""
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
    """All processes by id: the parent, the program's name (the kernel's 15 characters), the resident set in bytes."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                text = Path("/proc", entry.name, "stat").read_text(errors="replace")
                # The name is in parentheses and may contain any character (proc_pid_stat(5)).
                name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
                found[int(entry.name)] = (int(rest[1]), name, int(rest[21]) * _PAGE)
    return found
