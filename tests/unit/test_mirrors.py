"""Mirrors: the settings for git and cargo, and the commits of CUTLASS that a build needs. Runs neither."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from pipeline.base.errors import PipelineError
from pipeline.base.git import git_mirrors
from pipeline.build.fetch import reasons
from pipeline.source.mirrors import (
    Mirrors,
    build_scripts,
    cutlass_wanted,
    registry_source,
    source_replacement,
)

PROJECT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("git_environment", PROJECT / "plugins/filter/git_environment.py")
assert _spec
assert _spec.loader
_filter = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_filter)

GITHUB = {"https://github.com/": "https://git.example.org/github/"}
ONE, TWO = "1" * 40, "a" * 40


def test_gits_environment_holds_the_mirrors_and_gives_them_back():
    mirrors = GITHUB | {"https://github.com/NVIDIA/cutlass.git": "file:///srv/cutlass.git"}
    environment = Mirrors(mirrors).environment
    assert environment["GIT_CONFIG_COUNT"] == "2"
    assert environment["GIT_CONFIG_KEY_0"] == "url.https://git.example.org/github/.insteadOf"
    assert environment["GIT_CONFIG_VALUE_0"] == "https://github.com/"
    assert git_mirrors(environment) == mirrors


def test_without_a_mirror_the_environment_is_empty():
    assert Mirrors().environment == {}
    assert git_mirrors({}) == {}


def test_other_settings_of_the_callers_git_are_ignored():
    other = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.hooksPath", "GIT_CONFIG_VALUE_0": "/tmp/hooks"}
    assert git_mirrors(other) == {}


def test_the_longest_prefix_wins_as_with_git():
    mirrors = Mirrors(GITHUB | {"https://github.com/NVIDIA/": "/srv/git/"})
    assert mirrors.sent("https://github.com/NVIDIA/cutlass.git") == "/srv/git/cutlass.git"
    assert mirrors.sent("https://github.com/a/b") == "https://git.example.org/github/a/b"
    assert mirrors.sent("https://gitlab.com/a/b") == "https://gitlab.com/a/b"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"git": {"github.com": "https://m/"}}, "'github.com' is neither a URL nor an absolute path"),
        ({"git": {"https://github.com/": "mirrors/github"}}, "'mirrors/github' is neither a URL nor an absolute path"),
        ({"git": {"https://github.com/": "https://m/\nx"}}, "is neither a URL nor an absolute path"),
        ({"git": {"https://github.com/": "https://me:secret@m/"}}, "holds a password, which logs would show"),
        ({"registry": "sparse+https://me:secret@m/"}, "holds a password.*cargo_registry_mirror.*netrc"),
        ({"registry": "crates"}, "'crates' is neither.*cargo_registry_mirror"),
        ({"cutlass_commits": ["7127592"]}, "'7127592' is no commit.*cutlass_commits.*40 hex"),
    ],
)
def test_an_invalid_value_is_an_error_with_its_variable(given, message):
    with pytest.raises(PipelineError, match=message) as caught:
        Mirrors(**given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("written", ["https://crates.example.org/index", "sparse+https://crates.example.org/index/"])
def test_a_sparse_index_is_written_as_cargo_wants_it(written):
    assert registry_source(written) == {"registry": "sparse+https://crates.example.org/index/"}


def test_the_kind_of_a_folder_is_seen_in_it(tmp_path):
    with pytest.raises(PipelineError, match="neither a local registry.*nor a folder of vendored crates.*cargo vendor"):
        registry_source(str(tmp_path))
    (tmp_path / "leaf").mkdir()
    (tmp_path / "leaf/.cargo-checksum.json").write_text("{}")
    assert registry_source(str(tmp_path)) == {"directory": str(tmp_path)}
    (tmp_path / "index").mkdir()
    assert registry_source(str(tmp_path)) == {"local-registry": str(tmp_path)}


def test_playbooks_get_the_environment_from_a_filter():
    environment = _filter.FilterModule().filters()["git_environment"]
    assert environment(GITHUB) == Mirrors(GITHUB).environment
    assert environment({}) == {"GIT_CONFIG_COUNT": "0"}, "the caller's own would apply"
    with pytest.raises(
        AnsibleFilterError, match="git_mirrors must map addresses to mirrors, not be \\['https://m/'\\]"
    ):
        environment(["https://m/"])
    with pytest.raises(AnsibleFilterError, match="holds a password") as caught:
        environment({"https://github.com/": "https://me:secret@m/"})
    assert "secret" not in str(caught.value)


def test_cargos_configuration_is_toml_whatever_the_folders_name():
    import tomllib

    data = tomllib.loads(source_replacement({"directory": '/srv/"crates"\\x'}))
    assert data["source"] == {
        "crates-io": {"replace-with": "mirror"},
        "mirror": {"directory": '/srv/"crates"\\x'},
    }


def package(name: str, folder: Path, script: str = "") -> dict[str, object]:
    """One package of ``cargo metadata``, with a build script if its text is given."""
    targets = [{"kind": ["lib"], "src_path": f"{folder}/src/lib.rs"}]
    if script:
        folder.mkdir(parents=True)
        (folder / "build.rs").write_text(script)
        targets.append({"kind": ["custom-build"], "src_path": f"{folder}/build.rs"})
    return {"id": name, "name": name, "version": "1.0", "manifest_path": f"{folder}/Cargo.toml", "targets": targets}


@pytest.fixture
def metadata(tmp_path):
    """server needs quant, quant is built with cudaforge; v3 is needed by another member, and bench only for tests."""

    def edge(name: str, kind: str | None = None) -> dict[str, object]:
        return {"pkg": name, "dep_kinds": [{"kind": kind}]}

    uses = 'const C: &str = "{}"; fn main() {{ b.with_cutlass(Some(C)) }}'
    return {
        "workspace_members": ["server", "python"],
        "packages": [
            package("server", tmp_path / "server"),
            package("python", tmp_path / "python"),
            package("quant", tmp_path / "quant", uses.format(ONE)),
            package("v3", tmp_path / "v3", uses.format(TWO)),
            package("bench", tmp_path / "bench", uses.format(TWO)),
            package("cudaforge", tmp_path / "cudaforge"),
        ],
        "resolve": {
            "nodes": [
                {"id": "server", "deps": [edge("quant"), edge("bench", "dev")]},
                {"id": "python", "deps": [edge("v3"), edge("server")]},
                {"id": "quant", "deps": [edge("cudaforge", "build")], "features": ["cuda"]},
                {"id": "v3", "deps": [edge("cudaforge", "build")]},
                {"id": "bench", "deps": []},
                {"id": "cudaforge", "deps": []},
            ]
        },
    }


def test_only_build_scripts_of_the_build_count(metadata):
    assert set(build_scripts(metadata, "server")) == {"quant 1.0", "cudaforge"}
    assert cutlass_wanted(metadata, "server") == {ONE: "quant 1.0"}


def test_a_commit_for_another_gpu_or_feature_is_not_wanted(metadata, tmp_path):
    script = f"""
        fn main() {{
            let compute_cap = b.get_compute_cap().unwrap_or(80);
            b.with_cutlass(Some("{ONE}"));
            if compute_cap == 90 {{ b.with_cutlass(Some("{TWO}")); }}
        }}
    """
    (tmp_path / "quant/build.rs").write_text(script)
    assert set(cutlass_wanted(metadata, "server", "89")) == {ONE}
    assert set(cutlass_wanted(metadata, "server", "90")) == {ONE, TWO}
    assert set(cutlass_wanted(metadata, "server")) == {ONE, TWO}
    (tmp_path / "quant/build.rs").write_text('#[cfg(feature = "v3")]\n' + script.strip())
    assert cutlass_wanted(metadata, "server", "90") == {}


def test_a_commit_that_cannot_be_read_is_an_error_that_names_the_script(metadata, tmp_path):
    (tmp_path / "quant/build.rs").write_text("fn main() { b.with_cutlass(Some(&elsewhere())) }")
    with pytest.raises(PipelineError, match="quant 1.0 uses CUTLASS, but names no readable commit.*cutlass_commits"):
        cutlass_wanted(metadata, "server")
    (tmp_path / "cudaforge/src").mkdir(parents=True)
    (tmp_path / "cudaforge/src/dependency.rs").write_text(f'const CUTLASS_DEFAULT_COMMIT: &str = "{TWO}";')
    assert cutlass_wanted(metadata, "server") == {TWO: "quant 1.0"}


GIT_FAILED = """\
    Updating git repository `https://git.invalid/group/leaf`
