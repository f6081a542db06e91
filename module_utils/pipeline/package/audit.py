"""The audit: checks before packaging that a binary is what its manifest records.

Rules, most of them for faults that upstream's users reported (its issues 2272, 1571, 1596, 2303, 2411):

1. Its PTX and SASS are for the flavour's architecture only; a flavour without CUDA has neither.
2. It needs only libraries that the package's dependencies provide.
3. It has no RPATH or RUNPATH: a patched or leaked one breaks on the user's machine.
4. It is hardened: position-independent (ET_DYN with the flag PIE), full RELRO (GNU_RELRO and BIND_NOW), no executable
   stack, no segment both writable and executable, no TEXTREL.
5. It requires no processor beyond the baseline in rustc's flags, see below.
6. It starts, prints the version and the commit of its source, and has exactly the flavour's features. Without a GPU a
   stub replaces libcuda.so.1.
7. Its size is within a quarter of the flavour's last build, and it contains no path of the builder. These two are only
   warnings: upstream may grow, and a path is a blemish.

The limits of rule 5. Instructions beyond the baseline are legitimate in a good binary: gemm, aws-lc, memchr and other
crates choose by CPUID at run time. So the file's content proves nothing; the audit checks its behaviour and its making:

- the program runs to its version, its help and the first error of a configuration, on an emulated processor with only
  the baseline's instructions (qemu-user, if installed): this proves every instruction of these paths, but none that
  loads a model or computes;
- its ELF note requires no more than the baseline of the loader (linkers write the note only on request);
- the flags that cargo recorded name no native CPU: this covers all of Rust's code;
- no build script printed ``-march=native``: this covers C code as far as a script prints its commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Artifact, Flavour
from ..base.sandbox import Sandbox
from ..base.text import shown, size
from .binary import PROCESSORS, Binary, TrialRun, read_binary, run_trial

BASE_LIBRARIES = frozenset({
    "ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6",
    "libpthread.so.0", "libdl.so.2", "librt.so.1",
})  # fmt: skip
CUDA_LIBRARIES = frozenset({
    "libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libnvrtc.so.13",
})  # fmt: skip
FEATURE_LIBRARIES = {"cudnn": "libcudnn.so.9", "nccl": "libnccl.so.2"}
LEVELS = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")
"""The processor levels of the psABI; each includes the one before it."""

SIZE_CHANGE = 0.25
_SECONDS, _MOST = 300, 20


@dataclass(frozen=True)
class Audit:
    """The findings of an audit, and their summary in a few words."""

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
    artifact: Artifact,
    binary: Binary,
    trial: TrialRun,
    *,
    native: Sequence[str] = (),
    before: Artifact | None = None,
) -> list[Finding]:
    """The findings about a binary. ``native``: build scripts that printed a native CPU; ``before``: the last build."""
    flavour, level = artifact.flavour, baseline(artifact.rustflags)
    strange = sorted(binary.needed - allowed_libraries(flavour))
    findings = [
        Finding.of(
            "needed libraries",
            ", ".join(strange) or "as allowed",
            "the flavour's own",
            fits=not strange,
            remedy="Another feature or library was linked in: compare the flavour's features",
        ),
        Finding.of(
            "RPATH",
            listed(binary.paths),
            "none",
            fits=not binary.paths,
            remedy="Something set a library path at link time: search the log for -rpath",
        ),
        Finding.of(
            "hardening",
            ", ".join(sorted(binary.weak)) or "PIE, full RELRO, NX",
            "PIE, full RELRO, NX",
            fits=not binary.weak,
            remedy="Something set flags for the linker, or an assembler file lacks .note.GNU-stack: search rustflags "
            "and the build scripts for link-arg",
        ),
        Finding.of(
            "rustc's flags",
            artifact.rustflags or "none",
            "no native CPU",
            fits="native" not in artifact.rustflags,
            remedy="It would crash on other CPUs: set rustflags to a named baseline",
        ),
        Finding.of(
            "C compilers' flags",
            ", ".join(native) or "no native CPU",
            "no native CPU",
            fits=not native,
            remedy="It would crash on other CPUs: patch that build script, or report it upstream",
        ),
        judge_isa(binary.isa, level),
        judge_emulation(trial.fault, level),
        Finding.of(
            "version",
            trial.version,
            artifact.crate_version,
            fits=trial.version.split()[-1:] == [artifact.crate_version],
            remedy="The binary is not from this source: delete target/ on the builder and build again",
        ),
        judge_commit(str(trial.build.get("git_revision", "")), artifact.source.commit),
        judge_features(features(binary, trial.build), frozenset(flavour.features)),
        judge_archs("PTX", binary.ptx, flavour),
        judge_archs("SASS", binary.sass, flavour),
        judge_size(artifact, before),
        judge_leaks(binary.leaks),
    ]
    if flavour.arch and not binary.ptx | binary.sass:
        findings.append(Finding.bad("GPU code", "none", flavour.arch, "The build left CUDA out: check the features"))
    return findings


def judge_archs(kind: str, found: frozenset[str], flavour: Flavour) -> Finding:
    """One kind of GPU code against the flavour's architecture."""
    return Finding.of(
        kind,
        listed(found),
        flavour.arch or "none",
        fits=not found - {flavour.arch},
        remedy="Kernels of another GPU: delete target/ on the builder and build again",
    )


