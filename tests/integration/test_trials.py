"""Trials detect whether compilers and libraries work together: the real gcc, linker and nvcc."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pipeline.base.records import Flavour, Source
from pipeline.check import builder, commit, trials
from pipeline.check.builder import is_mended
from pipeline.check.compatibility import Compatibility, Cutlass
from pipeline.check.trials import Trials
from pipeline.source.git_folder import initialise
from pipeline.source.manifest import look
from pipeline.source.mirrors import cutlass_folder
from pipeline.toolchain.cuda import Toolkit, Wheels, provide
from pipeline.toolchain.layout import SYSTEM_PATH
from pipeline.toolchain.rust import find_rust
from support import commits

PROJECT = Path(__file__).parents[2]
PATH = ":".join(SYSTEM_PATH)
pytestmark = pytest.mark.skipif(shutil.which("gcc", path=PATH) is None, reason="gcc is not installed")


@pytest.fixture(scope="module")
def toolkit() -> Toolkit:
    """The compiler-only toolkit of the local builder: it is downloaded once for the tests and for `make release`."""
    pins = (PROJECT / "roles/cuda_toolkit/files/cuda-13.0.txt").read_text()
    pins = pins.rstrip()  # as the role's lookup reads it
    return provide(Wheels("13.0", PROJECT / ".local/builder", pins), "wheels")[0]


def test_nvcc_and_gcc_compile_a_kernel(toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "--no-such-option")  # a build ignores variables of the caller
    assert trials.compiles(toolkit.nvcc, "sm_89", PATH) == ""
    assert "sm_35" in trials.compiles(toolkit.nvcc, "sm_35", PATH)


def test_a_gcc_that_nvcc_refuses_is_found_whatever_version_it_prints(toolkit: Toolkit, tmp_path: Path) -> None:
    """nvcc's own header checks the preprocessor, which reports gcc 16 here."""
    gcc = tmp_path / "gcc"
    gcc.write_text(f'#!/bin/sh\nexec {shutil.which("gcc", path=PATH)} -U__GNUC__ -D__GNUC__=16 "$@"\n')
    gcc.chmod(0o755)
    version = subprocess.run([gcc, "-dumpversion"], capture_output=True, text=True, check=True).stdout
    assert int(version.split(".")[0]) <= 15
    reason = trials.compiles(toolkit.nvcc, "sm_89", f"{tmp_path}:{PATH}")
    assert "unsupported GNU version! gcc versions later than 15 are not supported" in reason
    assert not trials.check_compiles(reason, "12.2.0", "sm_89").fits


def test_a_kernel_includes_the_headers_of_cutlass_that_upstream_includes(toolkit: Toolkit, tmp_path: Path) -> None:
    """As with gcc 15 and CUTLASS 3.5: a header names a member that no class has."""
    header = (
        "template <class T> struct M {{ __host__ T {}() {{ return T(); }} T f() {{ M m; return m.set_slice(); }} }};\n"
    )
    text = '#include <cutlass/cutlass.h>\n  #  include "cute/tensor.hpp"\n// <cutlass/array.h>\n'
    files = {"quant/kernels/moe.cu": text}
    repository = tmp_path / "upstream.git"
    included = commit.included(repository, commits.commit(repository, files))
    assert included == {"cutlass/cutlass.h", "cute/tensor.hpp"}
    assert commit.included(repository, commits.commit(repository, {"a.cu": "int x;\n"})) == set()
    for name in ("cutlass/cutlass.h", "cutlass/array.h"):
        file = tmp_path / "cutlass/include" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(header.format("set_slice") + "template struct M<int>;\n")
    headers = trials.tried_headers(tmp_path / "cutlass", included)
    assert headers == ["cutlass/cutlass.h"]
    assert trials.compiles_cutlass(toolkit.nvcc, "sm_89", PATH, tmp_path / "cutlass", headers) == ""
    (tmp_path / "cutlass/include/cutlass/cutlass.h").write_text(header.format("other") + "template struct M<int>;\n")
    reason = trials.compiles_cutlass(toolkit.nvcc, "sm_89", PATH, tmp_path / "cutlass", headers)
    assert "cutlass/cutlass.h" in reason
    assert "set_slice" in reason
    finding = trials.check_cutlass_compiles(reason, "12.2.0", "7" * 40)
    assert not finding.fits
    assert "another gcc (first on the build's PATH" in finding.remedy


def test_headers_of_upstreams_choice_read_nothing_of_the_host(toolkit: Toolkit, tmp_path: Path) -> None:
    secret = tmp_path / "netrc"
    secret.write_text("password hunter2 ;\n")
    header = tmp_path / "cutlass/include/cutlass/cutlass.h"
    header.parent.mkdir(parents=True)
    header.write_text(f'#include "{secret}"\n')
    arguments = (toolkit.nvcc, "sm_89", PATH, tmp_path / "cutlass", ["cutlass/cutlass.h"])
    reason = trials.compiles_cutlass(*arguments)
    assert "No such file or directory" in reason
    assert "hunter2" not in reason
    assert "password" in trials.compiles_cutlass(*arguments, protected=False), "without a sandbox it is read"


OLD = "7d49e6c7e2f8896c47f586706e67e1fb215529dc"


