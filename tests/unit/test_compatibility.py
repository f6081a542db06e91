"""Combinations of versions: the rules, and the project's own table."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pipeline.base.records import Flavour
from pipeline.check import compatibility
from pipeline.check.compatibility import Compatibility


@pytest.fixture(scope="session")
def facts(project: Path) -> Compatibility:
    """The project's own table, with mistral.rs as upstream."""
    data = yaml.safe_load((project / "inventory/group_vars/all/compatibility.yml").read_text())
    return Compatibility.from_dict({**data["compatibility"], **data["upstream_kinds"][data["upstream_kind"]]})


def gpu(capability: str = "8.9", cuda: str = "13.0", features: tuple[str, ...] = ("cuda",)) -> Flavour:
    return Flavour("this", "a GPU", capability, cuda, features)


@pytest.mark.parametrize(
    ("found", "needed", "fits"),
    [("13.0.88", "13.0", True), ("13.0", "13.0", True), ("13.2.86", "13.0", False), ("", "13.0", False)],
)
def test_nvcc_against_the_flavour(found, needed, fits):
    assert compatibility.check_nvcc(found, needed, "/x/nvcc" if found else "").fits is fits


@pytest.mark.parametrize(
    ("cuda", "version", "fits"),
    [
        ("13.1.115", "0.7.0", True),
        ("13.2.86", "0.7.0", False),
        ("13.2.86", "0.8.0", True),
        ("13.3", "0.8.10", False),
        ("13.3.73", "0.8.23", True),
        ("13.3", "0.9.2", True),
        ("13.4", "0.9.0-rc1", False),
        ("14.0", "0.6.0", True),  # before the first row nothing is known
    ],
)
def test_cuda_against_the_tags_limit(facts, cuda, version, fits):
    assert compatibility.check_cuda_limit(cuda, version, facts.upstream_cuda).fits is fits


OLD, NEW = "7d49e6c7e2f8896c47f586706e67e1fb215529dc", "7127592069c2fe01b041e174ba4345ef9b279671"


@pytest.mark.parametrize(
    ("gcc", "commits", "fits"),
    [
        ("15.3.0", [OLD], [False]),
        ("15.3.0", [NEW, OLD], [False]),
        ("14.2.0", [OLD], [True]),
        ("12.2.0", [OLD], [True]),
        ("15.3.0", [NEW], []),
        ("15.3.0", [], []),
        ("", [OLD], []),
    ],
)
def test_gcc_against_the_cutlass_of_the_tag(facts, gcc, commits, fits):
    """Seen: g++ 15.3 with nvcc 13.0 compiles the headers of v0.9.2's commit, and not those of v0.8.23's."""
    findings = compatibility.check_cutlass(gcc, commits, facts.cutlass)
    assert [finding.fits for finding in findings] == fits
    if False in fits:
        assert (findings[0].found, findings[0].needed) == (gcc, "<= 14")
        assert "CUTLASS 7d49e6c7e2f8, which this version of upstream uses, takes gcc up to 14" in findings[0].remedy
        assert "put an older one first on the build's PATH" in findings[0].remedy


@pytest.mark.parametrize(
    ("capability", "cuda", "fits"),
    [
        ("12.0", "13.0.88", False),
        ("12.0", "13.1.80", False),  # CUDA 13.1.0
        ("12.0", "13.1.115", True),  # CUDA 13.1.1, which is mended
        ("12.0", "13.1", True),  # the release alone is known, before the toolkit is there
        ("12.0", "13.0", False),
        ("12.0", "13.2.51", True),
        ("8.9", "13.0.48", True),
    ],
)
def test_blackwell_is_not_built_with_a_compiler_that_miscompiles_for_it(facts, capability, cuda, fits):
    finding = compatibility.check_cuda_defects(cuda, gpu(capability), facts.gpu_compilers)
    assert finding.fits is fits
    assert fits or "miscompiles for 12.0: set the flavour's cuda to one of CUDA 13.1 update 1" in finding.remedy


@pytest.mark.parametrize(
    ("gcc", "cuda", "fits"),
    [
        ("12.2.0", "13.0.88", True),
        ("15.2.1", "13.2.86", True),
        ("16.0.1", "13.2.86", False),
        ("16.0.1", "14.0.1", True),  # not in the table: a trial compile decides
        ("", "13.0.88", False),
        ("", "14.0.1", False),
    ],
)
def test_gcc_against_nvcc(facts, gcc, cuda, fits):
    finding = compatibility.check_gcc(gcc, cuda, facts.host_compilers)
    assert (finding.fits, bool(finding.remedy)) == (fits, not fits)


