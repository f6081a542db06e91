"""The parallelism of a builder, planned from what the host and this process's control groups give to a build.

The memory of one process is measured on the real upstream (docs/benchmarks.md): ``RUSTC`` for a rustc of any crate but
the largest, ``LARGEST`` for the largest one, which runs alone at the end of the graph, ``NVCC`` for a kernel of
flash-attn. ``REST`` is reserved for the host.

A *task* is a process or a thread: both count against ``pids.max`` and RLIMIT_NPROC. Each job of cargo starts sccache,
rustc with its threads, and a linker with one thread for each processor, up to 16; beside them run cargo, the cache's
server and this project. A build of the stand-in with two jobs on two processors has 64 tasks, planned are 148.
"""

from __future__ import annotations

import math
import os
import re
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..base.records import Parallel
from ..report.report_data import Machine

GIB = 1 << 30
RUSTC, LARGEST, NVCC, REST = 1 * GIB, 5 * GIB, 5 * GIB, 1 * GIB
TASKS, TASKS_OF_A_JOB, TASKS_OF_NVCC = 64, 32, 10
UNLIMITED = 1 << 40


@dataclass(frozen=True)
class Bound:
    """How much a build may use, and which limit decides that: ``source`` is "" for the host itself."""

    amount: int
    source: str = ""

    @property
    def by(self) -> str:
        """The limit as part of a message: " (memory.max of /system.slice/runner.service)", or ""."""
        return f" ({self.source})" if self.source else ""


@dataclass(frozen=True)
class Host:
    """What a build may use here: ``processors``, ``memory`` in bytes, and the ``tasks`` that can still be started.

    ``free`` is the memory that new programs can use now without swapping. ``online`` counts the processors that this
    process may run on, whatever its quota.
    """

    processors: Bound
    memory: Bound
    free: Bound
    tasks: Bound
    online: int


# ---------------------------------------------------------------- the plan


def planned(
    processors: int, memory: int, *, cuda: bool, tasks: int = UNLIMITED, jobs: int = 0, low_memory: bool = False
) -> Parallel:
    """The plan for a host. ``jobs`` above 0 is the operator's number; ``low_memory`` runs one process at a time.

    A plan may exceed ``memory`` (bytes) and ``tasks``: with one process of each kind, or with the operator's ``jobs``.
    The check reports that before anything is compiled.
    """

    def fits(jobs: int, nvcc: int) -> bool:
        return needed(jobs, nvcc) <= memory - REST and tasks_needed(jobs, nvcc) <= tasks

    if low_memory:
        jobs, nvcc = 1, 1
    else:
        # As many rustc as fit beside one nvcc, up to the processors; then as many nvcc as fit beside them.
        fitting = [n for n in range(1, processors + 1) if fits(n, int(cuda))]
        jobs = jobs or max(fitting, default=1)
        nvcc = max([n for n in range(1, jobs + 1) if fits(jobs, n)], default=1)
    nvcc *= cuda
    return Parallel(jobs, nvcc, needed(jobs, nvcc))


def needed(jobs: int, nvcc: int) -> int:
    """The peak memory in bytes of these processes.

    While nvcc runs, the build script that called it occupies one of cargo's jobs.
    """
    rustc = LARGEST + (jobs - 1) * RUSTC
    beside = LARGEST + (jobs - 2) * RUSTC if jobs > 1 else 0
    return max(rustc, beside + nvcc * NVCC)


def tasks_needed(jobs: int, nvcc: int) -> int:
    """The most tasks at a time of a build with this plan."""
    return TASKS + jobs * TASKS_OF_A_JOB + nvcc * TASKS_OF_NVCC


def of_this_host(*, cuda: bool = True, jobs: int = 0, low_memory: bool = False, host: Host | None = None) -> Parallel:
    host = host or this_host()
    return planned(
        host.processors.amount, host.memory.amount, tasks=host.tasks.amount, cuda=cuda, jobs=jobs, low_memory=low_memory
    )


# ---------------------------------------------------------------- the host


def this_host(root: Path = Path("/")) -> Host:
    """What this process may use. ``root`` is the folder with ``proc`` and ``sys``, and / but for tests.

    A quota of processors is rounded down, to one at least, as Rust's ``available_parallelism`` does: cargo's own
    programs count in the same way.
    """
    groups = control_groups(root)
    online = len(os.sched_getaffinity(0))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    return Host(
        processors=_least([Bound(online), *_quotas(groups)]),
        memory=_least([Bound(total), *_memory_limits(groups)]),
        free=_least([Bound(int(free[1]) * 1024 if free else total), *_free_memory(groups)]),
        tasks=_least([Bound(UNLIMITED), *_free_tasks(groups), *_account_tasks(root)]),
        online=online,
    )


