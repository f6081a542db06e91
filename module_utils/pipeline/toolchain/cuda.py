"""A CUDA toolkit for a builder: one that the system has, or one laid out from pinned wheels.

Rules:

1. A system's toolkit counts only when its nvcc is of the very release that the flavour asks for.
2. A toolkit from wheels lies at ``<root>/toolchain/cuda-<version>``. It is complete or not there: it is
   laid out beside its place, tried, and renamed.
3. Its stamp holds the digest of the pins and of the rules of the layout; while that fits, nothing is run.
4. No root, no registry's name: pip installs what the pins say, wheel by wheel, each by its SHA-256.
5. A toolkit from NVIDIA's own packages (``dnf``) is a system's toolkit whose headers root may mend.

What NVIDIA's wheels lack, compared with NVIDIA's own packages, is made here: the ``libX.so`` links that
a linker looks for, ``lib64``, and the stub of the driver's library, which a builder without a GPU links.
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

LAYOUT = 1
"""Raise it when the layout changes: every toolkit from wheels is then laid out again."""

STAMP = "toolkit.json"


@dataclass(frozen=True)
class Toolkit(Record):
    """A toolkit that can be used. ``version`` is "13.0", ``compiler`` nvcc's own version "13.0.88".

    ``source`` is "system", "dnf" or "wheels"; ``library_path`` names the folders to link from; ``inputs`` is
    the digest of the pins and the layout (empty for the system's).
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
    """nvcc's version from what ``nvcc --version`` prints: "13.0.88"; empty when it tells none."""
    found = re.search(r"release [\d.]+, V(\d+\.\d+\.\d+)", text)
    return found.group(1) if found else ""


def is_release(compiler: str, version: str) -> bool:
    """Whether nvcc "13.0.88" belongs to CUDA "13.0"."""
    return compiler.split(".")[:2] == version.split(".")[:2]


def system_folders(version: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a system may have the toolkit, the most particular first."""
    named = [environ[name] for name in ("CUDA_PATH", "CUDA_HOME", "CUDA_ROOT") if environ.get(name)]
    folders = [*map(Path, named), Path(f"/usr/local/cuda-{version}"), Path("/usr/local/cuda")]
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    if on_path:
        folders.append(Path(on_path).resolve().parent.parent)
    return tuple(dict.fromkeys(folders))


def linker_names(names: Iterable[str]) -> dict[str, str]:
    """The ``libX.so`` links to make: {"libcudart.so": "libcudart.so.13"}, none where the name is taken."""
    present = set(names)
    links: dict[str, str] = {}
    for name in sorted(present):
        found = re.fullmatch(r"(lib.+\.so)\.[\d.]+", name)
        if found and found.group(1) not in present:
            links.setdefault(found.group(1), name)
    return links


def driver_functions(headers: Iterable[str]) -> tuple[str, ...]:
    """The functions of the driver's library that ``cuda.h`` and its neighbours declare or rename to.

    A name in ``__CUDA_API_PTSZ`` or ``__CUDA_API_PTDS`` also exists with that suffix, for programs
    compiled with a default stream for each thread.
    """
    names: set[str] = set()
    for text in headers:
        names.update(re.findall(r"\bCUresult\s+CUDAAPI\s+(cu\w+)\s*\(", text))
        names.update(re.findall(r"^\s*#\s*define\s+cu\w+\s+(cu\w+_v\d+)\s*$", text, re.MULTILINE))
        for kind, name in re.findall(r"__CUDA_API_(PTSZ|PTDS)\((cu\w+)\)", text):
            names.update({name, f"{name}_{kind.lower()}"})
    return tuple(sorted(names))


def stub_source(functions: Sequence[str]) -> str:
    """C for the stub: each function answers CUDA_ERROR_STUB_LIBRARY."""
    return "".join(f"int {name}(void) {{ return 34; }}\n" for name in functions)


def with_glibc_2_42(math_functions: str) -> str:
    """``crt/math_functions.h`` so that it agrees with glibc 2.42, which declares rsqrt noexcept.

    CUDA 13.2 knows this by itself; 13.0 and 13.1 do not. The four declarations still compile with
    an older glibc (tried with 2.36).
    """
    if "_NV_RSQRT_SPECIFIER" in math_functions:
        return math_functions
    return re.sub(r"\b(rsqrtf?\((?:double|float) [ax]\))(?=\)?;)", r"\1 noexcept(true)", math_functions)


def needs_mending(version: str) -> bool:
    """Whether the headers of this release are older than glibc 2.42."""
    return dotted(version) < (13, 2)


# ---------------------------------------------------------------- the edge


def find_system(version: str, environ: Mapping[str, str]) -> Toolkit | None:
    """The system's toolkit of exactly this release, or None."""
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
    """The toolkit that a builder should have from wheels.

    ``pins`` is the text of a pip requirements file with hashes, ``python`` one with pip, ``space`` the
    bytes that must be free.
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
        """The digest of what decides the tree."""
        if "--hash=sha256:" not in self.pins:
            raise PipelineError(
                f"there are no pins for CUDA {self.version}",
                "roles/cuda_toolkit/files",
                "Take a version that has a file there, or add it to scripts/lock and run make lock",
            )
        return digest_of([LAYOUT, self.pins])

    def installed(self) -> Toolkit | None:
        """The toolkit, if it is in place and made from these very pins."""
        inputs = self.inputs
        try:
            toolkit = Toolkit.read(self.folder / STAMP)
        except (OSError, PipelineError):
            return None
        fits = toolkit.inputs == inputs and toolkit.folder == str(self.folder)
        return toolkit if fits and os.access(toolkit.nvcc, os.X_OK) else None

    def toolkit(self, compiler: str = "", inputs: str = "") -> Toolkit:
        """The record of the toolkit at its place; without the last two where it is yet to come."""
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
        """Lay the toolkit out. Killed at any point it leaves the old one, none, or the new one."""
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
            toolkit = self.toolkit(self._try(tree), self.inputs)
            (partial / "pins.txt").rename(tree / "pins.txt")
            toolkit.write(tree / STAMP)
        return toolkit

    def _try(self, tree: Path) -> str:
        """nvcc's version; an error if it does not start or is of another release."""
        nvcc = tree / "bin" / "nvcc"
        compiler = compiler_version(run([nvcc, "--version"]).stdout)
        if not is_release(compiler, self.version):
            raise PipelineError(
                f"the pins for CUDA {self.version} hold nvcc {compiler or 'of no version'}",
                f"cuda-{self.version}.txt",
                "Correct the versions in scripts/lock and run make lock",
            )
        return compiler


def _merge(wheels: Path, tree: Path) -> None:
    """Make one tree of ``nvidia/cu13``, ``nvidia/cudnn``, ``nvidia/nccl``: cudarc looks below one root."""
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
        raise PipelineError("the pinned wheels hold no nvcc", str(wheels), "Pin nvidia-cuda-nvcc for CUDA 13")


def _complete(tree: Path) -> None:
    """Add what the wheels lack."""
    libraries = tree / "lib"
    for link, target in linker_names(path.name for path in libraries.iterdir()).items():
        (libraries / link).symlink_to(target)
    # nvcc.profile and build scripts look for lib64.
    if not (tree / "lib64").exists():
        (tree / "lib64").symlink_to("lib")
    math_functions = tree / "include" / "crt" / "math_functions.h"
    if math_functions.exists():
        math_functions.write_text(with_glibc_2_42(math_functions.read_text()))
    _build_stub(tree)


def _build_stub(tree: Path) -> None:
    """``lib/stubs/libcuda.so.1``, with that SONAME: it links like the driver and starts, and no more."""
    headers = (path.read_text(errors="replace") for path in sorted((tree / "include").glob("cuda*.h")))
    functions = driver_functions(headers)
    if not functions:
        raise PipelineError("the wheels' headers declare no driver function", str(tree / "include" / "cuda.h"))
    stubs = tree / "lib" / "stubs"
    stubs.mkdir(parents=True, exist_ok=True)
    options = ("-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libcuda.so.1", "-x", "c", "-")
    try:
        run(["gcc", *options, "-o", stubs / "libcuda.so.1"], stdin=stub_source(functions))
    except ProgramMissing as error:
        raise PipelineError(
            "gcc is not installed, and nvcc needs it too", error.where, "Install gcc and g++"
        ) from error
    (stubs / "libcuda.so").symlink_to("libcuda.so.1")


def mend(folder: Path, *, check: bool = False) -> bool:
    """Let the headers of NVIDIA's package agree with glibc 2.42; whether there was anything to do. Needs root."""
    header = folder / "include" / "crt" / "math_functions.h"
    if not header.exists():
        return False
    text = header.read_text()
    mended = with_glibc_2_42(text)
    if mended == text:
        return False
    if not check:
        real = header.resolve()
        partial = real.with_name(f".{real.name}.partial")
        partial.write_text(mended)
        partial.chmod(0o644)
        partial.replace(real)
    return True


def provide(wheels: Wheels, source: str, *, check: bool = False) -> tuple[Toolkit, bool]:
    """The toolkit, and whether something was (with ``check``: would be) changed.

    ``source`` is "system", "wheels", "auto" (the system's if it has this release, else wheels), or "dnf": the
    system's, which a package has just brought (with ``check`` it may be still to come) and which is mended.
    """
    if source != "wheels":
        system = find_system(wheels.version, os.environ)
        if system and source == "dnf":
            changed = mend(Path(system.folder), check=check)
            return dataclasses.replace(system, source="dnf"), changed
        if system:
            return system, False
        if source == "dnf" and check:
            folder = f"/usr/local/cuda-{wheels.version}"
            return Toolkit(wheels.version, "", folder, f"{folder}/bin/nvcc", "dnf", ()), needs_mending(wheels.version)
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
