"""What a build may use: the limits of control groups of both versions, of their parents, and of the account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline.build.failures import explain
from pipeline.build.limits import GIB, Bound, Host, of_this_host, planned, tasks_needed, this_host
from pipeline.check import builder

PIPELINE = Path(__file__).resolve().parents[2] / "module_utils"
MEMINFO = "MemTotal:       65536000 kB\nMemAvailable:   41943040 kB\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "".join(
    f"3{number} 31 0:3{number} / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n"
    for number, name in enumerate(("cpu,cpuacct", "memory", "pids"))
)
NONE_V1 = "9223372036854771712\n"
SERVICE = "system.slice/runner.service"


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 processors and 64 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16 << 20}[name])


def tree(root: Path, mounts: str, own: str, files: dict[str, str]) -> Path:
    """A root with these mounts, the process's groups, and the groups' files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO)
    (root / "proc/self/mountinfo").write_text("20 1 8:1 / / rw - ext4 /dev/sda rw\n" + mounts)
    (root / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def found(host: Host) -> dict[str, tuple[int, str]]:
    bounds = {"processors": host.processors, "memory": host.memory, "free": host.free, "tasks": host.tasks}
    return {name: (bound.amount, bound.source) for name, bound in bounds.items() if bound.source}


def test_a_host_without_limits_has_what_the_machine_has(tmp_path: Path) -> None:
    host = this_host(tree(tmp_path, V2, "0::/\n", {}))
    assert (host.processors.amount, host.memory.amount, host.free.amount) == (8, 64 * GIB, 40 * GIB)
    assert found(host) == {}
    assert builder.check_tasks(of_this_host(host=host), host.tasks).found == "no limit"
    assert builder.check_processors(host).found == "8"


def test_limits_of_version_2_and_of_the_groups_above(tmp_path: Path) -> None:
    files = {
        f"{SERVICE}/cpu.max": "max 100000\n",
        f"{SERVICE}/memory.max": "max\n",
        f"{SERVICE}/memory.high": str(8 * GIB),
        f"{SERVICE}/memory.current": str(5 * GIB),
        f"{SERVICE}/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\n",
        f"{SERVICE}/pids.max": "max\n",
        f"{SERVICE}/pids.current": "7\n",
        "system.slice/cpu.max": "250000 100000\n",
        "system.slice/memory.max": str(16 * GIB),
        "system.slice/pids.max": "500\n",
        "system.slice/pids.current": "120\n",
    }
    assert found(this_host(tree(tmp_path, V2, f"0::/{SERVICE}\n", files))) == {
        "processors": (2, "cpu.max of /system.slice: 2.5"),
        "memory": (8 * GIB, f"memory.high of /{SERVICE}"),
        "free": (5 * GIB, f"memory.high of /{SERVICE}"),
        "tasks": (380, "pids.max of /system.slice: 500, 120 in use"),
    }


def test_limits_of_version_1_and_of_the_groups_above(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/user/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/user/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "memory/user/a b/memory.limit_in_bytes": NONE_V1,
        "memory/user/memory.limit_in_bytes": str(12 * GIB),
        "memory/user/memory.usage_in_bytes": str(4 * GIB),
        "memory/user/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
        "pids/pids.max": "1000\n",
        "pids/pids.current": "400\n",
    }
    own = "8:pids:/\n4:memory:/user/a b\n1:cpu,cpuacct:/user\n0::/user\n"
    assert found(this_host(tree(tmp_path, V1, own, files))) == {
        "processors": (4, "cpu.cfs_quota_us of /: 4"),
        "memory": (12 * GIB, "memory.limit_in_bytes of /user"),
        "free": (9 * GIB, "memory.limit_in_bytes of /user"),
        "tasks": (600, "pids.max of /: 1000, 400 in use"),
    }


def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path) -> None:
    """Without a namespace for control groups, the process's path is the host's, and the mount shows its end."""
    mounts = V2.replace(" / /sys", " /docker/ab\\040c /sys")
    files = {"memory.max": str(4 * GIB), "cpu.max": "50000 100000\n"}
    host = this_host(tree(tmp_path, mounts, "0::/docker/ab c\n", files))
    assert host.memory == Bound(4 * GIB, "memory.max of /docker/ab c")
    assert host.processors == Bound(1, "cpu.max of /docker/ab c: 0.5"), "half a processor builds too"


def test_an_account_has_a_limit_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path, "", "0::/\n", {})
    for pid, (uid, threads) in enumerate([(7, 40), (8, 500), (7, 2)]):
        (root / f"proc/{pid}").mkdir()
        (root / f"proc/{pid}/status").write_text(f"Name:\tx\nUid:\t{uid}\t{uid}\nThreads:\t{threads}\n")
    monkeypatch.setattr("resource.getrlimit", lambda _: (100, 100))
    monkeypatch.setattr(os, "getuid", lambda: 7)
    assert this_host(root).tasks == Bound(58, "this account's ulimit -u: 100, 42 in use")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert this_host(root).tasks.source == ""


