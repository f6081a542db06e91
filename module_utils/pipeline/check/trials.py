"""Trials: whether this host's compilers and libraries work together.

Rules:

1. A trial is a small piece of the build: one kernel through nvcc and the host's gcc, the same with the headers of
   CUTLASS that upstream's kernels include, one empty program linked with every library. It runs with the build's PATH
   and nothing of the caller's environment; with files of upstream's choice in a sandbox.
2. A trial that passes is recorded with its dependencies (programs and folders by path, time and size) and runs again
   only after one of them changes. A trial that fails runs again each time: its remedy may lie elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import digest_of
from ..base.run import run
from ..base.sandbox import Sandbox, outside_the_system
from ..base.text import ended, shown

TIMEOUT = 600
# A header of upstream's choice may be endless.
_LIMITED = ("prlimit", f"--as={16 << 30}", f"--cpu={TIMEOUT}")
_KERNEL = "__global__ void kernel(float *x) { *x = rsqrtf(*x); }\n"
# The headers of CUTLASS that upstream's kernels for every GPU include (v0.8.4 to v0.9.2).
_CUTLASS = (
    "cute/tensor.hpp", "cutlass/array.h", "cutlass/bfloat16.h", "cutlass/cutlass.h", "cutlass/numeric_conversion.h",
    "cutlass/numeric_types.h", "cutlass/gemm/device/gemm_grouped.h", "cutlass/gemm/kernel/default_gemm_grouped.h",
)  # fmt: skip
_PROGRAM = "int main(void) { return 0; }\n"
# gcc's own library folders: a -devel package puts its library there.
_SYSTEM = ("/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/local/lib")


@dataclass(frozen=True)
class Trials:
    """The trials that passed on this host: a file of their names, each with the digest of its dependencies."""

    file: Path

    def failure(self, name: str, depends: object, attempt: Callable[[], str]) -> str:
        """Why the trial fails, or "". Calls ``attempt`` unless the trial passed before with the same ``depends``."""
        passed, inputs = self._passed(), digest_of(depends)
        if passed.get(name) == inputs:
            return ""
        reason = attempt()
        if not reason:
            self._remember({**passed, name: inputs})
        return reason

    def _passed(self) -> dict[str, str]:
        try:
            found = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _remember(self, passed: dict[str, str]) -> None:
        # Without the record the trial only runs again.
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial = self.file.with_name(f".{self.file.name}.{os.getpid()}")
            partial.write_text(json.dumps(passed, indent=1, sort_keys=True) + "\n")
            partial.replace(self.file)


def identity(path: str | Path | None) -> list[object]:
    """The real path, time and size of a program or folder: they change when it does."""
    if not path:
        return []
    real = Path(path).resolve()
    try:
        status = real.stat()
    except OSError:
        return [str(real)]
    return [str(real), status.st_mtime_ns, status.st_size]


def alone(
    argv: Sequence[str | Path],
    path: str,
    *,
    stdin: str | None = None,
    reason: Callable[[str], str] | None = None,
) -> str:
    """Run a program with this PATH and an otherwise empty environment; the reason of its failure, or "".

    ``reason`` finds it in the program's output; without it that is the line of ``error_line``. The program's temporary
    files lie where this process's do: compilers would take /tmp.
    """
    try:
        # cargo reads a configuration of each folder above the working directory.
        words = ["env", "-i", "LC_ALL=C.UTF-8", f"PATH={path}", f"TMPDIR={tempfile.gettempdir()}", *argv]
        done = run(words, cwd=Path("/"), stdin=stdin, timeout=TIMEOUT, accept=range(-64, 256))
    except PipelineError as error:
        return error.what
    if done.returncode == 0:
        return ""
    return (reason or error_line)(done.stderr or done.stdout) or ended(done.returncode)


def error_line(output: str) -> str:
    """The line of a compiler's output that holds the error, else the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("collect2:")]
    wanted = ("error", "cannot find", "not found", "undefined reference")
    return next((line for line in lines if any(word in line for word in wanted)), lines[-1] if lines else "")[:300]


