"""Audit: is this binary what its manifest says, before it becomes a package?

Rules, each for something that upstream's users met (its issues 2272, 1571, 1596, 2303, 2411):

1. Its PTX and SASS are for the flavour's architecture and no other; a flavour without CUDA has neither.
2. It needs only libraries that the package's dependencies bring.
3. It has no RPATH or RUNPATH: a patched or leaked one breaks on the user's machine.
4. The flags that rustc used name no ``native`` CPU.
5. It starts, and tells the version of its source. Without a GPU a stub stands in for libcuda.so.1.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .environment import Finding
from .errors import PipelineError
from .records import Artifact, Flavour
from .run import CommandFailed, run

BASE_LIBRARIES = frozenset({
    "ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6",
    "libpthread.so.0", "libdl.so.2", "librt.so.1",
})  # fmt: skip
CUDA_LIBRARIES = frozenset({
    "libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libnvrtc.so.13",
})  # fmt: skip
FEATURE_LIBRARIES = {"cudnn": "libcudnn.so.9", "nccl": "libnccl.so.2"}
_PTX = re.compile(rb"^\.target (sm_\w+)", re.MULTILINE)
_CUBIN = re.compile(r"\.(sm_\w+)\.cubin")
_DYNAMIC = re.compile(r"\((NEEDED|RPATH|RUNPATH)\)[^\[]*\[(.*)\]")


@dataclass(frozen=True)
class Binary:
    """What was read from a binary."""

    ptx: frozenset[str]
    sass: frozenset[str]
    needed: frozenset[str]
    paths: frozenset[str]


def allowed_libraries(flavour: Flavour) -> frozenset[str]:
    """The SONAMEs that a flavour may need."""
    if "cuda" not in flavour.features:
        return BASE_LIBRARIES
    extra = {FEATURE_LIBRARIES[f] for f in flavour.features if f in FEATURE_LIBRARIES}
    return BASE_LIBRARIES | CUDA_LIBRARIES | extra


def judge(artifact: Artifact, binary: Binary, said: str) -> list[Finding]:
    """The findings about a binary; ``said`` is what ``--version`` printed."""
    flavour = artifact.flavour
    strange = sorted(binary.needed - allowed_libraries(flavour))
    findings = [
        Finding("needed libraries", ", ".join(strange) or "as allowed", "the flavour's own", not strange,
                "Another feature or library was linked in: compare the flavour's features" if strange else ""),
        Finding("RPATH", ", ".join(sorted(binary.paths)) or "none", "none", not binary.paths,
                "Something set a library path at link time: look for -rpath in the log" if binary.paths else ""),
        Finding("rustc's flags", artifact.rustflags or "none", "no native CPU", "native" not in artifact.rustflags,
                "It would crash on other CPUs: set rustflags to a named baseline"),
        Finding("version", said, artifact.crate_version, said.split()[-1:] == [artifact.crate_version],
                "The binary is not the one of this source: delete the target directory and build again"),
        check_archs("PTX", binary.ptx, flavour),
        check_archs("SASS", binary.sass, flavour),
    ]  # fmt: skip
    if flavour.arch and not binary.ptx | binary.sass:
        findings.append(
            Finding(
                "GPU code",
                "none",
                flavour.arch,
                fits=False,
                remedy="The build left CUDA out: check the features",
            )
        )
    return findings


def check_archs(kind: str, found: frozenset[str], flavour: Flavour) -> Finding:
    """One sort of GPU code against the flavour's one architecture."""
    wrong = found - {flavour.arch}
    return Finding(
        kind, ", ".join(sorted(found)) or "none", flavour.arch or "none", not wrong,
        f"Kernels of another GPU: delete target/{flavour.name} on the builder and build again" if wrong else "",
    )  # fmt: skip


def read_binary(path: Path, cuobjdump: str = "") -> Binary:
    """What the file holds. SASS is listed by NVIDIA's cuobjdump, a program of the toolkit."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        ptx = frozenset(match[1].decode() for match in _PTX.finditer(data))
    dynamic = _DYNAMIC.findall(run(["readelf", "--dynamic", "--wide", path]).stdout)
    return Binary(
        ptx=ptx,
        sass=list_sass(path, cuobjdump),
        needed=frozenset(name for kind, name in dynamic if kind == "NEEDED"),
        paths=frozenset(name for kind, name in dynamic if kind != "NEEDED"),
    )


def list_sass(path: Path, cuobjdump: str) -> frozenset[str]:
    """The architectures of the embedded machine code; for a flavour without CUDA ``cuobjdump`` is empty."""
    if not cuobjdump:
        return frozenset()
    # It ends with status 255 and "does not contain device code" for a file without any.
    done = run([cuobjdump, "--list-elf", path], accept=(0, 255))
    if done.returncode and "does not contain device code" not in done.stdout + done.stderr:
        raise CommandFailed([cuobjdump, "--list-elf", str(path)], done.returncode, done.stdout, done.stderr)
    return frozenset(_CUBIN.findall(done.stdout))


def version_told(path: Path, library_path: Sequence[str]) -> str:
    """What ``--version`` prints, in an empty environment; the reason in words where it does not start."""
    try:
        done = run(["env", "-i", "LC_ALL=C.UTF-8", f"LD_LIBRARY_PATH={':'.join(library_path)}", path, "--version"],
                   timeout=30)  # fmt: skip
    except PipelineError as error:
        return f"does not start: {error.what}"
    return done.stdout.strip()
