"""The parallelism of a builder."""

from __future__ import annotations

import pytest
from pipeline.build.limits import GIB, LARGEST, NVCC, REST, RUSTC, _limits, needed, planned


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


def test_the_memory_limit_of_a_service_counts(tmp_path):
    (tmp_path / "system.slice/runner.service").mkdir(parents=True)
    (tmp_path / "system.slice/memory.max").write_text("max\n")
    (tmp_path / "system.slice/runner.service/memory.max").write_text("8589934592\n")
    assert list(_limits(tmp_path, "0::/system.slice/runner.service\n")) == [8 * GIB]
    assert list(_limits(tmp_path, "0::/system.slice\n")) == []
    assert list(_limits(tmp_path, "12:memory:/user\n")) == []


def test_a_host_that_is_too_small_gets_one_process_of_each_kind():
    plan = planned(8, 4 * GIB, cuda=True)
    assert (plan.jobs, plan.nvcc) == (1, 1)
    assert plan.memory > 4 * GIB