def compiles(nvcc: str, arch: str, path: str) -> str:
    """Why nvcc and the gcc of ``path`` do not compile a kernel for ``arch`` ("sm_89"), or ""."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "trial.cu").write_text(_KERNEL)
        return alone(_command(nvcc, arch, Path(folder)), path)


def compiles_cutlass(
    nvcc: str, arch: str, path: str, cutlass: Path, headers: Sequence[str], *, protected: bool = True
) -> str:
    """The same for a kernel that includes ``headers`` of the checkout ``cutlass``.

    Upstream chooses the commit, so they may include any file: the compiler runs in a sandbox that shows toolkit and
    checkout alone, with limits of memory and processor time.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "trial.cu").write_text("".join(f"#include <{name}>\n" for name in headers) + _KERNEL)
        inside = Path("/trial") if protected else Path(folder)
        programs = [found for name in (nvcc, "gcc", "g++") if (found := shutil.which(name, path=path))]
        places = [place for program in programs for place in (Path(program), Path(program).resolve())]
        sandbox = Sandbox(
            readable=outside_the_system([*(place.parents[1] for place in places), cutlass]),
            writable_places={inside: Path(folder)},
            environment={"PATH": path, "TMPDIR": str(inside), "LC_ALL": "C.UTF-8"},
            protected=protected,
        )  # fmt: skip
        words = [*_LIMITED, *_command(nvcc, arch, inside), "-w", "-std=c++17", "--expt-relaxed-constexpr"]
        words += [f"-I{cutlass / 'include'}", f"-I{cutlass / 'tools/util/include'}"]
        try:
            done = sandbox.run(words, timeout=TIMEOUT, accept=range(-64, 256))
        except PipelineError as error:
            return error.what
    if done.returncode == 0:
        return ""
    return shown(error_line(done.stderr or done.stdout), 300) or ended(done.returncode)


def _command(nvcc: str, arch: str, folder: Path) -> list[str | Path]:
    """As upstream's build scripts call it: the architecture is the flavour's alone."""
    return [nvcc, f"-arch={arch}", "-c", "-o", folder / "trial.o", folder / "trial.cu"]


def tried_headers(cutlass: Path, included: Collection[str]) -> list[str]:
    """The headers of a checkout of CUTLASS to try, out of those that a commit's sources include."""
    return [name for name in _CUTLASS if name in included and (cutlass / "include" / name).is_file()]


def check_cutlass_compiles(reason: str, gcc: str, commit: str) -> Finding:
    return Finding.of(
        "nvcc with CUTLASS",
        reason or f"gcc {gcc or 'none'}, {commit[:12]}",
        "compiles its headers",
        fits=not reason,
        remedy="This version of upstream needs another gcc (first on the build's PATH, /usr/local/bin) or another CUDA "
        "in the flavour's row",
    )


def links(libraries: Sequence[str], library_path: Iterable[str], path: str) -> dict[str, str]:
    """Why each library cannot be linked; empty when a program links with all of them at once."""
    folders = [f"-L{folder}" for folder in library_path]

    def link(names: Sequence[str]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            # Without --no-as-needed a linker may leave out a library that no symbol comes from.
            words = ["gcc", "-x", "c", "-", "-o", f"{folder}/trial", "-Wl,--no-as-needed", *folders]
            return alone([*words, *(f"-l{name}" for name in names)], path, stdin=_PROGRAM)

    together = link(libraries)
    if not together:
        return {}
    apart = {name: reason for name in libraries if (reason := link([name]))}
    return apart or {" ".join(libraries): together}


def check_compiles(reason: str, gcc: str, arch: str) -> Finding:
    return Finding.of(
        "nvcc with gcc",
        reason or f"gcc {gcc or 'none'}, {arch}",
        "compiles a kernel",
        fits=not reason,
        remedy="Repair the toolkit (delete it: wheels are laid out again), or take another gcc or CUDA",
    )


def check_library(name: str, reason: str, features: Iterable[str], library_path: Sequence[str]) -> Finding:
    """``features`` are those that link the library; without one every build links it."""
    linking = ", ".join(feature for feature in features if feature)
    remedy = (
        f"Feature {linking} links it. cuda_toolkit_components=full brings it with wheels, its -devel package with dnf; "
        f"{':'.join(library_path) or 'no folder of a toolkit'} and gcc's own folders were searched"
        if linking
        else "Install g++ (on Fedora gcc-c++)"
    )
    return Finding.of(f"library {name}", reason or "links", "links", fits=not reason, remedy=remedy)


def system_libraries() -> list[list[object]]:
    """The identity of the system's library folders, which changes when a package adds or removes a library."""
    return [identity(folder) for folder in _SYSTEM]
