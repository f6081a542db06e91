"""The end of an interrupted run: which processes it ends, and its last words.

Rules:

1. All descendants end with the run. Ansible's workers end the modules that they started; an orphan of theirs becomes a
   child of the run. A sandbox ends with the module that started it (PR_SET_PDEATHSIG). Looking for processes costs
   no more on a host with thousands of others.
2. A run is never said to have published nothing while its publishing task was under way.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from .rows import FAILED, LOST, Row

CHANGING = ("publish", "rollback", "yank", "prune", "remove")
"""The names of rows of what clients see."""

_PR_SET_CHILD_SUBREAPER = 36

LIMIT = 4.5
"""Seconds after which the kernel ends an interrupted run."""

PATIENCE = 2.0
"""Seconds for modules to end in order, before they are killed."""

LEASE = 60
"""Seconds after which a build on another host ends, since its controller is gone (plugins/action/cargo_build.py)."""


def children(pid: int, root: Path = Path("/proc")) -> set[int]:
    """The processes that ``pid`` started or adopted, zombies included (proc_pid_task(5), children)."""
    found: set[int] = set()
    for file in (root / str(pid)).glob("task/*/children"):
        with suppress(OSError):  # it has just ended
            found |= {int(word) for word in file.read_text().split()}
    return found


def descendants(pid: int, root: Path = Path("/proc")) -> set[int]:
    """The living processes below ``pid``."""
    found, waiting = set[int](), [pid]
    while waiting:
        new = children(waiting.pop(), root) - found
        found |= new
        waiting += new
    return {process for process in found if lives(process, root)}


def lives(pid: int, root: Path = Path("/proc")) -> bool:
    """Whether the process exists and is no zombie (proc_pid_stat(5), state)."""
    try:
        return (root / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def publishes(action: str, state: object) -> bool:
    """Whether a task changes what clients see; ``state`` is the option of repository_snapshot in the playbook."""
    return action.rpartition(".")[2] == "repository_snapshot" and state not in ("staged", "dropped", "verified")


def last_words(
    rows: Sequence[Row], running: Mapping[str, str], *, seconds: float, publishing: bool, elsewhere: Sequence[str]
) -> list[str]:
    """What stands after an interruption. ``running`` are the tasks by host, ``elsewhere`` the hosts reached by ssh."""
    tasks = "; ".join(f"{task} ({host})" for host, task in running.items())
    lines = [f"Interrupted after {seconds:.1f} s{f', in: {tasks}' if tasks else ''}"]
    done = [row for row in rows if row.name not in (FAILED, LOST)]
    if done:
        lines.append(f"  done: {', '.join(dict.fromkeys(row.title for row in done))}")
    seen = [row.result for row in done if row.name in CHANGING]
    if seen:
        lines.append(f"  published: {'; '.join(seen)}")
    if publishing:
        lines.append("  A publication was under way: clients see the old or the new snapshot, as make status shows")
    elif not seen:
        lines.append("  No snapshot was published: clients see the packages that they saw before")
    if elsewhere:
        lines.append(f"  What runs on {', '.join(elsewhere)} ends by itself, a build within {LEASE} s")
    return [*lines, "  Run the same command again: it continues where this run stopped"]


class Ending:
    """Ends this process and all that it started, within ``LIMIT`` seconds of a signal.

    Ansible's own clean-up waits for a queue whose other end it has just killed, possibly for ever. ``words`` returns
    the last words; ``finish`` is called when nothing runs any more. A second signal kills at once.
    """

    def __init__(self, words: Callable[[], Sequence[str]], finish: Callable[[], None]) -> None:
        self.words, self.finish, self.pid = words, finish, os.getpid()

    def install(self) -> None:
        """Take over the signals that end a run; a run started by nohup keeps ignoring SIGHUP."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._end)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self.pid:
            os._exit(1)  # a worker that was just forked and has no handler of its own yet
        # The kernel ends this process if anything below blocks, such as a terminal that takes no output.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        for later in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(later, self._kill)
        try:
            # The workers end their modules, as they do for Ansible. Modules whose worker is gone become children.
            adopt_orphans()
            for pid in children(self.pid):
                _send(pid, number)
            with suppress(OSError, RuntimeError, ValueError):  # closed, or interrupted while it was written
                sys.stdout.flush()
            with suppress(Exception):  # the end matters more than its words
                os.write(1, ("\n" + "\n".join(self.words()) + "\n").encode())
            self._wait()
            self.finish()
        finally:
            self._kill(number, None)

    def _wait(self) -> None:
        """Wait for the end of all, and kill what needs too long."""
        started = time.monotonic()
        while left := descendants(self.pid):
            waited = time.monotonic() - started
            if waited > PATIENCE:
                for pid in left:
                    _send(pid, signal.SIGKILL)
            if waited > PATIENCE + 0.5:
                return
            time.sleep(0.05)

    def _kill(self, number: int, _frame: FrameType | None) -> None:
        for pid in descendants(self.pid):
            _send(pid, signal.SIGKILL)
        os._exit(128 + number)


def adopt_orphans() -> None:
    """Make this process the parent of its orphaned descendants; prctl(2)."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
