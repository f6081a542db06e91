"""The builder's checks, as tables."""

from __future__ import annotations

import pytest
import yaml
from pipeline import environment
from pipeline.environment import Finding
from pipeline.errors import PipelineError
from pipeline.records import Flavour

LIMITS = {"0.7.0": "13.1", "0.8.0": "13.2", "0.8.23": "13.3"}


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
    finding = environment.check_rust(found, needed)
    assert (finding.fits, bool(finding.remedy)) == (fits, not fits)


@pytest.mark.parametrize(
    ("cuda", "version", "fits"),
    [
        ("13.1", "0.7.0", True),
        ("13.2", "0.7.0", False),
        ("13.2", "0.8.0", True),
        ("13.3", "0.8.10", False),
        ("13.3", "0.8.23", True),
        ("13.3", "0.9.2", True),
        ("13.4", "0.9.0-rc1", False),
        ("14.0", "0.6.0", True),  # before the first fact nothing is known
    ],
)
def test_cuda_against_what_the_tag_accepts(cuda, version, fits):
    assert environment.check_cuda_limit(cuda, version, LIMITS).fits is fits


def test_blackwell_is_not_built_with_a_compiler_that_miscompiles_for_it():
    flavour = Flavour("blackwell", "RTX 50", compute_capability="12.0", cuda="13.0")
    finding = environment.check_cuda_defects(flavour, {"12.0": "13.2"})
    assert not finding.fits
    assert "miscompiles for 12.0" in finding.remedy


@pytest.mark.parametrize("name", ["ampere", "ada", "blackwell"])
def test_the_projects_own_flavours_pass_the_known_defects(project, flavours, name):
    data = yaml.safe_load((project / "inventory/group_vars/all/toolchain.yml").read_text())
    flavour = Flavour.from_dict(flavours[name])
    assert environment.check_cuda_defects(flavour, data["cuda_lowest"]).fits
    assert environment.check_cuda_limit(flavour.cuda, "0.9.2", data["cuda_limits"]).fits


@pytest.mark.parametrize(
    ("flags", "fits"),
    [("-C target-cpu=x86-64", True), ("-C target-cpu=native", False), ("-Ctarget-cpu=native", False)],
)
def test_a_native_cpu_is_refused(flags, fits):
    assert environment.check_rustflags(flags).fits is fits


@pytest.mark.parametrize(
    ("found", "needed", "fits"), [("13.0", "13.0", True), ("13.2", "13.0", False), ("", "13.0", False)]
)
def test_nvcc_against_the_flavour(found, needed, fits):
    assert environment.check_nvcc(found, needed, "/x/nvcc" if found else "").fits is fits


def test_space_is_checked_where_the_folder_will_be(tmp_path):
    assert environment.free_bytes(tmp_path / "not" / "yet") > 0
    finding = environment.check_space(5 * environment.GIB, 20, tmp_path)
    assert not finding.fits
    assert finding.found == "5.0 GiB free"


def test_all_that_is_wrong_is_told_at_once():
    findings = [
        Finding("rustc", "1.80", ">= 1.88", fits=False, remedy="Install Rust 1.88"),
        Finding("gcc", "/usr/bin/gcc", "installed", fits=True),
        Finding("nvcc", "none", "13.0", fits=False, remedy="Install CUDA 13.0"),
    ]
    with pytest.raises(PipelineError) as caught:
        environment.refuse(findings, "this host cannot build", "builder1", "Nothing was compiled")
    text = str(caught.value)
    assert "rustc: found 1.80, needed >= 1.88. Install Rust 1.88" in text
    assert "nvcc: found none, needed 13.0. Install CUDA 13.0" in text
    assert "gcc:" not in text
    assert "Nothing was compiled" in text
