"""The builder's checks of the host itself, as tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.base import findings
from pipeline.base.errors import PipelineError
from pipeline.base.findings import Finding
from pipeline.build.limits import Bound, planned
from pipeline.check import builder
from pipeline.check.builder import GIB


@pytest.mark.parametrize(
    ("found", "needed", "fits"),
    [
        ("1.95.0", "1.88", True),
        ("1.88.0", "1.94", False),
        ("1.95.0", "", True),
        ("", "1.88", False),
        ("", "", False),
    ],
)
def test_rustc_against_the_tags_rust_version(found, needed, fits):
    finding = builder.check_rust(found, needed)
    assert (finding.fits, bool(finding.remedy)) == (fits, not fits)


@pytest.mark.parametrize(
    ("flags", "fits"),
    [("-C target-cpu=x86-64", True), ("-C target-cpu=native", False), ("-Ctarget-cpu=native", False)],
)
def test_a_native_cpu_is_refused(flags, fits):
    assert builder.check_rustflags(flags).fits is fits


def test_space_is_checked_where_the_folder_will_be(tmp_path):
    assert builder.free_bytes(tmp_path / "not" / "yet") > 0
    finding = builder.check_space(5 * GIB, 20, tmp_path)
    assert not finding.fits
    assert finding.found == "5.0 GiB free"


def memory(gib: int, *, jobs: int = 0, low_memory: bool = False, heavy: bool = True) -> Finding:
    """The memory check of a host with 8 processors."""
    plan = planned(8, gib * GIB, cuda=True, jobs=jobs, low_memory=low_memory)
    lowest = planned(8, gib * GIB, cuda=True, low_memory=True)
    return builder.check_memory(plan, Bound(gib * GIB), lowest, heavy=heavy)


@pytest.mark.parametrize("gib", range(2, 65, 2))
def test_a_host_that_passes_has_the_planned_peak_memory(gib):
    """The doctor and the build share the plan: from 6 GiB on each host has one that fits."""
    assert memory(gib).fits is (gib >= 6)


def test_too_little_memory_names_the_variables_to_set():
    finding = memory(24, jobs=30)
    assert not finding.fits
    assert (finding.found, finding.needed) == ("24.0 GiB", "39 GiB for 30 jobs, 1 nvcc and the host")
    assert "-e jobs=N to fewer than 30" in finding.remedy
    assert "-e low_memory=true" in finding.remedy
    assert memory(24, jobs=30, low_memory=True).fits
    assert "This host is too small: even -e low_memory=true takes" in memory(4).remedy
    assert memory(4, heavy=False).fits


def test_memory_that_other_programs_hold_is_a_warning():
    plan = planned(8, 64 * GIB, cuda=True)
    finding = builder.check_memory_free(plan, Bound(plan.memory - 1), heavy=True)
    assert (finding.fits, finding.warning) == (True, True)
    assert not builder.check_memory_free(plan, Bound(plan.memory), heavy=True).warning
    assert not builder.check_memory_free(plan, Bound(0), heavy=False).warning


WRONG = [
    Finding.bad("rustc", "1.80", ">= 1.88", "Install Rust 1.88"),
    Finding.ok("gcc", "/usr/bin/gcc", "installed"),
    Finding.bad("nvcc", "none", "13.0", "Install CUDA 13.0"),
    Finding.warn("compile cache: redis", "no answer", "answers", "Check that it runs"),
]


def test_one_error_names_every_failed_check():
    with pytest.raises(PipelineError) as caught:
        findings.refuse(WRONG, "this host cannot build", "builder1", "Nothing was compiled")
    text = str(caught.value)
    assert "rustc: found 1.80, needed >= 1.88. Install Rust 1.88" in text
    assert "nvcc: found none, needed 13.0. Install CUDA 13.0" in text
    assert "gcc:" not in text
    assert "redis" not in text
    assert "Nothing was compiled" in text
    findings.refuse([WRONG[1], WRONG[3]], "this host cannot build", "builder1", "Nothing was compiled")


def test_a_warning_is_shown_as_one():
    lines = findings.table(WRONG)
    assert [line.rsplit("  ", 1)[1] for line in lines] == [
        "remedy",
        "Install Rust 1.88",
        "ok",
        "Install CUDA 13.0",
        "warning: Check that it runs",
    ]
    assert findings.summary(WRONG) == "2 of 4 checks fit, 1 warning"


@pytest.mark.parametrize("text", ["", "#!/bin/sh\nexit 3\n", "#!/nonexistent/sh\n", "no program"])
def test_an_nvcc_that_does_not_run_has_no_version(tmp_path: Path, text: str) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(text)
    assert builder.nvcc_version(str(nvcc)) == ""
    nvcc.chmod(0o755)
    assert builder.nvcc_version(str(nvcc)) == ""


def test_a_text_too_long_for_its_column_follows_below_its_line():
    long = "a package that somebody changed, " * 4 + "named at the end"
    lines = findings.table(
        [Finding.bad("bytes", long, "verified", "publish again"), Finding.ok("key", "there", "a key")]
    )
    assert lines[1].endswith("publish again")
    assert long not in lines[1]
    assert lines[2] == f"    {long}"
    assert lines[3].split() == ["key", "there", "a", "key", "ok"]
