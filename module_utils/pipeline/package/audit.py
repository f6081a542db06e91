"""Audit: is this binary what its manifest says, before it becomes a package?

Rules, most of them for something that upstream's users met (its issues 2272, 1571, 1596, 2303, 2411):

1. Its PTX and SASS are for the flavour's architecture and no other; a flavour without CUDA has neither.
2. It needs only libraries that the package's dependencies bring.
3. It has no RPATH or RUNPATH: a patched or leaked one breaks on the user's machine.
4. It is hardened: position-independent (ET_DYN with the flag PIE), full RELRO (GNU_RELRO and BIND_NOW), no executable
   stack, no segment that can be written and executed, no TEXTREL.
5. It asks for no processor beyond the baseline that rustc's flags name, see below.
6. It starts, tells the version and the commit of its source, and has the features that were asked for and no others.
   Without a GPU a stub stands in for libcuda.so.1.
7. Its size is within a quarter of the last build of this flavour, and it holds no path of the builder. What breaks this
   rule is told and refused by nobody: upstream may grow, and a path is a blemish.

What is proved of rule 5, and what is not. Instructions beyond the baseline are legitimate in a good binary: gemm,
aws-lc, memchr and others choose by CPUID at run time. So the file cannot be judged by what it contains; it is judged
by what it does and by how it was made:

- the program is run to its version, its help and the first error of a configuration, on an emulated processor that has
  the baseline's instructions and no more (qemu-user, where it is installed): every instruction of these paths is
  proved, what loads a model or computes is not;
- its ELF note does not ask the loader for more than the baseline (linkers write the note only when they are told to);
- the flags that cargo recorded name no native CPU: all of Rust's own code;
- no build script told of ``-march=native``: C code, as far as a script tells its commands.
"""

from __future__ import annotations

import json
import mmap
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Artifact, Flavour
from ..base.run import CommandFailed, run

BASE_LIBRARIES = frozenset({
    "ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6",
    "libpthread.so.0", "libdl.so.2", "librt.so.1",
})  # fmt: skip
CUDA_LIBRARIES = frozenset({
    "libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libnvrtc.so.13",
})  # fmt: skip
FEATURE_LIBRARIES = {"cudnn": "libcudnn.so.9", "nccl": "libnccl.so.2"}
LEVELS = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")
"""The processors' levels of the psABI, each with all that the one before it has."""

PROCESSORS = {
    "x86-64": "qemu64,-sse3,-cx16,-lahf-lm",
    "x86-64-v2": "Nehalem",
    "x86-64-v3": "Haswell",
}
"""What qemu-user calls a processor of a level. None emulates AVX-512."""

SIZE_CHANGE = 0.25
TRIES: tuple[tuple[str, ...], ...] = (("--version",), ("--help",), ("from-config", "--file", "audit.toml"))
# Upstream looks for the model before it listens, its stand-in does not: both end with an error, at once and without
# leaving this machine. 192.0.2.1 is an address that nobody has (RFC 5737).
_CONFIGURATION = """\
command = "serve"
[server]
host = "192.0.2.1"
port = 1
[[models]]
kind = "auto"
model_id = "mistralrs-rpm/audit"
"""
_NOWHERE = "http://127.0.0.1:9"

_PTX = re.compile(rb"\n\.target (sm_\w+)")
_FLASH_ATTENTION = b"flash_fwd"
_CUBIN = re.compile(r"\.(sm_\w+)\.cubin")
_DYNAMIC = re.compile(r"\((NEEDED|RPATH|RUNPATH)\)[^\[]*\[(.*)\]")
_ISA = re.compile(r"x86 ISA needed: (.+)")
_NATIVE = re.compile(rb"-m(?:arch|cpu)=native\b")


@dataclass(frozen=True)
class Binary:
    """What was read from a binary. ``weak`` are protections that it lacks, ``leaks`` counts the builder's paths."""

    ptx: frozenset[str]
    sass: frozenset[str]
    needed: frozenset[str]
    paths: frozenset[str]
    weak: frozenset[str] = frozenset()
    isa: frozenset[str] = frozenset()
    flash_attention: bool = False
    leaks: int = 0


@dataclass(frozen=True)
class Told:
    """What the program said of itself.

    ``version`` is what ``--version`` printed, or in words why it did not; ``build`` what ``doctor --json`` says of
    how it was built, empty where it says nothing; ``fault`` what went wrong on the emulated baseline, "" for nothing
    and None where nothing was tried.
    """

    version: str
    build: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True)