@pytest.mark.parametrize(
    ("capability", "gcc", "found"),
    [
        ("8.9", "15.3.0", {"gcc for CUTLASS": False}),
        ("8.9", "14.2.0", {"gcc for CUTLASS": True, "nvcc with CUTLASS": False}),
        ("7.5", "15.3.0", {}),
    ],
)
def test_the_tags_own_build_scripts_name_the_cutlass_to_try(
    capability: str, gcc: str, found: dict[str, bool], tmp_path: Path
) -> None:
    """As with upstream 0.8.23 and gcc 15. A commit that is here is tried too, unless the table refuses it."""
    text = f'let compute_cap = b.get_compute_cap(); if compute_cap >= 80 {{ b.with_cutlass(Some("{OLD}")); }}'
    files = {
        "Cargo.toml": '[package]\nname = "tool"\nversion = "1.0.0"\n', "src/main.rs": "", "build.rs": text,
        "kernels/moe.cu": "#include <cutlass/cutlass.h>\n",
    }  # fmt: skip
    repository, root = tmp_path / "upstream.git", tmp_path / "builder"
    made = commits.commit(repository, files)
    tree = look(repository, made, "tool", find_rust().bin / "cargo")
    checkout = cutlass_folder(root / "cudaforge", OLD)
    # Its HEAD is that commit: the rest of it does not matter.
    initialise(checkout, bare=False)
    (checkout / ".git/HEAD").write_text(f"{OLD}\n")
    header = checkout / "include/cutlass/cutlass.h"
    header.parent.mkdir(parents=True)
    header.touch()
    facts = Compatibility(cutlass=(Cutlass(OLD, 14, "a source"),))
    source = Source("file:///none", "v1.0.0", "tag", made, 1, "1.0.0", "1.0.0")
    flavour = Flavour("this", "a GPU", capability, "13.0", ("cuda",))
    request = builder.BuildRequest(
        root, repository, source, flavour, "tool", facts, "", 1, toolkit={"nvcc": "/nonexistent/nvcc"}
    )
    findings = builder.check_with_cutlass(request, tree, gcc, PATH, Trials(tmp_path / "trials.json"), [])
    assert {finding.check: finding.fits for finding in findings} == found


def test_a_broken_toolkit_is_found(toolkit: Toolkit, tmp_path: Path) -> None:
    """Its headers are gone, but nvcc still prints its version."""
    tree = tmp_path / "cuda"
    shutil.copytree(toolkit.folder, tree, symlinks=True, copy_function=os.link)
    (tree / "include" / "cuda_runtime.h").unlink()
    reason = trials.compiles(f"{tree}/bin/nvcc", "sm_89", PATH)
    assert "cuda_runtime.h: No such file or directory" in reason


def test_the_header_shows_whether_it_is_patched(toolkit: Toolkit, tmp_path: Path) -> None:
    header = Path(toolkit.folder, "include/crt/math_functions.h")
    assert is_mended(header)
    text = header.read_text()
    shipped = tmp_path / "math_functions.h"
    shipped.write_text(text.replace(") noexcept(true);", ");"))
    assert not is_mended(shipped)
    # Two of the four declarations are not enough.
    shipped.write_text(text.replace(") noexcept(true);", ");", 2))
    assert not is_mended(shipped)


LIBRARIES = ("stdc++", "m", "cuda", "cudart")


def test_libraries_are_found_by_linking_them(toolkit: Toolkit) -> None:
    assert trials.links(LIBRARIES, toolkit.library_path, PATH) == {}
    # The compiler-only toolkit lacks NCCL.
    assert set(trials.links((*LIBRARIES, "nccl"), toolkit.library_path, PATH)) == {"nccl"}


def test_an_invalid_file_with_the_name_of_a_library_is_missing(toolkit: Toolkit, tmp_path: Path) -> None:
    (tmp_path / "libnccl.so").write_bytes(b"\x7fELF and no more")
    failed = trials.links((*LIBRARIES, "nccl"), [*toolkit.library_path, str(tmp_path)], PATH)
    assert set(failed) == {"nccl"}
    finding = trials.check_library("nccl", failed["nccl"], ["nccl"], toolkit.library_path)
    assert not finding.fits
    assert "Feature nccl links it. cuda_toolkit_components=full brings it with wheels" in finding.remedy


def test_a_library_with_an_undefined_symbol_is_missing(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text("int elsewhere(void); int one(void) { return elsewhere(); }\n")
    for name in ("one", "two"):
        source = tmp_path / f"{name}.c"
        if not source.exists():
            source.write_text("int nothing(void) { return 0; }\n")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / f"lib{name}.so", source], check=True)
    failed = trials.links(("one", "two"), [str(tmp_path)], PATH)
    assert list(failed) == ["one"]
    assert "elsewhere" in failed["one"]


def test_a_passed_trial_is_cached_until_its_inputs_change(tmp_path: Path) -> None:
    calls, answers = [], iter(["it fails", "", "", ""])

    def attempt() -> str:
        calls.append(1)
        return next(answers)

    known = Trials(tmp_path / "cache" / "trials.json")
    assert known.failure("link", ["a"], attempt) == "it fails"
    assert known.failure("link", ["a"], attempt) == ""  # a failed trial runs again
    assert known.failure("link", ["a"], attempt) == ""
    assert len(calls) == 2
    assert Trials(known.file).failure("link", ["b"], attempt) == ""
    assert len(calls) == 3
    known.file.write_text("{ spoilt")
    assert dataclasses.replace(known).failure("link", ["b"], attempt) == ""
    assert len(calls) == 4


def test_a_replaced_program_has_another_identity(tmp_path: Path) -> None:
    program = tmp_path / "gcc"
    assert trials.identity(program) == [str(program)]
    program.write_text("one")
    before = trials.identity(program)
    program.write_text("another")
    assert trials.identity(program) != before
    assert trials.identity(None) == []


def test_a_trial_runs_each_time_if_its_cache_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert Trials(tmp_path / "cache" / "trials.json").failure("link", ["a"], lambda: "") == ""