warning: spurious network error (1 try remaining): process didn't exit successfully: `git fetch` (exit status: 128)
fatal: repository 'http://mirror.example/leaf/' not found
error: failed to get `leaf` as a dependency of package `app v0.1.0 (/b/src/app)`

Caused by:
  failed to load source for dependency `leaf`

Caused by:
  unable to update https://git.invalid/group/leaf?rev=1111#1111

Caused by:
  process didn't exit successfully: `git fetch --no-tags --force` (exit status: 128)
"""
CRATE_FAILED = """\
 Downloading crates ...
error: failed to download from `https://crates.example.org/anyhow/1.0.100/download`

Caused by:
  [6] Could not resolve hostname (Could not resolve host: crates.example.org)
"""


def test_the_reasons_of_a_failed_download_include_its_cause_and_the_missing_file():
    git = reasons([line for line in GIT_FAILED.splitlines() if line])
    assert git[0] == "fatal: repository 'http://mirror.example/leaf/' not found"
    assert "unable to update https://git.invalid/group/leaf?rev=1111#1111" in git
    crate = " | ".join(reasons([line for line in CRATE_FAILED.splitlines() if line]))
    assert "anyhow/1.0.100" in crate
    assert "Could not resolve host" in crate


def test_the_mirror_that_failed_is_named_and_no_other():
    mirrors = Mirrors({"https://git.invalid/group/": "http://mirror.example/"} | GITHUB, "sparse+https://r.example/")
    assert "git_mirrors sends https://git.invalid/group/ to http://mirror.example/" in mirrors.blamed(GIT_FAILED)
    assert "git.example.org" not in mirrors.blamed(GIT_FAILED)
    assert "cargo_registry_mirror" not in mirrors.blamed(GIT_FAILED)