class Audit:
    """An audit's findings, and the few words of it that a summary shows."""

    findings: tuple[Finding, ...]
    summary: str


# ---------------------------------------------------------------- decisions


def allowed_libraries(flavour: Flavour) -> frozenset[str]:
    """The SONAMEs that a flavour may need."""
    if "cuda" not in flavour.features:
        return BASE_LIBRARIES
    extra = {FEATURE_LIBRARIES[f] for f in flavour.features if f in FEATURE_LIBRARIES}
    return BASE_LIBRARIES | CUDA_LIBRARIES | extra


def judge(
    artifact: Artifact, binary: Binary, told: Told, *, native: Sequence[str] = (), before: Artifact | None = None
) -> list[Finding]:
    """The findings about a binary. ``native``: build scripts that told of a native CPU; ``before``: the last build."""
    flavour = artifact.flavour
    strange = sorted(binary.needed - allowed_libraries(flavour))
    findings = [
        Finding("needed libraries", ", ".join(strange) or "as allowed", "the flavour's own", not strange,
                "Another feature or library was linked in: compare the flavour's features" if strange else ""),
        Finding("RPATH", ", ".join(sorted(binary.paths)) or "none", "none", not binary.paths,
                "Something set a library path at link time: look for -rpath in the log" if binary.paths else ""),
        Finding("hardening", ", ".join(sorted(binary.weak)) or "PIE, full RELRO, NX", "PIE, full RELRO, NX",
                not binary.weak, "Something set flags for the linker, or an assembler file lacks .note.GNU-stack: look "
                "for link-arg in rustflags and in the build scripts" if binary.weak else ""),
        Finding("rustc's flags", artifact.rustflags or "none", "no native CPU", "native" not in artifact.rustflags,
                "It would crash on other CPUs: set rustflags to a named baseline"),
        Finding("C compilers' flags", ", ".join(native) or "no native CPU told", "no native CPU", not native,
                "It would crash on other CPUs: patch that build script, or report it upstream" if native else ""),
        check_isa(binary.isa, baseline(artifact.rustflags)),
        check_trial(told.fault, baseline(artifact.rustflags)),
        Finding("version", told.version, artifact.crate_version,
                told.version.split()[-1:] == [artifact.crate_version],
                "The binary is not the one of this source: delete target/ on the builder and build again"),
        check_commit(str(told.build.get("git_revision", "")), artifact.source.commit),
        check_features(features(binary, told.build), frozenset(flavour.features)),
        check_archs("PTX", binary.ptx, flavour),
        check_archs("SASS", binary.sass, flavour),
        check_size(artifact, before),
        Finding("builder's paths", f"{binary.leaks} in the binary" if binary.leaks else "none", "none", fits=True,
                remedy="Another builder makes other bytes: make reproduce tells which crate" if binary.leaks else "",
                warning=binary.leaks > 0),
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
        "Kernels of another GPU: delete target/ on the builder and build again" if wrong else "",
    )  # fmt: skip


def baseline(rustflags: str) -> str:
    """The level that rustc was told to compile for; "" where its target CPU is a model and not a level."""
    named = re.findall(r"target-cpu=(\S+)", rustflags)
    name = named[-1] if named else LEVELS[0]
    return LEVELS[0] if name == "generic" else name if name in LEVELS else ""


def check_isa(asked: frozenset[str], level: str) -> Finding:
    """What the ELF note asks the loader for, against the baseline."""
    names = {name.replace("-baseline", "") for name in asked}
    allowed = set(LEVELS[: LEVELS.index(level) + 1]) if level else names
    wrong = names - allowed
    return Finding(
        "ELF note of the ISA", ", ".join(sorted(names)) or "none", f"at most {level}" if level else "any", not wrong,
        "The loader refuses it on older CPUs: look for -z x86-64-v3 or -march in the log" if wrong else "",
    )  # fmt: skip


def check_trial(fault: str | None, level: str) -> Finding:
    """The run on an emulated processor."""
    if fault is None:
        why = "qemu-user is not installed" if level in PROCESSORS else f"{level or 'this CPU'} cannot be emulated"
        return Finding("baseline CPU", f"not tried: {why}", level, fits=True, warning=level in PROCESSORS,
                       remedy="Install qemu-user: then the audit runs the program on the oldest CPU that it is for"
                       if level in PROCESSORS else "")  # fmt: skip
    return Finding(
        "baseline CPU", fault or "starts on it", level, not fault,
        "It would crash on older CPUs: something was compiled for a newer one than rustflags says" if fault else "",
    )  # fmt: skip


