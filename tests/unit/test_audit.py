"""The audit's judgement, as a table over the content and the output of a binary."""

from __future__ import annotations

import dataclasses

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.findings import Finding, refuse, table
from pipeline.base.records import Artifact, Flavour, Source
from pipeline.package.audit import Binary, TrialRun, allowed_libraries, baseline, features, judge

SOURCE = Source("file:///u", "v0.9.2", "tag", "c" * 40, 1_787_000_000, "0.9.2", "0.9.2")
ADA = Flavour("ada", "RTX 40", "8.9", "13.0", ("cuda", "cudnn", "flash-attn", "nccl"), 580)
BLACKWELL = Flavour("blackwell", "RTX 50", "12.0", "13.2", ("cuda",), 580)
CPU = Flavour("cpu", "any", published=False)
GOOD = Binary(
    frozenset({"sm_89"}),
    frozenset({"sm_89"}),
    frozenset({"libc.so.6", "libcuda.so.1", "libcudart.so.13", "libcudnn.so.9", "libnccl.so.2"}),
    frozenset(),
    flash_attention=True,
)
# As upstream's doctor reports it.
BUILD = {"cuda": True, "metal": False, "cudnn": True, "flash_attn": True, "mkl": False, "git_revision": "c" * 40}
TRIAL = TrialRun("mistralrs 0.9.2", BUILD, "")


def artifact(flavour: Flavour = ADA, rustflags: str = "-C target-cpu=x86-64", size: int = 1) -> Artifact:
    return Artifact(
        SOURCE, flavour, "1" * 64, "/a", "mistralrs", "0.9.2", "5" * 64, size, "1.95.0", "13.0", rustflags,
        locked=True, seconds=1.0, compiled=1, fresh=0, log="/l",
    )  # fmt: skip


def wrong(art: Artifact, binary: Binary, trial: TrialRun = TRIAL) -> set[str]:
    return {finding.check for finding in judge(art, binary, trial) if not finding.fits}


def warned(
    art: Artifact, binary: Binary = GOOD, trial: TrialRun = TRIAL, before: Artifact | None = None
) -> list[Finding]:
    return [finding for finding in judge(art, binary, trial, before=before) if finding.warning]


def test_a_good_binary_passes():
    assert wrong(artifact(), GOOD) == set()


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"ptx": frozenset({"sm_86"})}, {"PTX"}),
        ({"ptx": frozenset({"sm_86", "sm_89"})}, {"PTX"}),
        ({"sass": frozenset({"sm_120a"})}, {"SASS"}),
        ({"ptx": frozenset(), "sass": frozenset()}, {"GPU code"}),
        ({"paths": frozenset({"/opt/cuda/lib64"})}, {"RPATH"}),
        ({"needed": GOOD.needed | {"libssl.so.3"}}, {"needed libraries"}),
        ({"weak": frozenset({"executable stack"})}, {"hardening"}),
        ({"isa": frozenset({"x86-64-baseline", "x86-64-v3"})}, {"ELF note of the ISA"}),
    ],
)
def test_each_fault_fails_one_check(change, check):
    assert wrong(artifact(), dataclasses.replace(GOOD, **change)) == check


def test_a_native_cpu_in_rustflags_fails():
    assert wrong(artifact(rustflags="-C target-cpu=native"), GOOD) == {"rustc's flags"}


def test_a_build_script_that_printed_a_native_cpu_fails():
    (finding,) = [f for f in judge(artifact(), GOOD, TRIAL, native=["onig_sys-1"]) if not f.fits]
    assert (finding.check, finding.found) == ("C compilers' flags", "onig_sys-1")


@pytest.mark.parametrize("version", ["mistralrs 0.9.1", "does not start: libcuda.so.1", ""])
def test_another_version_or_none_fails(version):
    assert wrong(artifact(), GOOD, dataclasses.replace(TRIAL, version=version)) == {"version"}


@pytest.mark.parametrize(("reported", "found"), [("c" * 40, set()), ("c" * 12, set()), ("unknown", set()),
                                             ("", set()), ("d" * 40, {"commit"})])  # fmt: skip
def test_another_commit_fails_and_none_fits(reported, found):
    assert wrong(artifact(), GOOD, dataclasses.replace(TRIAL, build=BUILD | {"git_revision": reported})) == found


