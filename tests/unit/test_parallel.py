"""The parallelism of a builder."""

from __future__ import annotations

import pytest
from pipeline.build.limits import GIB, LARGEST, NVCC, REST, RUSTC, needed, planned, tasks_needed


@pytest.mark.parametrize(("processors", "gib"), [(2, 16), (2, 24), (8, 32), (16, 64), (32, 128), (128, 512), (64, 24)])
@pytest.mark.parametrize("cuda", [False, True])
def test_a_plan_fits_the_host(processors, gib, cuda):
    plan = planned(processors, gib * GIB, cuda=cuda)
    assert plan.memory + REST <= gib * GIB
    assert 1 <= plan.jobs <= processors
    assert plan.memory == needed(plan.jobs, plan.nvcc)
    assert (plan.nvcc > 0) == cuda


def test_a_host_with_enough_memory_uses_all_processors():
    assert planned(16, 256 * GIB, cuda=True).jobs == 16
    assert planned(16, 256 * GIB, cuda=True).nvcc == 16
    assert planned(16, 64 * GIB, cuda=False).jobs == 16


def test_memory_limits_the_kernels_first():
    plan = planned(16, 48 * GIB, cuda=True)
    assert plan.jobs == 16
    assert needed(16, plan.nvcc) <= 48 * GIB - REST < needed(16, plan.nvcc + 1)


def test_low_memory_runs_one_process_at_a_time():
    plan = planned(64, 512 * GIB, cuda=True, jobs=9, low_memory=True)
    assert (plan.jobs, plan.nvcc, plan.memory) == (1, 1, max(LARGEST, NVCC))


def test_the_operators_jobs_are_kept_even_beyond_the_memory():
    plan = planned(4, 16 * GIB, cuda=False, jobs=32)
    assert plan.jobs == 32
    assert plan.memory == LARGEST + 31 * RUSTC


def test_a_limit_of_processes_limits_the_jobs():
    wide = planned(16, 256 * GIB, cuda=True)
    plan = planned(16, 256 * GIB, cuda=True, tasks=400)
    assert 1 <= plan.jobs < wide.jobs
    assert tasks_needed(plan.jobs, plan.nvcc) <= 400 < tasks_needed(plan.jobs + 1, plan.nvcc)
    assert planned(16, 256 * GIB, cuda=False, tasks=10).jobs == 1, "the check refuses that"


def test_a_host_that_is_too_small_gets_one_process_of_each_kind():
    plan = planned(8, 4 * GIB, cuda=True)
    assert (plan.jobs, plan.nvcc) == (1, 1)
    assert plan.memory > 4 * GIB