def check_commit(told: str, commit: str) -> Finding:
    """The commit that the program tells; a version that tells none is not held against it."""
    known = told not in ("", "unknown")
    fits = not known or commit.startswith(told) or told.startswith(commit)
    return Finding(
        "commit", told if known else "not told", commit, fits,
        "It was compiled from another commit: delete target/ on the builder and build again" if not fits else "",
    )  # fmt: skip


def features(binary: Binary, build: Mapping[str, Any]) -> dict[str, bool]:
    """What is known of the features: what the program says, where it says nothing what its libraries and kernels do.

    Upstream's ``doctor --json`` says cudnn, flash_attn and others as true or false, and nothing of nccl.
    """
    known = {feature: library in binary.needed for feature, library in FEATURE_LIBRARIES.items()}
    known |= {"cuda": bool(binary.ptx or binary.sass), "flash-attn": binary.flash_attention}
    known |= {name.replace("_", "-"): on for name, on in build.items() if isinstance(on, bool)}
    listed = build.get("features")
    return {name: name in listed for name in {*known, *listed}} if isinstance(listed, list) else known


def check_features(known: Mapping[str, bool], asked: frozenset[str]) -> Finding:
    """The features that are in the binary, against those that the flavour's row names."""
    there = {name for name, on in known.items() if on}
    wrong = [f"{name} missing" for name in sorted(asked & set(known) - there)]
    wrong += [f"{name} not asked for" for name in sorted(there - asked)]
    return Finding(
        "features", ", ".join(wrong or sorted(there)) or "none", ", ".join(sorted(asked)) or "none", not wrong,
        "Compare the flavour's features with upstream's Cargo.toml of this version" if wrong else "",
    )  # fmt: skip


def check_size(artifact: Artifact, before: Artifact | None) -> Finding:
    """A jump in size is how a feature that came or went, or debug information, shows."""
    found = f"{artifact.size / 1e6:.1f} MB"
    if before is None:
        return Finding("size", found, "any: the first build of this flavour", fits=True)
    change = artifact.size / before.size - 1
    return Finding(
        "size", f"{found}, {change:+.0%}",
        f"within {SIZE_CHANGE:.0%} of {before.size / 1e6:.1f} MB ({before.source.rpm_version})",
        fits=True, warning=abs(change) > SIZE_CHANGE,
        remedy="Look at what changed before it is published" if abs(change) > SIZE_CHANGE else "",
    )  # fmt: skip


def weaknesses(told: str) -> frozenset[str]:
    """The protections that a binary lacks, from ``readelf --file-header --program-headers --dynamic --wide``."""
    headers = re.findall(r"^  (\w+) +(?:0x\w+ ){5}([RWE ]{3})", told, re.MULTILINE)
    segments = dict(headers)
    flags = set(" ".join(re.findall(r"\(FLAGS(?:_1)?\) +(?:Flags: )?(.*)", told)).split())
    pie = re.search(r"^ +Type: +DYN", told, re.MULTILINE) and "PIE" in flags
    now = flags & {"NOW", "BIND_NOW"} or "(BIND_NOW)" in told
    found = {
        "no PIE": not pie,
        "no RELRO": "GNU_RELRO" not in segments,
        "lazy binding (partial RELRO)": not now,
        "executable stack": "E" in segments.get("GNU_STACK", "E"),
        "segment to write and execute": any(name == "LOAD" and {"W", "E"} <= set(flag) for name, flag in headers),
        "TEXTREL": "TEXTREL" in flags or "(TEXTREL)" in told,
    }
    return frozenset(name for name, bad in found.items() if bad)


# ---------------------------------------------------------------- measuring


def examine(artifact: Artifact, *, cuobjdump: str = "", library_path: Sequence[str] = ()) -> Audit:
    """Read, start and judge an artifact's binary."""
    folder = Path(artifact.folder)
    path, root = folder / artifact.binary, folder.parents[2]
    binary = read_binary(path, cuobjdump, root)
    told = start(path, library_path, baseline(artifact.rustflags))
    findings = judge(artifact, binary, told, native=native_scripts(root / "target"), before=last_build(artifact))
    code = ", ".join(sorted(binary.ptx | binary.sass)) or "no GPU code"
    return Audit(tuple(findings), f"{told.version}, {code}, {artifact.size / 1e6:.1f} MB")