@pytest.mark.parametrize(
    ("rustflags", "level"),
    [
        ("-C target-cpu=x86-64", "x86-64"),
        ("-C target-cpu=native -C target-cpu=x86-64-v3", "x86-64-v3"),
        ("-C target-cpu=generic", "x86-64"),
        ("", "x86-64"),
        ("-C target-cpu=znver4", ""),
    ],
)
def test_the_baseline_is_rustcs_target_cpu(rustflags, level):
    assert baseline(rustflags) == level


def test_a_note_within_the_baseline_passes():
    binary = dataclasses.replace(GOOD, isa=frozenset({"x86-64-baseline", "x86-64-v2"}))
    assert wrong(artifact(rustflags="-C target-cpu=x86-64-v2"), binary) == set()
    assert wrong(artifact(rustflags="-C target-cpu=znver4"), binary) == set()


def test_a_crash_on_the_baseline_fails_and_a_missing_emulator_is_a_warning():
    crashed = dataclasses.replace(TRIAL, fault="--help ends with an illegal instruction")
    assert wrong(artifact(), GOOD, crashed) == {"baseline CPU"}
    (finding,) = warned(artifact(), trial=dataclasses.replace(TRIAL, fault=None))
    assert (finding.check, finding.found) == ("baseline CPU", "not tried: qemu-user is not installed")
    assert warned(artifact(rustflags="-C target-cpu=znver4"), trial=dataclasses.replace(TRIAL, fault=None)) == []


@pytest.mark.parametrize(
    ("binary", "build", "wrong_features"),
    [
        ({}, {}, ""),
        ({"flash_attention": False}, {}, "flash-attn missing"),
        ({"needed": GOOD.needed - {"libnccl.so.2"}}, BUILD, "nccl missing"),
        ({"needed": GOOD.needed - {"libcudnn.so.9"}}, BUILD, ""),
        ({}, BUILD | {"cudnn": False, "mkl": True}, "cudnn missing, mkl not asked for"),
        ({"needed": frozenset(), "flash_attention": False}, {"features": ["cuda", "cudnn", "flash-attn", "nccl"]}, ""),
        ({}, {"features": ["cuda", "cudnn", "nccl", "ring"]}, "flash-attn missing, ring not asked for"),
    ],
)
def test_the_features_are_those_the_program_reports_else_those_it_contains(binary, build, wrong_features):
    findings = judge(artifact(), dataclasses.replace(GOOD, **binary), dataclasses.replace(TRIAL, build=build))
    assert [f.found for f in findings if f.check == "features" and not f.fits] == (
        [wrong_features] if wrong_features else []
    )


def test_a_flavour_without_a_gpu_has_no_feature_of_one():
    assert not any(features(Binary(frozenset(), frozenset(), frozenset({"libc.so.6"}), frozenset()), {}).values())


@pytest.mark.parametrize(("size", "far"), [(76, False), (125, False), (74, True), (126, True)])
def test_a_size_far_from_the_last_builds_is_a_warning(size, far):
    warnings = warned(artifact(size=size), before=artifact(size=100))
    assert [f.check for f in warnings] == (["size"] if far else [])
    assert all(f.fits for f in warnings)


def test_a_path_of_the_builder_is_a_warning_that_the_table_shows():
    warnings = warned(artifact(), dataclasses.replace(GOOD, leaks=3))
    assert [f.found for f in warnings] == ["3 in the binary"]
    assert "make reproduce" in table(warnings)[1]


def test_architectures_from_90_on_carry_upstreams_suffix():
    binary = Binary(frozenset({"sm_120a"}), frozenset(), frozenset({"libcuda.so.1"}), frozenset())
    assert wrong(artifact(BLACKWELL), binary, dataclasses.replace(TRIAL, build={})) == set()


def test_a_flavour_without_a_gpu_has_no_gpu_code_and_no_cuda():
    assert wrong(artifact(CPU), GOOD) == {"PTX", "SASS", "needed libraries", "features"}


def test_libraries_follow_the_features():
    assert "libcudnn.so.9" in allowed_libraries(ADA)
    assert "libcudnn.so.9" not in allowed_libraries(BLACKWELL)


def test_the_error_names_the_finding_and_its_remedy():
    binary = dataclasses.replace(GOOD, ptx=frozenset({"sm_120a"}))
    with pytest.raises(PipelineError) as caught:
        refuse(judge(artifact(), binary, TRIAL), "no", "/a/mistralrs", "stop")
    assert "PTX: found sm_120a, needed sm_89. Kernels of another GPU: delete target/ on" in str(caught.value)