def baseline(rustflags: str) -> str:
    """The level of rustc's target CPU; "" if that is a model instead of a level."""
    named = re.findall(r"target-cpu=(\S+)", rustflags)
    name = named[-1] if named else LEVELS[0]
    return LEVELS[0] if name == "generic" else name if name in LEVELS else ""


def judge_isa(required: frozenset[str], level: str) -> Finding:
    """The levels that the ELF note requires of the loader, against the baseline."""
    names = {name.replace("-baseline", "") for name in required}
    allowed = set(LEVELS[: LEVELS.index(level) + 1]) if level else names
    return Finding.of(
        "ELF note of the ISA",
        listed(names),
        f"at most {level}" if level else "any",
        fits=names <= allowed,
        remedy="The loader refuses it on older CPUs: search the log for -z x86-64-v3 or -march",
    )


def judge_emulation(fault: str | None, level: str) -> Finding:
    """The run on an emulated processor."""
    check = "baseline CPU"
    if fault is not None:
        return Finding.of(
            check,
            fault or "starts on it",
            level,
            fits=not fault,
            remedy="It would crash on older CPUs: something was compiled for a newer CPU than the one in rustflags",
        )
    if level not in PROCESSORS:
        return Finding.ok(check, f"not tried: {level or 'this CPU'} cannot be emulated", level)
    return Finding.warn(
        check,
        "not tried: qemu-user is not installed",
        level,
        "Install qemu-user: then the audit runs the program on the oldest CPU that it is for",
    )


def judge_commit(reported: str, commit: str) -> Finding:
    """The commit that the program reports. Old versions report none, which fits."""
    if reported in ("", "unknown"):
        return Finding.ok("commit", "not reported", commit)
    return Finding.of(
        "commit",
        reported,
        commit,
        fits=commit.startswith(reported) or reported.startswith(commit),
        remedy="It was compiled from another commit: delete target/ on the builder and build again",
    )


def features(binary: Binary, build: Mapping[str, Any]) -> dict[str, bool]:
    """The features that are known: from the program's report, else from its libraries and kernels.

    Upstream's ``doctor --json`` reports cudnn, flash_attn and other features as true or false, but not nccl.
    """
    known = {feature: library in binary.needed for feature, library in FEATURE_LIBRARIES.items()}
    known |= {"cuda": bool(binary.ptx or binary.sass), "flash-attn": binary.flash_attention}
    known |= {name.replace("_", "-"): on for name, on in build.items() if isinstance(on, bool)}
    reported = build.get("features")
    return {name: name in reported for name in {*known, *reported}} if isinstance(reported, list) else known