def test_a_plan_keeps_to_the_limits(tmp_path: Path) -> None:
    files = {"cpu.max": "300000 100000\n", "memory.max": str(14 * GIB), "pids.max": "260\n", "pids.current": "10\n"}
    host = this_host(tree(tmp_path, V2, "0::/\n", files))
    plan = of_this_host(cuda=True, host=host)
    assert (plan.jobs, plan.nvcc) == (3, 1)
    assert plan.memory <= 13 * GIB
    assert all(
        finding.fits
        for finding in (
            builder.check_memory(plan, host.memory, plan, heavy=True),
            builder.check_tasks(plan, host.tasks),
            builder.check_processors(host),
        )
    )
    assert builder.check_processors(host).found == "3 of 8 (cpu.max of /: 3)"


def test_a_check_names_the_limit_that_is_too_low() -> None:
    low, plan = Bound(3 * GIB, "memory.max of /docker/a"), planned(8, 3 * GIB, cuda=True)
    finding = builder.check_memory(plan, low, plan, heavy=True)
    assert not finding.fits
    assert finding.found == "3.0 GiB (memory.max of /docker/a)"
    assert "Raise memory.max of /docker/a: even -e low_memory=true takes 6 GiB" in finding.remedy
    few = Bound(90, "pids.max of /docker/a: 100, 10 in use")
    finding = builder.check_tasks(planned(8, 64 * GIB, cuda=True, tasks=90), few)
    assert (finding.fits, finding.found) == (False, "90 can be started (pids.max of /docker/a: 100, 10 in use)")
    assert finding.needed == f"{tasks_needed(1, 1)} for 1 jobs, 1 nvcc"
    assert finding.remedy.startswith("Raise pids.max of /docker/a")
    assert "-e jobs" not in finding.remedy, "fewer jobs do not help"
    many = builder.check_tasks(planned(8, 64 * GIB, cuda=True, tasks=200, jobs=8), Bound(200, "pids.max of /"))
    assert "or set -e jobs=N to fewer than 8" in many.remedy


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: can't start new thread",
        "thread 'main' panicked at 'failed to spawn thread: Os { code: 11, kind: WouldBlock }'",
        "could not execute process `rustc`: fork failed: Resource temporarily unavailable (os error 11)",
        "/bin/sh: 1: Cannot fork: fork: Resource temporarily unavailable",
    ],
)
def test_a_build_without_room_for_a_process_names_the_cause(line: str) -> None:
    failure = explain([f"error: {line}"])
    assert "no further process or thread could be started: a limit of" in failure.cause
    assert "make doctor names the limit" in failure.remedy


@pytest.fixture
def groups() -> Iterator[list[Path]]:
    """A real control group for each controller, of the version that this machine has."""
    name, top = f"mistralrs-rpm-{uuid.uuid4().hex[:8]}", Path("/sys/fs/cgroup")
    if os.geteuid() or not os.access(top, os.W_OK):
        pytest.skip("control groups are made by root, where their tree is writable")
    made = (
        [top / name] if (top / "cgroup.controllers").exists() else [top / c / name for c in ("cpu", "memory", "pids")]
    )
    for folder in made:
        folder.mkdir()
    yield made
    for folder in made:
        folder.rmdir()


def test_real_control_groups(groups: list[Path]) -> None:
    one = len(groups) == 1
    limits = (
        {"cpu.max": "100000 100000", "memory.max": str(2 * GIB), "pids.max": "60"}
        if one
        else {"cpu.cfs_quota_us": "100000", "memory.limit_in_bytes": str(2 * GIB), "pids.max": "60"}
    )
    for folder, (file, value) in zip(groups * (3 if one else 1), limits.items(), strict=True):
        (folder / file).write_text(value)
    enter = "".join(f"echo $$ > {folder}/cgroup.procs; " for folder in groups)
    program = (
        "import dataclasses, json, sys; sys.path.insert(0, sys.argv[1]); from pipeline.build import limits; "
        "print(json.dumps(dataclasses.asdict(limits.this_host())))"
    )
    words = ["sh", "-c", f'{enter} exec "$@"', "sh", sys.executable, "-c", program, str(PIPELINE)]
    host = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert host["processors"]["amount"] == 1
    assert host["memory"]["amount"] == 2 * GIB
    assert 0 < host["tasks"]["amount"] < 60
    assert all(groups[0].name in host[name]["source"] for name in ("memory", "tasks"))
