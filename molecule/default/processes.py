"""Processes that outlive the command that started them, each known by a file with its number and its start.

Rules:
- A process writes its own file before it becomes the program, so none ever runs unrecorded.
- The number counts only together with the time at which the kernel started it: a number that was given to another
  process since is never signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

RECORD = """printf '%s %s\\n' "$$" "$(cut -d ' ' -f 22 "/proc/$$/stat")" >"$0" && exec "$@" """


def start(record: Path, words: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Starts a program in a session of its own; what it says goes to the log."""
    record.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        subprocess.Popen(
            ["sh", "-c", RECORD, record, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    deadline = time.monotonic() + 60
    while not record.exists() or not record.read_text().endswith("\n"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{words[0]} did not start; its log is {log}")
        time.sleep(0.01)


def pid(record: Path) -> int:
    """The number of the recorded process, or 0 when it no longer runs."""
    try:
        number, started = record.read_text().split()
        # The name in the second field may hold spaces and brackets.
        state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0
    return int(number) if fields[18] == started and state != "Z" else 0


def stop(record: Path, *, gently: bool = True) -> None:
    """Ends the recorded process and waits until it is gone; its file goes with it.

    Gently: it is told to end. Else its children are killed, as systemd-nspawn's is the whole system that it runs and
    would outlive it. Whatever is there five seconds later is killed.
    """
    number = pid(record)
    if number:
        family = [] if gently else _children(number)
        for member in family:
            _signal(member, signal.SIGKILL)
        if not family:
            _signal(number, signal.SIGTERM)
        _wait(lambda: pid(record), 5)
        if pid(record):
            _signal(number, signal.SIGKILL)
        _wait(lambda: pid(record), 10)
        _wait(lambda: any(_runs(member) for member in family), 10)
    record.unlink(missing_ok=True)


def _signal(number: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, what)


def _wait(still: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while still() and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.02)


def _children(number: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except OSError:
        return []


def _runs(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
