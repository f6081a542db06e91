"""Processes that outlive the command that started them: none is lost, and no other process is signalled."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import processes
import pytest


@pytest.fixture
def record(tmp_path: Path):
    place = tmp_path / "pids/sleeper"
    yield place
    processes.stop(place)


def lives(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_is_recorded_before_it_runs_and_stopped_by_its_record(tmp_path, record):
    processes.start(record, ["sleep", "60"], tmp_path / "log")
    number = processes.pid(record)
    assert lives(number)
    processes.stop(record)
    assert not lives(number)
    assert not record.exists()


def test_a_reused_pid_is_not_signalled(tmp_path, record):
    processes.start(record, ["sleep", "60"], tmp_path / "log")
    number = processes.pid(record)
    text = record.read_text()
    record.write_text(f"{number} 1\n")
    assert processes.pid(record) == 0
    processes.stop(record)
    assert lives(number)
    record.write_text(text)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path, record, monkeypatch):
    waits = iter([0.2, 10, 10])
    wait = processes._wait
    monkeypatch.setattr(processes, "_wait", lambda still, _seconds: wait(still, next(waits)))
    processes.start(record, ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], tmp_path / "log")
    number = processes.pid(record)
    processes.stop(record)
    assert not lives(number)


def test_without_gentleness_the_children_are_killed_first(tmp_path, record):
    script = "sleep 60 & echo $! >child; wait"
    processes.start(record, ["sh", "-c", f"cd {tmp_path}; {script}"], tmp_path / "log")
    child = tmp_path / "child"
    while not child.exists() or not child.read_text().strip():
        assert processes.pid(record)
    number = int(child.read_text())
    processes.stop(record, gently=False)
    assert not lives(number)


def test_a_stale_or_broken_record_is_no_process(tmp_path):
    assert processes.pid(tmp_path / "none") == 0
    (tmp_path / "broken").write_text("x")
    assert processes.pid(tmp_path / "broken") == 0
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "ended").write_text(f"{ended.pid} 1\n")
    assert processes.pid(tmp_path / "ended") == 0
    assert lives(os.getpid())
