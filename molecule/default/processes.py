"""Processes that outlive the command that started them, each recorded in a file with its pid and start time.

Rules:
- A process writes its record before it executes the program, so no program runs unrecorded.
- A pid counts only together with its start time in the kernel: a reused pid is never signalled.
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
    """Starts a program in a new session; its output goes to the log."""
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
    """The pid of the recorded process, or 0 if it no longer runs."""
    try:
        number, started = record.read_text().split()
        # The name in the second field may contain blanks and brackets.
        state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0
    return int(number) if fields[18] == started and state != "Z" else 0


def stop(record: Path, *, gently: bool = True) -> None:
    """Ends the recorded process, waits until it is gone, and removes its record.

    Gently: by SIGTERM. Otherwise its children are killed: systemd-nspawn's child is the whole system, which would
    outlive it. After five seconds the process is killed.
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
