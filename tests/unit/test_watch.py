"""The end of a build whose controller is silent: time is what the watcher saw, whatever the clocks show."""

from __future__ import annotations

import io
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.sandbox import Running
from pipeline.build.watch import LOOK, Lease, Watch

HOUR = 3600.0


@pytest.fixture
def alive(tmp_path: Path) -> Path:
    path = tmp_path / "build.log.alive"
    path.touch()
    return path


def set_clock(path: Path, seconds: float) -> None:
    """Touch the file as a machine would whose clock is off by ``seconds``."""
    os.utime(path, (time.time() + seconds, time.time() + seconds))


def follow(alive: Path, lease: float) -> None:
    """Follow a program of a second as a build."""

    def start() -> Running:
        return Running(subprocess.Popen(["sleep", "0.8"], stdout=subprocess.PIPE, process_group=0), None)

    stream = io.StringIO()
    stream.name = "build.log"  # type: ignore[misc]
    Watch(stream, "ada", alive, lease).follow(start, time.monotonic())


@pytest.mark.parametrize("step", [-70, -HOUR, 70, HOUR])
def test_a_clock_that_steps_ends_no_build(alive: Path, step: float) -> None:
    set_clock(alive, step)
    follow(alive, lease=60)


def test_a_controller_of_another_time_ends_no_build_while_it_touches(alive: Path) -> None:
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.1):
            set_clock(alive, -HOUR)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        follow(alive, lease=0.5)
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("step", [0, HOUR])
def test_silence_ends_a_build_whatever_time_the_file_has(alive: Path, step: float) -> None:
    set_clock(alive, step)
    with pytest.raises(PipelineError, match=r"stopped: its controller has been silent for 0.3 s.*units are kept"):
        follow(alive, lease=0.3)


def test_a_watcher_that_slept_looks_again_before_it_judges(alive: Path) -> None:
    lease = Lease(alive, 60)
    assert not lease.expired(0.25)
    assert not lease.expired(8 * HOUR), "it knows nothing of the time that it did not see"
    set_clock(alive, 0)
    assert not lease.expired(0.25)
    assert lease.silent == 0
    looks = [lease.expired(0.25) for _ in range(240)]
    assert not any(looks)
    assert lease.expired(0.25)


def test_hours_of_sleep_count_as_one_look(alive: Path) -> None:
    lease = Lease(alive, 60)
    lease.expired(0)
    for _ in range(60):
        assert not lease.expired(8 * HOUR)
    assert lease.silent == 60 * LOOK
    assert lease.expired(8 * HOUR)


def test_a_lease_begins_with_the_first_touch(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "none", 1)
    assert not any(lease.expired(1) for _ in range(10))
