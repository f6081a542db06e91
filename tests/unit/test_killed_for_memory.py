"""How many processes the kernel killed for lack of memory: the counters of control groups and of the host."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.base.text import ended
from pipeline.build.processes import killed_for_memory

EVENTS = "low 0\nhigh 3\nmax 12\noom 4\noom_kill {}\noom_group_kill 0\n"
MOUNTS = (
    "20 1 8:1 / / rw - ext4 /dev/sda rw\n"
    "31 20 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 20 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
)


@pytest.mark.parametrize(
    ("group", "files", "killed"),
    [
        ("0::/user.slice/x.service\n", {"user.slice/x.service/memory.events": EVENTS.format(2)}, 2),
        # In a container the group's own folder is the top.
        ("0::/\n", {"memory.events": EVENTS.format(1)}, 1),
        ("0::/docker/x\n", {"memory.events": EVENTS.format(1)}, 1),
        ("4:memory:/docker/x\n", {"memory/memory.oom_control": "under_oom 0\noom_kill 3\n"}, 3),
        ("0::/\n", {}, 7),
        (
            "12:cpu:/x\n4:memory:/docker/x\n0::/\n",
            {"memory/docker/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"},
            3,
        ),
        # Before Linux 4.13 there is no such row.
        ("4:memory:/\n", {"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, 7),
        ("0::/x\n", {"x/memory.events": "oom_kill many\n"}, 7),
    ],
)
def test_the_nearest_counter_counts(tmp_path: Path, group: str, files: dict[str, str], killed: int) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "sys/fs/cgroup"
    for path, text in {
        proc / "self/cgroup": group,
        proc / "self/mountinfo": MOUNTS,
        proc / "vmstat": "pgfault 9\noom_kill 7\n",
        **{cgroups / name: text for name, text in files.items()},
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert killed_for_memory(tmp_path) == killed


def test_a_kernel_that_does_not_count_is_no_evidence(tmp_path: Path) -> None:
    assert killed_for_memory(tmp_path) is None


def test_this_host_counts() -> None:
    found = killed_for_memory()
    assert found is None or found >= 0


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "status 0"),
        (137, "status 137"),
        (-9, "signal 9 (SIGKILL)"),
        (-11, "signal 11 (SIGSEGV)"),
        (-99, "signal 99"),
    ],
)
def test_a_status_names_its_signal(status: int, text: str) -> None:
    assert ended(status) == text
