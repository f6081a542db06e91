"""The wrapper's calls of nvcc."""

from __future__ import annotations

import pytest
from pipeline.toolchain.nvcc_wrapper import absolute, mapped, object_of, sources, split

COMMON = ["--generate-code=arch=compute_89,code=sm_89", "--default-stream", "per-thread", "-O3"]


def test_one_call_for_each_input_of_ptx():
    assert split([*COMMON, "--ptx", "--output-directory", "/out", "a.cu", "-std=c++17", "k/b.cu"]) == [
        [*COMMON, "--ptx", "-std=c++17", "-o", "/out/a.ptx", "a.cu"],
        [*COMMON, "--ptx", "-std=c++17", "-o", "/out/b.ptx", "k/b.cu"],
    ]


@pytest.mark.parametrize("words", [["--output-directory=/out"], ["-odir", "/out"], ["-odir=/out"]])
def test_the_output_is_named_for_a_single_input_too(words):
    assert split(["-ptx", *words, "a.cu"]) == [["-ptx", "-o", "/out/a.ptx", "a.cu"]]


def test_without_a_folder_the_output_is_nvccs_default():
    assert split(["--ptx", "k/a.cu"]) == [["--ptx", "-o", "a.ptx", "k/a.cu"]]


@pytest.mark.parametrize(
    "words",
    [
        [*COMMON, "-c", "-o", "a.o", "-Xcompiler", "-fPIC", "a.cu"],
        [*COMMON, "--ptx", "-o", "a.ptx", "a.cu"],
        [*COMMON, "--ptx", "--output-file=a.ptx", "a.cu"],
        ["--version"],
        ["--lib", "-o", "lib.a", "a.o", "b.o"],
    ],
)
def test_other_calls_are_unchanged(words):
    assert split(words) == [words]


def test_a_value_of_an_option_is_no_input():
    words = ["-include", "pre.cu", "-o", "out.cu", "-I", "x.cu", "-Xcompiler", "a.cu", "real.cu", "--ptx=no.cu"]
    assert [words[at] for at in sources(words)] == ["real.cu"]


NVCC = "/b/toolchain/cuda-13.0/bin/nvcc"
PATHS = ["-Xcompiler", "-ffile-prefix-map=/b=/builder", "-Xcompiler", "-ffile-prefix-map=/b/toolchain/cuda-13.0=/cuda"]


def test_paths_are_mapped_for_the_host_compiler_and_the_front_end():
    options = mapped(["-c", "-o", "/b/out/a.o", "/b/src/k/a.cu"], "/b=/builder", NVCC)
    assert options == [*PATHS, "-Xcudafe", "--orig_src_path_name=/builder/src/k/a.cu"]


def test_a_relative_input_is_below_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    assert mapped(["-c", "a.cu"], f"{tmp_path}=/builder", NVCC)[-1] == "--orig_src_path_name=/builder/src/a.cu"


def test_inputs_and_folders_of_headers_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["-c", "-Iinc", "-I", "more", "-I/opt/x", "-isystem", "sys", "--include-path=p", "-o", "out/a.o", "k/a.cu"]
    assert absolute(words) == [
        "-c", f"-I{tmp_path}/inc", "-I", f"{tmp_path}/more", "-I/opt/x", "-isystem", f"{tmp_path}/sys",
        f"--include-path={tmp_path}/p", "-o", "out/a.o", f"{tmp_path}/k/a.cu",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [["-c", "/elsewhere/a.cu"], ["-c", "/b/a.cu", "/b/c.cu"]])
def test_a_foreign_path_or_several_inputs_are_not_mapped_for_the_front_end(words):
    assert mapped(words, "/b=/builder", NVCC) == PATHS


@pytest.mark.parametrize(("words", "prefix"), [(["-c", "a.cu"], ""), (["--version"], "/b=/builder")])
def test_nothing_to_map(words, prefix):
    assert mapped(words, prefix, NVCC) == []


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["-c", "-o", "a.o", "a.cu"], "a.o"),
        (["--compile", "--output-file=x/a.o", "a.cu"], "x/a.o"),
        (["-dc", "a.cu", "--output-file", "a.o"], "a.o"),
        (["--ptx", "-o", "a.ptx", "a.cu"], ""),
        (["--lib", "-o", "a.a", "a.o"], ""),
        (["-c", "a.cu"], ""),
    ],
)
def test_the_object_that_a_call_names(words, made):
    assert object_of(words) == made
