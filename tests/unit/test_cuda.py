"""Decisions about a CUDA toolkit."""

from pathlib import Path

import pytest
from pipeline.toolchain.cuda import (
    compiler_version,
    driver_functions,
    is_release,
    linker_names,
    stub_source,
    system_folders,
    with_glibc_2_42,
)

PINS = sorted(Path(__file__).parents[2].glob("roles/cuda_toolkit/files/*.txt"))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0.r13.0/compiler.36424714_0",
            "13.0.88",
        ),
        ("Cuda compilation tools, release 13.2, V13.2.86", "13.2.86"),
        ("nvcc fatal: no input files", ""),
        ("", ""),
    ],
)
def test_nvccs_version(text: str, version: str) -> None:
    assert compiler_version(text) == version


@pytest.mark.parametrize(
    ("compiler", "version", "fits"),
    [("13.0.88", "13.0", True), ("13.2.86", "13.0", False), ("12.9.86", "13.0", False), ("", "13.0", False)],
)
def test_only_exactly_the_release_is_accepted(compiler: str, version: str, *, fits: bool) -> None:
    assert is_release(compiler, version) is fits


def test_the_operators_folder_overrides_found_ones(tmp_path: Path) -> None:
    real = tmp_path / "opt/cuda/bin/nvcc"
    real.parent.mkdir(parents=True)
    real.touch(mode=0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").symlink_to(real)
    environ = {"CUDA_HOME": "/mine", "PATH": str(tmp_path / "bin")}
    assert system_folders("13.0", environ) == (
        Path("/mine"),
        Path("/usr/local/cuda-13.0"),
        Path("/usr/local/cuda"),
        tmp_path / "opt/cuda",
    )


def test_a_linker_finds_versioned_libraries() -> None:
    names = [
        "libcudart.so.13",
        "libnvrtc-builtins.so.13.0",
        "libnccl.so.2",
        "libnccl.so",
        "libcudadevrt.a",
        "cmake",
    ]
    assert linker_names(names) == {
        "libcudart.so": "libcudart.so.13",
        "libnvrtc-builtins.so": "libnvrtc-builtins.so.13.0",
    }


def test_the_stub_has_every_name_that_the_header_declares() -> None:
    header = """
        #define cuMemAlloc cuMemAlloc_v2
        #define cuMemcpyHtoDAsync __CUDA_API_PTSZ(cuMemcpyHtoDAsync_v2)
        #define cuMemcpy __CUDA_API_PTDS(cuMemcpy)
        #define CUDA_VERSION 13000
        CUresult CUDAAPI cuInit(unsigned int Flags);
        CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize);
        typedef CUresult (CUDAAPI *PFN_cuInit)(unsigned int);
    """
    functions = driver_functions([header])
    assert functions == (
        "cuInit",
        "cuMemAlloc",
        "cuMemAlloc_v2",
        "cuMemcpy",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyHtoDAsync_v2_ptsz",
        "cuMemcpy_ptds",
    )
    assert stub_source(["cuInit"]) == "int cuInit(void) { return 34; }\n"


def test_cuda_13_0_is_patched_for_glibc_2_42() -> None:
    header = (
        " * - rsqrt(\\p x) returns NaN if \\p x is less than 0.\n"
        "extern __device_builtin__ double rsqrt(double x);\n"
        "extern __device_builtin__ float rsqrtf(float x);\n"
        "__MATH_FUNCTIONS_DECL__ float rsqrt(const float a);\n"
        "__func__(double rsqrt(double a));\n"
        "__func__(float rsqrtf(float a));\n"
    )
    assert with_glibc_2_42(header) == (
        " * - rsqrt(\\p x) returns NaN if \\p x is less than 0.\n"
        "extern __device_builtin__ double rsqrt(double x) noexcept(true);\n"
        "extern __device_builtin__ float rsqrtf(float x) noexcept(true);\n"
        "__MATH_FUNCTIONS_DECL__ float rsqrt(const float a);\n"
        "__func__(double rsqrt(double a) noexcept(true));\n"
        "__func__(float rsqrtf(float a) noexcept(true));\n"
    )
    knows = header + "# define _NV_RSQRT_SPECIFIER noexcept(true)\n"
    assert with_glibc_2_42(knows) == knows


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.stem)
def test_each_pin_has_a_version_and_one_hash_and_names_no_registry(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines
    for requirement, digest in zip(lines[::2], lines[1::2], strict=True):
        name, _, version = requirement.removesuffix(" \\").partition("==")
        assert name.startswith("nvidia-")
        assert version
        assert len(digest.removeprefix("    --hash=sha256:")) == 64
