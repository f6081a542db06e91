"""A CUDA toolkit on a builder: the system's, or one from pinned wheels.

Rules:

1. The system's toolkit is accepted only if its nvcc is of exactly the release that the flavour requires.
2. A toolkit from wheels lies at ``<root>/toolchain/cuda-<version>``, complete or absent (layout).
3. The stamp holds the digest of the pins and of the layout's version. While it matches, nothing runs.
4. pip installs the pinned wheels, each by its SHA-256, without root and from whichever registry it is configured for.
5. A toolkit from NVIDIA's own packages (``dnf``) is the system's, with headers patched by root where glibc requires it.

Wheels lack parts of NVIDIA's packages. This module adds them: the ``libX.so`` links for the linker, ``lib64``, and a
stub of the driver's library, which builders without a GPU link against.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Record, digest_of
from ..base.run import ProgramMissing, run
from ..base.versions import dotted
from .layout import install_wheels, laid_out
from .verified import verify

LAYOUT = 2
"""Raise it when the layout changes: every toolkit from wheels is then laid out again."""

STAMP = "toolkit.json"


@dataclass(frozen=True)
class Toolkit(Record):
    """A provided toolkit. ``version`` is "13.0", ``compiler`` nvcc's own version "13.0.88".

    ``source`` is "system", "dnf" or "wheels"; ``library_path`` are the folders to link from; ``inputs`` is the
    digest of the pins and the layout (empty for the system's).
    """

    version: str
    compiler: str
    folder: str
    nvcc: str
    source: str
    library_path: tuple[str, ...]
    inputs: str = ""


# ---------------------------------------------------------------- decisions


def compiler_version(text: str) -> str:
    """nvcc's version in the output of ``nvcc --version``: "13.0.88"; empty when there is none."""
    found = re.search(r"release [\d.]+, V(\d+\.\d+\.\d+)", text)
    return found.group(1) if found else ""


def is_release(compiler: str, version: str) -> bool:
    """Whether nvcc "13.0.88" belongs to CUDA "13.0"."""
    return compiler.split(".")[:2] == version.split(".")[:2]


def system_folders(version: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders to search for the system's toolkit, the most specific first."""
    named = [environ[name] for name in ("CUDA_PATH", "CUDA_HOME", "CUDA_ROOT") if environ.get(name)]
    folders = [*map(Path, named), Path(f"/usr/local/cuda-{version}"), Path("/usr/local/cuda")]
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    if on_path:
        folders.append(Path(on_path).resolve().parent.parent)
    return tuple(dict.fromkeys(folders))


def linker_names(names: Iterable[str]) -> dict[str, str]:
    """The missing ``libX.so`` links: {"libcudart.so": "libcudart.so.13"}."""
    present = set(names)
    links: dict[str, str] = {}
    for name in sorted(present):
        found = re.fullmatch(r"(lib.+\.so)\.[\d.]+", name)
        if found and found.group(1) not in present:
            links.setdefault(found.group(1), name)
    return links


def driver_functions(headers: Iterable[str]) -> tuple[str, ...]:
    """The functions of the driver's library that ``cuda.h`` and its neighbours declare, by their linked names.

    A name in ``__CUDA_API_PTSZ`` or ``__CUDA_API_PTDS`` also exists with that suffix, for programs compiled
    with one default stream per thread.
    """
    names: set[str] = set()
    for text in headers:
        names.update(re.findall(r"\bCUresult\s+CUDAAPI\s+(cu\w+)\s*\(", text))
        names.update(re.findall(r"^\s*#\s*define\s+cu\w+\s+(cu\w+_v\d+)\s*$", text, re.MULTILINE))
        for kind, name in re.findall(r"__CUDA_API_(PTSZ|PTDS)\((cu\w+)\)", text):
            names.update({name, f"{name}_{kind.lower()}"})
    return tuple(sorted(names))


def stub_source(functions: Sequence[str]) -> str:
    """The stub in C: each function returns CUDA_ERROR_STUB_LIBRARY."""
    return "".join(f"int {name}(void) {{ return 34; }}\n" for name in functions)


def with_glibc_2_42(math_functions: str) -> str:
    """``crt/math_functions.h``, patched to compile with glibc 2.42, which declares rsqrt noexcept.

    CUDA 13.2 needs no patch; 13.0 and 13.1 do. The patched declarations also compile with an older glibc (2.36).
    """
    if "_NV_RSQRT_SPECIFIER" in math_functions:
        return math_functions
    return re.sub(r"\b(rsqrtf?\((?:double|float) [ax]\))(?=\)?;)", r"\1 noexcept(true)", math_functions)


def needs_patch(version: str) -> bool:
    """Whether the headers of this release do not compile with glibc 2.42."""
    return dotted(version) < (13, 2)


# ---------------------------------------------------------------- the edge


def find_system(version: str, environ: Mapping[str, str]) -> Toolkit | None:
    """The system's toolkit of exactly this release; None if there is none."""
    for folder in system_folders(version, environ):
        nvcc = folder / "bin" / "nvcc"
        if not os.access(nvcc, os.X_OK):
            continue
        compiler = compiler_version(run([nvcc, "--version"], accept=range(256)).stdout)
        if is_release(compiler, version):
            libraries = (folder / name for name in ("lib64", "lib64/stubs", "lib", "lib/stubs"))
            return Toolkit(
                version,
                compiler,
                str(folder),
                str(nvcc),
                "system",
                tuple(str(p) for p in libraries if p.is_dir()),
            )
    return None


@dataclass(frozen=True)
class Wheels:
    """The toolkit that a builder needs, from wheels.

    ``pins`` is the text of a pip requirements file with hashes, ``python`` an interpreter with pip, ``space``
    the bytes that must be free.
    """

    version: str
    root: Path
    pins: str
    python: str = sys.executable
    space: int = 0

    @property
    def folder(self) -> Path:
        return self.root / "toolchain" / f"cuda-{self.version}"

    @property
    def inputs(self) -> str:
        """The digest that decides the tree's content."""
        if "--hash=sha256:" not in self.pins:
            raise PipelineError(
                f"there are no pins for CUDA {self.version}",
                "roles/cuda_toolkit/files",
                "Use a version that has a file there, or add it to scripts/lock and run make lock",
            )
        return digest_of([LAYOUT, self.pins])

    def installed(self) -> Toolkit | None:
        """The toolkit, if it is made from these pins. PipelineError if it changed since its installation."""
        inputs = self.inputs
        try:
            toolkit = Toolkit.read(self.folder / STAMP)
        except (OSError, PipelineError):
            return None
        if toolkit.inputs != inputs or toolkit.folder != str(self.folder):
            return None
        verify(self.folder)
        return toolkit

    def toolkit(self, compiler: str = "", inputs: str = "") -> Toolkit:
        """The record of the toolkit at its place; ``compiler`` and ``inputs`` are empty before it is installed."""
        folder = self.folder
        libraries = (str(folder / "lib"), str(folder / "lib" / "stubs"))
        return Toolkit(
            self.version,
            compiler,
            str(folder),
            str(folder / "bin" / "nvcc"),
            "wheels",
            libraries,
            inputs,
        )

    def install(self) -> Toolkit:
        """Install the toolkit. Killed at any point, this leaves the old one, none, or the new one."""
        with held(self.folder.parent / ".lock"):
            return self.installed() or self._install()

    def _install(self) -> Toolkit:
        with laid_out(self.folder, f"CUDA {self.version}", space=self.space) as partial:
            tree = partial / "tree"
            install_wheels(
                self.pins, partial / "wheels", partial, self.python,
                what=f"CUDA {self.version}", variable="cuda_toolkit_python",
            )  # fmt: skip
            _merge(partial / "wheels" / "nvidia", tree)
            _complete(tree)
            toolkit = self.toolkit(self._verified(tree), self.inputs)
            (partial / "pins.txt").rename(tree / "pins.txt")
            toolkit.write(tree / STAMP)
        return toolkit

    def _verified(self, tree: Path) -> str:
        """nvcc's version; PipelineError if it does not start or is of another release."""
        nvcc = tree / "bin" / "nvcc"
        compiler = compiler_version(run([nvcc, "--version"]).stdout)
        if not is_release(compiler, self.version):
            raise PipelineError(
                f"the pins for CUDA {self.version} contain nvcc {compiler or 'of unknown version'}",
                f"cuda-{self.version}.txt",
                "Correct the versions in scripts/lock and run make lock",
            )
        return compiler


def _merge(wheels: Path, tree: Path) -> None:
    """Merge ``nvidia/cu13``, ``nvidia/cudnn`` and ``nvidia/nccl`` into one tree: cudarc searches below one root."""
    tree.mkdir()
    parts = sorted(path for path in wheels.iterdir() if path.is_dir()) if wheels.is_dir() else []
    for part in parts:
        for path in sorted(part.rglob("*")):
            target = tree / path.relative_to(part)
            if path.is_dir() and not path.is_symlink():
                target.mkdir(parents=True, exist_ok=True)
            elif not target.exists():
                path.rename(target)
    if not (tree / "bin" / "nvcc").exists():
        raise PipelineError("the pinned wheels contain no nvcc", str(wheels), "Pin nvidia-cuda-nvcc for CUDA 13")


def _complete(tree: Path) -> None:
    """Add the links, patch and stub that the wheels lack."""
    libraries = tree / "lib"
    for link, target in linker_names(path.name for path in libraries.iterdir()).items():
        (libraries / link).symlink_to(target)
    # nvcc.profile and build scripts search lib64.
    if not (tree / "lib64").exists():
        (tree / "lib64").symlink_to("lib")
    math_functions = tree / "include" / "crt" / "math_functions.h"
    if math_functions.exists():
        math_functions.write_text(with_glibc_2_42(math_functions.read_text()))
    _build_stub(tree)


def _build_stub(tree: Path) -> None:
    """Build ``lib/stubs/libcuda.so.1`` with that SONAME: programs link against it and start, and no call succeeds."""
    headers = (path.read_text(errors="replace") for path in sorted((tree / "include").glob("cuda*.h")))
    functions = driver_functions(headers)
    if not functions:
        raise PipelineError(
            "the wheels' headers declare no driver function",
            str(tree / "include" / "cuda.h"),
            "Pin nvidia-cuda-runtime for CUDA 13",
        )
    stubs = tree / "lib" / "stubs"
    stubs.mkdir(parents=True, exist_ok=True)
    options = ("-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libcuda.so.1", "-x", "c", "-")
    try:
        run(["gcc", *options, "-o", stubs / "libcuda.so.1"], stdin=stub_source(functions))
    except ProgramMissing as error:
        raise PipelineError("gcc is not installed, and nvcc requires it", error.where, "Install gcc and g++") from error
    (stubs / "libcuda.so").symlink_to("libcuda.so.1")


def patch_headers(folder: Path, *, check: bool = False) -> bool:
    """Patch the headers of NVIDIA's package for glibc 2.42; returns whether they needed it. Requires root."""
    header = folder / "include" / "crt" / "math_functions.h"
    if not header.exists():
        return False
    text = header.read_text()
    patched = with_glibc_2_42(text)
    if patched == text:
        return False
    if not check:
        real = header.resolve()
        partial = real.with_name(f".{real.name}.partial")
        partial.write_text(patched)
        partial.chmod(0o644)
        partial.replace(real)
    return True


def provide(wheels: Wheels, source: str, *, check: bool = False) -> tuple[Toolkit, bool]:
    """The toolkit, and whether anything was (with ``check``: would be) changed.

    ``source`` is "system", "wheels", "auto" (the system's if it is of this release, else wheels), or "dnf": the
    system's, which dnf has just installed (with ``check``: may still install) and whose headers are patched.
    """
    if source != "wheels":
        system = find_system(wheels.version, os.environ)
        if system and source == "dnf":
            changed = patch_headers(Path(system.folder), check=check)
            return dataclasses.replace(system, source="dnf"), changed
        if system:
            return system, False
        if source == "dnf" and check:
            folder = f"/usr/local/cuda-{wheels.version}"
            return Toolkit(wheels.version, "", folder, f"{folder}/bin/nvcc", "dnf", ()), needs_patch(wheels.version)
        if source in {"system", "dnf"}:
            raise PipelineError(
                f"the system has no CUDA {wheels.version}",
                ", ".join(map(str, system_folders(wheels.version, os.environ))),
                f"Install cuda-toolkit-{wheels.version.replace('.', '-')} or set cuda_source=wheels",
            )
    installed = wheels.installed()
    if installed:
        return installed, False
    return (wheels.toolkit() if check else wheels.install()), True
