"""Trials find out whether compilers and libraries work together: the real gcc, linker and nvcc."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pipeline.check import trials
from pipeline.check.builder import is_mended
from pipeline.check.trials import Trials
from pipeline.toolchain.cuda import Toolkit, Wheels, provide
from pipeline.toolchain.layout import SYSTEM_PATH

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
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "--no-such-option")  # a build's environment has none of the caller's
    assert trials.compiles(toolkit.nvcc, "sm_89", PATH) == ""
    assert "sm_35" in trials.compiles(toolkit.nvcc, "sm_35", PATH)


def test_a_gcc_that_nvcc_refuses_is_found_whatever_it_says_of_itself(toolkit: Toolkit, tmp_path: Path) -> None:
    """nvcc's own header checks the preprocessor, which reports gcc 16 here."""
    gcc = tmp_path / "gcc"
    gcc.write_text(f'#!/bin/sh\nexec {shutil.which("gcc", path=PATH)} -U__GNUC__ -D__GNUC__=16 "$@"\n')
    gcc.chmod(0o755)
    version = subprocess.run([gcc, "-dumpversion"], capture_output=True, text=True, check=True).stdout
    assert int(version.split(".")[0]) <= 15
    reason = trials.compiles(toolkit.nvcc, "sm_89", f"{tmp_path}:{PATH}")
    assert "unsupported GNU version! gcc versions later than 15 are not supported" in reason
    assert not trials.check_compiles(reason, "12.2.0", "sm_89").fits


def test_a_broken_toolkit_is_found(toolkit: Toolkit, tmp_path: Path) -> None:
    """Its headers are gone, but nvcc still prints its version."""
    tree = tmp_path / "cuda"
    shutil.copytree(toolkit.folder, tree, symlinks=True, copy_function=os.link)
    (tree / "include" / "cuda_runtime.h").unlink()
    reason = trials.compiles(f"{tree}/bin/nvcc", "sm_89", PATH)
    assert "cuda_runtime.h: No such file or directory" in reason


def test_the_header_itself_says_whether_it_is_mended(toolkit: Toolkit, tmp_path: Path) -> None:
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
    # The compiler alone has no NCCL; a file of the name that is no library does not count.
    assert set(trials.links((*LIBRARIES, "nccl"), toolkit.library_path, PATH)) == {"nccl"}


def test_a_file_with_the_name_of_a_library_is_not_one(toolkit: Toolkit, tmp_path: Path) -> None:
    (tmp_path / "libnccl.so").write_bytes(b"\x7fELF and no more")
    failed = trials.links((*LIBRARIES, "nccl"), [*toolkit.library_path, str(tmp_path)], PATH)
    assert set(failed) == {"nccl"}
    finding = trials.check_library("nccl", failed["nccl"], ["nccl"], toolkit.library_path)
    assert not finding.fits
    assert "Feature nccl links it. cuda_toolkit_components=full brings it with wheels" in finding.remedy


def test_libraries_that_link_alone_and_not_together_are_told(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text("int elsewhere(void); int one(void) { return elsewhere(); }\n")
    for name in ("one", "two"):
        source = tmp_path / f"{name}.c"
        if not source.exists():
            source.write_text("int nothing(void) { return 0; }\n")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / f"lib{name}.so", source], check=True)
    failed = trials.links(("one", "two"), [str(tmp_path)], PATH)
    assert list(failed) == ["one"]
    assert "elsewhere" in failed["one"]


def test_what_passed_is_not_tried_again_until_it_changes(tmp_path: Path) -> None:
    made, answers = [], iter(["it fails", "", "", ""])

    def attempt() -> str:
        made.append(1)
        return next(answers)

    known = Trials(tmp_path / "cache" / "trials.json")
    assert known.failure("link", ["a"], attempt) == "it fails"
    assert known.failure("link", ["a"], attempt) == ""  # a failed trial runs again
    assert known.failure("link", ["a"], attempt) == ""
    assert len(made) == 2
    assert Trials(known.file).failure("link", ["b"], attempt) == ""
    assert len(made) == 3
    known.file.write_text("{ spoilt")
    assert dataclasses.replace(known).failure("link", ["b"], attempt) == ""
    assert len(made) == 4


def test_a_program_that_is_replaced_is_another_one(tmp_path: Path) -> None:
    program = tmp_path / "gcc"
    assert trials.identity(program) == [str(program)]
    program.write_text("one")
    before = trials.identity(program)
    program.write_text("another")
    assert trials.identity(program) != before
    assert trials.identity(None) == []


def test_where_nothing_can_be_noted_the_trial_is_made_each_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert Trials(tmp_path / "cache" / "trials.json").failure("link", ["a"], lambda: "") == ""
