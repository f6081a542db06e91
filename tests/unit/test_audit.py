"""The audit's judgement, as a table over what a binary may hold."""

from __future__ import annotations

import dataclasses

import pytest
from pipeline.audit import Binary, allowed_libraries, judge
from pipeline.environment import refuse
from pipeline.errors import PipelineError
from pipeline.records import Artifact, Flavour, Source

SOURCE = Source("file:///u", "v0.9.2", "tag", "c" * 40, 1_787_000_000, "0.9.2", "0.9.2")
ADA = Flavour("ada", "RTX 40", "8.9", "13.0", ("cuda", "cudnn", "flash-attn", "nccl"), 580)
BLACKWELL = Flavour("blackwell", "RTX 50", "12.0", "13.2", ("cuda",), 580)
CPU = Flavour("cpu", "any", published=False)
GOOD = Binary(
    frozenset({"sm_89"}),
    frozenset({"sm_89"}),
    frozenset({"libc.so.6", "libcuda.so.1", "libcudart.so.13"}),
    frozenset(),
)


def artifact(flavour: Flavour = ADA, rustflags: str = "-C target-cpu=x86-64") -> Artifact:
    return Artifact(
        SOURCE, flavour, "i" * 64, "/a", "mistralrs", "0.9.2", "s" * 64, 1, "1.95.0", "13.0", rustflags,
        locked=True, seconds=1.0, compiled=1, fresh=0, log="/l",
    )  # fmt: skip


def wrong(art: Artifact, binary: Binary, said: str = "mistralrs 0.9.2") -> set[str]:
    return {finding.check for finding in judge(art, binary, said) if not finding.fits}


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
        ({"needed": frozenset({"libc.so.6", "libssl.so.3"})}, {"needed libraries"}),
    ],
)
def test_each_fault_is_found_and_nothing_else(change, check):
    assert wrong(artifact(), dataclasses.replace(GOOD, **change)) == check


def test_a_native_cpu_in_effect_is_found():
    assert wrong(artifact(rustflags="-C target-cpu=native"), GOOD) == {"rustc's flags"}


@pytest.mark.parametrize("said", ["mistralrs 0.9.1", "does not start: libcuda.so.1", ""])
def test_another_version_or_none_is_found(said):
    assert wrong(artifact(), GOOD, said) == {"version"}


def test_architectures_from_90_on_carry_upstreams_suffix():
    binary = dataclasses.replace(GOOD, ptx=frozenset({"sm_120a"}), sass=frozenset())
    assert wrong(artifact(BLACKWELL), binary) == set()


def test_a_flavour_without_a_gpu_holds_no_gpu_code_and_no_cuda():
    assert wrong(artifact(CPU), GOOD) == {"PTX", "SASS", "needed libraries"}


def test_libraries_follow_the_features():
    assert "libcudnn.so.9" in allowed_libraries(ADA)
    assert "libcudnn.so.9" not in allowed_libraries(BLACKWELL)


def test_the_refusal_names_what_was_found_and_what_to_do():
    binary = dataclasses.replace(GOOD, ptx=frozenset({"sm_120a"}))
    with pytest.raises(PipelineError) as caught:
        refuse(judge(artifact(), binary, "mistralrs 0.9.2"), "no", "/a/mistralrs", "stop")
    assert "PTX: found sm_120a, needed sm_89. Kernels of another GPU: delete target/ada" in str(caught.value)