@pytest.mark.parametrize(
    ("glibc", "cuda", "mended", "fits"),
    [
        ("2.41", "13.0.88", False, True),
        ("2.42", "13.0.88", False, False),
        ("2.42", "13.0.88", True, True),
        ("2.42", "13.1.115", False, False),
        ("2.42", "13.2.86", False, True),
    ],
)
def test_glibc_against_cudas_headers(facts, glibc, cuda, mended, fits):
    finding = compatibility.check_headers(glibc, cuda, mended, "/x/crt/math_functions.h", facts.headers)
    assert finding.fits is fits
    assert fits or "cuda_source=wheels and dnf mend /x/crt/math_functions.h" in finding.remedy


BOTH = "a compute capability and the feature cuda, or neither"
# The features of mistralrs-cli at v0.9.2.
OFFERED = (
    "default", "cuda", "cutile", "nccl", "cudnn", "flash-attn", "flash-attn-v3", "accelerate", "metal", "mkl", "ring",
    "code-execution",
)  # fmt: skip


@pytest.mark.parametrize(
    ("flavour", "wrong"),
    [
        (gpu(features=("cuda", "cudnn", "flash-attn", "nccl")), {}),
        (gpu(features=("cuda", "ring")), {}),
        (Flavour("cpu", "any"), {}),
        (Flavour("cpu", "any", features=("ring",)), {}),
        (Flavour("cpu", "any", features=("nccl",)), {"feature nccl": "cuda"}),
        (Flavour("cpu", "any", features=("cudnn", "ring")), {"feature cudnn": "cuda"}),
        (Flavour("cpu", "any", features=("nccl", "cudnn")), {"feature nccl": "cuda", "feature cudnn": "cuda"}),
        (gpu("7.5", features=("cuda", "flash-attn")), {"feature flash-attn": "compute capability >= 8.0"}),
        (gpu(features=("cuda", "flash-attn-v3")), {"feature flash-attn-v3": "compute capability 9.0"}),
        (gpu("9.0", features=("cuda", "flash-attn-v3")), {}),
        (gpu(features=("cuda", "cutile")), {"feature cutile": "CUDA >= 13.2"}),
        (gpu(cuda="13.2", features=("cuda", "cutile")), {}),
        (gpu(features=("cuda", "metal")), {"feature metal": "nothing"}),
        (Flavour("cpu", "any", features=("mkl",)), {"feature mkl": "nothing"}),
        (gpu(features=("cuda", "vulkan")), {"feature vulkan": "a feature of 0.9.2"}),
        (gpu(features=()), {"feature cuda": BOTH}),
        (gpu(""), {"feature cuda": BOTH}),
    ],
)  # fmt: skip
def test_each_feature_that_does_not_fit_is_a_finding(facts, flavour, wrong):
    found = compatibility.check_features(flavour, flavour.cuda, OFFERED, "0.9.2", facts.features)
    assert {finding.check: finding.needed for finding in found if not finding.fits} == wrong
    assert all(finding.remedy for finding in found if not finding.fits)


def test_a_feature_that_the_tag_does_not_have_yet(facts):
    flavour = gpu(cuda="13.2", features=("cuda", "cutile"))
    (finding,) = compatibility.check_features(flavour, "13.2", ("cuda", "nccl"), "0.8.0", facts.features)
    assert "Upstream 0.8.0 has no feature cutile: take cutile out of the flavour's features" in finding.remedy
    (unread,) = compatibility.check_features(flavour, "13.2", None, "0.8.0", facts.features)
    assert unread.fits


@pytest.mark.parametrize("name", ["ampere", "ada", "blackwell", "cpu"])
def test_the_projects_own_flavours_fit(facts, flavours, name):
    flavour = Flavour.from_dict(flavours[name])
    findings = compatibility.check_features(flavour, flavour.cuda, OFFERED, "0.9.2", facts.features)
    if flavour.cuda:
        findings += [
            compatibility.check_cuda_defects(flavour.cuda, flavour, facts.gpu_compilers),
            compatibility.check_cuda_limit(flavour.cuda, "0.9.2", facts.upstream_cuda),
        ]
    assert [finding for finding in findings if not finding.fits] == []


def test_the_features_decide_the_libraries(facts):
    assert facts.linked(()) == ("stdc++", "m")
    assert facts.linked(("cuda", "nccl"))[-2:] == ("nvrtc", "nccl")
    assert "cudnn" not in facts.linked(("cuda", "nccl"))


def test_each_row_names_its_source(facts):
    rows = [*facts.upstream_cuda, *facts.gpu_compilers, *facts.host_compilers, *facts.headers, *facts.features]
    assert rows
    assert all(row.source for row in rows)