def read_binary(path: Path, cuobjdump: str = "", root: Path | None = None) -> Binary:
    """What the file holds. SASS is listed by NVIDIA's cuobjdump, a program of the toolkit."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        ptx = frozenset(match[1].decode() for match in _PTX.finditer(data))
        flash_attention = data.find(_FLASH_ATTENTION) >= 0
        leaks = len(re.findall(re.escape(bytes(root)) + rb"[/\0]", data)) if root else 0
    said = run(["readelf", "--file-header", "--program-headers", "--dynamic", "--notes", "--wide", path]).stdout
    dynamic = _DYNAMIC.findall(said)
    return Binary(
        ptx=ptx,
        sass=list_sass(path, cuobjdump),
        needed=frozenset(name for kind, name in dynamic if kind == "NEEDED"),
        paths=frozenset(name for kind, name in dynamic if kind != "NEEDED"),
        weak=weaknesses(said),
        isa=frozenset(name for line in _ISA.findall(said) for name in line.split(", ")),
        flash_attention=flash_attention,
        leaks=leaks,
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


def native_scripts(target: Path) -> list[str]:
    """The build scripts below cargo's target directory whose output names a native CPU, by their folder."""
    told = [path for name in ("output", "stderr") for path in (target / "release" / "build").glob(f"*/{name}")]
    return sorted({path.parent.name for path in told if _NATIVE.search(path.read_bytes())})


def last_build(artifact: Artifact) -> Artifact | None:
    """The newest other artifact of the flavour that has its features."""
    manifests = Path(artifact.folder).parent.glob("*/manifest.json")
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            other = Artifact.read(path)
        except PipelineError:  # of another version of this project
            continue
        if other.inputs != artifact.inputs and set(other.flavour.features) == set(artifact.flavour.features):
            return other
    return None


def start(path: Path, library_path: Sequence[str], level: str) -> Told:
    """What the program says, in an empty environment, an empty home and without a network."""
    with tempfile.TemporaryDirectory(prefix="mistralrs-audit-") as name:
        home = Path(name)
        (home / "audit.toml").write_text(_CONFIGURATION)
        program = _Program(path, tuple(library_path), home)
        return Told(program.version(), program.build(), program.fault(level))


@dataclass(frozen=True)
class _Program:
    path: Path
    library_path: tuple[str, ...]
    home: Path

    def version(self) -> str:
        try:
            return self._run("--version")
        except PipelineError as error:
            return f"does not start: {error.what}"

    def build(self) -> dict[str, Any]:
        """``system.build`` of the doctor's report; it ends with 0 and whatever it found, or is not known."""
        try:
            build = json.loads(self._run("doctor", "--json"))["system"]["build"]
        except (PipelineError, ValueError, KeyError, TypeError):
            return {}
        return build if isinstance(build, dict) else {}

    def fault(self, level: str) -> str | None:
        """What kills the program on the emulated processor; an error that it tells itself is as good as a success."""
        emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
        if emulator is None or level not in PROCESSORS:
            return None
        words = [emulator, "-cpu", PROCESSORS[level]]
        with ThreadPoolExecutor() as pool:
            faults = pool.map(lambda arguments: self._fault_of(arguments, words), TRIES)
        return next((fault for fault in faults if fault), "")

    def _fault_of(self, arguments: Sequence[str], before: Sequence[str]) -> str:
        try:
            self._run(*arguments, before=before)
        except CommandFailed as error:
            if error.status < 0:
                name = signal.Signals(-error.status).name
                return f"{arguments[0]} ends with {name.replace('SIGILL', 'an illegal instruction')}"
            return f"{arguments[0]} fails: {error.stderr.strip()[-200:]}" if arguments == TRIES[0] else ""
        except PipelineError as error:
            return f"{arguments[0]}: {error.what}"
        return ""

    def _run(self, *arguments: str, before: Sequence[str] = ()) -> str:
        environment = {
            "LC_ALL": "C.UTF-8", "LD_LIBRARY_PATH": ":".join(self.library_path), "HOME": str(self.home),
            "HF_ENDPOINT": _NOWHERE, "HTTPS_PROXY": _NOWHERE, "HTTP_PROXY": _NOWHERE,
        }  # fmt: skip
        words = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *before, str(self.path)]
        return run([*words, *arguments], timeout=60, cwd=self.home).stdout.strip()
