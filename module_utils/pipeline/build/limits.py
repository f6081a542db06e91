"""The parallelism of a builder, planned from its processors and memory.

The memory of one process is measured on the real upstream (docs/benchmarks.md): ``RUSTC`` for a rustc of any crate but
the largest, ``LARGEST`` for the largest one, which runs alone at the end of the graph, ``NVCC`` for a kernel of
flash-attn. ``REST`` is reserved for the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..base.records import Parallel

GIB = 1 << 30
RUSTC, LARGEST, NVCC, REST = 1 * GIB, 5 * GIB, 5 * GIB, 1 * GIB
_CGROUPS = Path("/sys/fs/cgroup")


def planned(processors: int, memory: int, *, cuda: bool, jobs: int = 0, low_memory: bool = False) -> Parallel:
    """The plan for a host. ``jobs`` above 0 is the operator's number; ``low_memory`` runs one process at a time.

    A plan may exceed ``memory`` (bytes): with one process of each kind, or with the operator's ``jobs``. The check
    reports that before anything is compiled.
    """
    room = memory - REST
    if low_memory:
        jobs, nvcc = 1, 1
    else:
        # As many rustc as fit beside one nvcc, up to the processors; then as many nvcc as fit beside them.
        fitting = [n for n in range(1, processors + 1) if needed(n, int(cuda)) <= room]
        jobs = jobs or max(fitting, default=1)
        nvcc = max([n for n in range(1, jobs + 1) if needed(jobs, n) <= room], default=1)
    nvcc *= cuda
    return Parallel(jobs, nvcc, needed(jobs, nvcc))


def needed(jobs: int, nvcc: int) -> int:
    """The peak memory in bytes of these processes.

    While nvcc runs, the build script that called it occupies one of cargo's jobs.
    """
    rustc = LARGEST + (jobs - 1) * RUSTC
    beside = LARGEST + (jobs - 2) * RUSTC if jobs > 1 else 0
    return max(rustc, beside + nvcc * NVCC)


def host_memory() -> int:
    """This host's memory in bytes, or the lower limit of a control group of this process (a service, a runner)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_limits(_CGROUPS, Path("/proc/self/cgroup").read_text())])


def _limits(top: Path, cgroup: str) -> Iterator[int]:
    """The limits in bytes of a control group, version 2, and of its parents."""
    own = next((line[3:].strip("/") for line in cgroup.splitlines() if line.startswith("0::")), "")
    for folder in (top / own, *(top / own).parents):
        if folder.is_relative_to(top):
            with suppress(OSError, ValueError):
                yield int((folder / "memory.max").read_text())


def of_this_host(*, cuda: bool = True, jobs: int = 0, low_memory: bool = False) -> Parallel:
    return planned(len(os.sched_getaffinity(0)), host_memory(), cuda=cuda, jobs=jobs, low_memory=low_memory)