def machine() -> Machine:
    """This host for a report."""
    host = this_host()
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    limits = tuple(bound.source for bound in (host.processors, host.memory) if bound.source)
    return Machine(os.uname().nodename, model[1] if model else "", host.processors.amount, host.memory.amount, limits)


def _least(bounds: list[Bound]) -> Bound:
    return min(bounds, key=lambda bound: bound.amount)


@dataclass(frozen=True)
class Group:
    """A control group of this process, or one above it: ``name`` is its path, ``folder`` its files.

    ``controller`` is that of version 1 ("cpu"), and "" in version 2, where one group has all.
    """

    controller: str
    name: str
    folder: Path

    def number(self, file: str) -> int | None:
        """The number in a file; None without the file, and for "max"."""
        with suppress(OSError, ValueError):
            return int((self.folder / file).read_text())
        return None

    def row(self, file: str, name: str) -> int | None:
        """The number in a row of a file; None where it is missing."""
        return counted(self.folder / file, name)

    def of(self, file: str) -> str:
        return f"{file} of {self.name}"


def counted(path: Path, name: str) -> int | None:
    """The number in a row "name number" of a file of the kernel; None where it is missing."""
    with suppress(OSError):
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
        return int(found[1]) if found else None
    return None


def control_groups(root: Path) -> list[Group]:
    """The control groups of this process and those above them, as far as they are mounted (cgroups(7))."""
    own: dict[str, str] = {}
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    found: list[Group] = []
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        shown, place = (_unescaped(word) for word in left.split()[3:5])
        for controller in [""] if kind == "cgroup2" else options.split(","):
            if controller in own:
                found += _upwards(root / place.lstrip("/"), shown, controller, own[controller])
    return found


def _upwards(top: Path, shown: str, controller: str, own: str) -> Iterator[Group]:
    """The group ``own`` below a mount of ``shown``, and those above it. A container may see only the top."""
    path = Path(own)
    inside = path.relative_to(shown) if path.is_relative_to(shown) else Path()
    for folder in (inside, *inside.parents):
        yield Group(controller, str(Path(shown) / folder), top / folder)


def _unescaped(word: str) -> str:
    r"""A path of mountinfo, where a blank is ``\040`` (proc_pid_mountinfo(5))."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), word)


def _quotas(groups: list[Group]) -> Iterator[Bound]:
    for group in groups:
        quota: float | None = None
        if group.controller == "cpu":
            time, period = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")
            quota = time / period if time and time > 0 and period else None
            file = "cpu.cfs_quota_us"
        elif not group.controller:
            with suppress(OSError, ValueError):
                first, second = (group.folder / "cpu.max").read_text().split()
                quota = int(first) / int(second)
            file = "cpu.max"
        if quota is not None:
            yield Bound(max(1, math.floor(quota)), f"{group.of(file)}: {quota:g}")


def _memory_limits(groups: list[Group]) -> Iterator[Bound]:
    """Beyond memory.high a group is slowed down until it is below again: no build ends there."""
    for group in groups:
        files = {"memory": ("memory.limit_in_bytes",), "": ("memory.max", "memory.high")}.get(group.controller, ())
        for file in files:
            if (limit := group.number(file)) is not None:
                yield Bound(limit, group.of(file))


def _free_memory(groups: list[Group]) -> Iterator[Bound]:
    """The rest of each limit. Files that the kernel holds in memory go first, and do not count."""
    for limit in groups:
        used = limit.number("memory.current" if not limit.controller else "memory.usage_in_bytes")
        cached = limit.row("memory.stat", "inactive_file" if not limit.controller else "total_inactive_file") or 0
        for bound in _memory_limits([limit]):
            if used is not None:
                yield Bound(max(0, bound.amount - max(0, used - cached)), bound.source)


def _free_tasks(groups: list[Group]) -> Iterator[Bound]:
    for group in groups:
        if group.controller in ("", "pids"):
            limit, used = group.number("pids.max"), group.number("pids.current")
            if limit is not None and used is not None:
                yield Bound(max(0, limit - used), f"{group.of('pids.max')}: {limit}, {used} in use")


def _account_tasks(root: Path) -> Iterator[Bound]:
    """The rest of the account's RLIMIT_NPROC (getrlimit(2)), which does not hold for root."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:
        return
    used = 0
    for path in (root / "proc").glob("[0-9]*/status"):
        with suppress(OSError):
            text = path.read_text(errors="replace")
            row = re.search(rf"^Uid:\s+{os.getuid()}\s.*^Threads:\s+(\d+)", text, re.MULTILINE | re.DOTALL)
            used += int(row[1]) if row else 0
    yield Bound(max(0, limit - used), f"this account's ulimit -u: {limit}, {used} in use")