def judge_features(known: Mapping[str, bool], wanted: frozenset[str]) -> Finding:
    """The features in the binary, against the features of the flavour's row."""
    found = {name for name, on in known.items() if on}
    wrong = [f"{name} missing" for name in sorted(wanted & set(known) - found)]
    wrong += [f"{name} not asked for" for name in sorted(found - wanted)]
    return Finding.of(
        "features",
        ", ".join(wrong or sorted(found)) or "none",
        listed(wanted),
        fits=not wrong,
        remedy="Compare the flavour's features with upstream's Cargo.toml of this version",
    )


def judge_size(artifact: Artifact, before: Artifact | None) -> Finding:
    """A jump in size shows debug information, or a feature that came or went."""
    found = size(artifact.size)
    if before is None:
        return Finding.ok("size", found, "any: the first build of this flavour")
    change = artifact.size / before.size - 1
    found = f"{found}, {change:+.0%}"
    needed = f"within {SIZE_CHANGE:.0%} of {size(before.size)} ({before.source.rpm_version})"
    if abs(change) <= SIZE_CHANGE:
        return Finding.ok("size", found, needed)
    return Finding.warn("size", found, needed, "Find out what changed before it is published")


def judge_leaks(leaks: int) -> Finding:
    """Paths of the builder in the binary."""
    if not leaks:
        return Finding.ok("builder's paths", "none", "none")
    remedy = "Another builder makes other bytes: make reproduce names the crate"
    return Finding.warn("builder's paths", f"{leaks} in the binary", "none", remedy)


def listed(names: Iterable[str]) -> str:
    """Names for a finding, or "none"."""
    return ", ".join(sorted(names)) or "none"


# ---------------------------------------------------------------- the edge


def audit(
    artifact: Artifact,
    *,
    cuobjdump: str = "",
    library_path: Sequence[str] = (),
    targets: Sequence[Path] = (),
    protected: bool = True,
) -> Audit:
    """Read, run and judge an artifact's binary.

    ``targets`` are the target directories that its build wrote, by default that of releases. Without ``protected``
    nothing runs in a sandbox.
    """
    folder = Path(artifact.folder)
    path, root = folder / artifact.binary, folder.parents[2]
    binary = read_binary(path, cuobjdump, root, protected=protected)
    trial = run_trial(path, library_path, baseline(artifact.rustflags), protected=protected)
    native = native_scripts(targets or [root / "target"], protected=protected)
    findings = judge(artifact, binary, trial, native=native, before=last_build(artifact))
    code = ", ".join(sorted(binary.ptx | binary.sass)) or "no GPU code"
    return Audit(tuple(findings), f"{trial.version}, {code}, {size(artifact.size)}")


def native_scripts(targets: Iterable[Path], *, protected: bool = True) -> list[str]:
    """The folders of the build scripts, below cargo's target directories, that printed a native CPU.

    Build scripts wrote there what they like, so the search runs in a sandbox. It follows no link and waits for no fifo.
    """
    builds = [path for target in targets if (path := target / "release" / "build").is_dir()]
    if not builds:
        return []
    options = ["--include=output", "--include=stderr", "--devices=skip", "--null", "--max-count=1"]
    words: list[str | Path] = ["grep", "-rlE", *options, "-e", r"-m(arch|cpu)=native\b", "--", *builds]
    found = Sandbox(readable=builds, protected=protected).run(words, timeout=_SECONDS, accept=(0, 1, 2)).stdout
    return sorted({shown(Path(name).parent.name) for name in found.split("\0") if name})[:_MOST]


def last_build(artifact: Artifact) -> Artifact | None:
    """The newest other artifact of the flavour with the same features."""
    manifests = Path(artifact.folder).parent.glob("*/manifest.json")
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            other = Artifact.read(path)
        except PipelineError:  # of another version of this project
            continue
        if other.inputs != artifact.inputs and set(other.flavour.features) == set(artifact.flavour.features):
            return other
    return None
