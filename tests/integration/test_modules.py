"""The modules' own part: arguments in, a record or one clear message out, nothing done in check mode."""

from __future__ import annotations

import pytest
from pipeline.records import Flavour
from pipeline.upstream import resolve

CPU = Flavour("cpu", "any x86-64", published=False).to_dict()
PACKAGE = {"package": "mistralrs-cli"}


@pytest.fixture
def source(upstream, tmp_path):
    return resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag").to_dict()


def test_upstream_source_gives_a_record_in_check_mode_too(run_module, upstream, tmp_path):
    arguments = {"url": f"file://{upstream}", "mirror": str(tmp_path / "mirror"), "version": "0.9.1"}
    for check in (False, True):
        result = run_module("upstream_source", arguments, check=check)
        assert (result["changed"], result["source"]["version"]) == (False, "0.9.1")
        assert result["stage"]["name"] == "resolve"


def test_cargo_build_in_check_mode_tells_and_does_nothing(run_module, source, tmp_path):
    root = tmp_path / "builder"
    arguments = {"root": str(root), "source": source, "flavour": CPU, "binary": "mistralrs", **PACKAGE}
    result = run_module("cargo_build", arguments, check=True)
    assert (result["changed"], result["artifact"]) == (True, {})
    assert result["stage"]["result"] == "would be compiled"
    assert not root.exists()


def test_build_environment_warns_where_the_tags_version_is_not_cargos(run_module, upstream, stand_in, tmp_path):
    """Upstream's v0.8.10 says 0.8.9 in its Cargo.toml."""
    stand_in.tag(upstream, "v0.9.9")
    found = resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version="0.9.9").to_dict()
    arguments = {"root": str(tmp_path / "b"), "source": found, "flavour": CPU, "free_gib": 0.1, **PACKAGE}
    result = run_module("build_environment", arguments | {"rustflags": "-C target-cpu=x86-64"})
    assert result["tree"]["crate_version"] == "0.9.2"
    assert result["tree"]["rust_version"] == "1.88"
    assert any("Cargo.toml says 0.9.2" in str(warning) for warning in result["warnings"])


def test_build_environment_tells_all_findings_when_it_fails(run_module, source, tmp_path):
    arguments = {"root": str(tmp_path / "b"), "source": source, "flavour": CPU, "free_gib": 1e6, **PACKAGE}
    result = run_module("build_environment", arguments | {"rustflags": "-C target-cpu=native"})
    assert result["failed"]
    assert "disk space: found" in result["msg"]
    assert "target CPU: found -C target-cpu=native" in result["msg"]
    assert {f["check"] for f in result["findings"] if not f["fits"]} == {"disk space", "target CPU"}


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("cargo_build", {"root": "/nonexistent", "source": {"url": "x"}, "flavour": CPU, "binary": "b", **PACKAGE}),
        ("binary_audit", {"artifact": {"binary": "x"}}),
        (
            "build_environment",
            {"root": "/nonexistent", "source": {"url": "x"}, "flavour": CPU, "free_gib": 1, "rustflags": "", **PACKAGE},
        ),
    ],
)
def test_a_record_that_does_not_fit_is_named(run_module, module, arguments):
    result = run_module(module, arguments)
    assert result["failed"]
    assert "record with unknown keys" in result["msg"]


def test_a_cargo_that_is_not_there_is_told_with_what_to_do(run_module, source, tmp_path):
    arguments = {"root": str(tmp_path), "source": source, "flavour": CPU, "binary": "mistralrs", **PACKAGE}
    result = run_module("cargo_build", arguments | {"cargo": "/nonexistent/cargo"})
    assert result["failed"]
    assert "/nonexistent/cargo is not installed on the builder" in result["msg"]
