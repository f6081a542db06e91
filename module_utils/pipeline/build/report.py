"""The report of a build: what it did, what it cost, and what differs from the build before.

Beside a build's log ``<flavour>-<rpm_version>-<UTC time>.log`` lie its report as ``.json`` and as a page, ``.html``:

1. The JSON is written last: a build that has one is finished. ``last`` finds the newest of a flavour.
2. The page is one file, with no script and nothing from elsewhere; its links are to its neighbours.
3. What is not known, since a program of another version says it otherwise, is left out: a report never fails a build.
4. What the compile cache gave is compared with the build before of the same flavour: a cache whose key broke fails
   nothing, it only costs hours.

Sizes are bytes, times seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.records import Artifact, CacheCount, Record
from .limits import Parallel
from .report_page import page

SLOWEST = 10
"""How many units and kernels are listed."""

LARGEST = 5
"""How many programs are listed by the memory that they took."""

ENOUGH = 20
"""Fewer calls of a kind say nothing of the cache."""

MARGIN = 0.2
"""A share of hits that fell by less is the sources' own change."""

_NAME = re.compile(r"(?P<flavour>.+)-[^-]+-(?P<time>\d{8}T\d{6}Z)\.(?:log|json|html|log\.alive)")
_UNITS = re.compile(r"^const UNIT_DATA = (\[.*?^\]);$", re.DOTALL | re.MULTILINE)
# "  [16] .text  PROGBITS  0000000001958100 1957100 305b861 00  AX  0   0 64": name, type, address, offset, size, flags.
_SECTION = re.compile(r"^ *\[ *\d+\] (\S*) +(\S+) +[0-9a-f]{16} [0-9a-f]+ ([0-9a-f]+) \S+ +([A-Za-z]*)", re.MULTILINE)
_CUDA = ("CUDA", "CUDA (Device code)", "PTX", "CUBIN")


# ---------------------------------------------------------------- what a report says


@dataclass(frozen=True)
class Unit(Record):
    """A unit of cargo: ``crate`` is "serde 1.0.2", ``part`` what of it; ``began`` counts from cargo's start."""

    crate: str
    part: str
    began: float
    seconds: float


@dataclass(frozen=True)
class Kernel(Record):
    """A call of nvcc for one source; the time holds the wait for the compile cache, not that for a slot."""

    source: str
    seconds: float
    ptx: bool


@dataclass(frozen=True)
class Amount(Record):
    """A named part of a whole: bytes of a binary, seconds of a build, or a count."""

    name: str
    amount: float


@dataclass(frozen=True)
class Level(Record):
    """The compile cache besides its counts: sccache's version, what it holds on disk, and what it may.

    ``shared_down`` says that the shared level was configured and could not be used.
    """

    version: str = ""
    size: int = 0
    limit: int = 0
    shared_down: bool = False


@dataclass(frozen=True)
class BuildReport(Record):
    """One finished build. ``compiled`` and ``fresh`` are units as "serde 1.0.2", a build script as "serde 1.0.2 (build
    script)"; ``phases`` follow each other, ``within`` lie inside the compile; ``memory`` is the peak, 0 where unknown.
    """

    artifact: Artifact
    began: int
    root: str
    parallel: Parallel
    compiled: tuple[str, ...]
    fresh: tuple[str, ...]
    kinds: tuple[CacheCount, ...]
    not_cached: tuple[Amount, ...]
    cache: Level
    slowest: tuple[Unit, ...]
    kernels: int
    kernel_seconds: float
    slowest_kernels: tuple[Kernel, ...]
    phases: tuple[Amount, ...]
    within: tuple[Amount, ...]
    sections: tuple[Amount, ...]
    memory: int = 0
    programs: tuple[Amount, ...] = ()
    host_compiler: str = ""

    @property
    def crates(self) -> frozenset[str]:
        return frozenset(unit.partition(" (")[0] for unit in (*self.compiled, *self.fresh))


@dataclass(frozen=True)
class Observed:
    """What a build saw of itself, as it comes; what is not known is left out.

    ``began`` is in seconds since 1970. ``messages`` are cargo's JSON messages, ``timings`` the text of its
    cargo-timing.html, ``calls`` that of nvcc's log, ``sections`` what ``readelf -SW`` says of the binary; ``kinds`` is
    {kind: {"hits": n, "misses": n}}, ``not_cached`` {reason: n}, ``phases`` seconds by name, in their order. ``memory``
    is what all processes took at most together, ``programs`` what one process of each program did.
    """

    began: float
    root: str
    parallel: Parallel
    messages: Sequence[Mapping[str, Any]] = ()
    timings: str = ""
    calls: str = ""
    sections: str = ""
    kinds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    not_cached: Mapping[str, int] = field(default_factory=dict)
    cache: Level = field(default_factory=Level)
    phases: Mapping[str, float] = field(default_factory=dict)
    memory: int = 0
    programs: Mapping[str, int] = field(default_factory=dict)
    host_compiler: str = ""


def of(artifact: Artifact, seen: Observed) -> BuildReport:
    """The report of the build that left ``artifact``."""
    units, calls = timings(seen.timings), nvcc_calls(seen.calls, seen.root)
    kernels = sorted((kernel for kernel, _ in calls), key=lambda kernel: kernel.seconds, reverse=True)
    programs = [unit.seconds for unit in units if unit.part == "program"]
    within = [
        *([Amount("with nvcc at work", round(_covered(span for _, span in calls), 1))] if calls else []),
        *([Amount("for the program's own crate and its link", programs[-1])] if programs else []),
    ]
    return BuildReport(
        artifact=artifact,
        began=int(seen.began),
        root=seen.root,
        parallel=seen.parallel,
        compiled=unit_names(seen.messages, fresh=False),
        fresh=unit_names(seen.messages, fresh=True),
        kinds=tuple(CacheCount(name, n.get("hits", 0), n.get("misses", 0)) for name, n in sorted(seen.kinds.items())),
        not_cached=tuple(Amount(reason, float(count)) for reason, count in sorted(seen.not_cached.items())),
        cache=seen.cache,
        slowest=units[:SLOWEST],
        kernels=len(kernels),
        kernel_seconds=round(sum((kernel.seconds for kernel in kernels), 0.0), 1),
        slowest_kernels=tuple(kernels[:SLOWEST]),
        phases=tuple(Amount(name, round(float(seconds), 1)) for name, seconds in seen.phases.items()),
        within=tuple(within),
        sections=sizes(seen.sections, artifact.size),
        memory=seen.memory,
        programs=_largest(seen.programs)[:LARGEST],
        host_compiler=seen.host_compiler,
    )


# ---------------------------------------------------------------- reading what programs say


def unit_names(messages: Iterable[Mapping[str, Any]], *, fresh: bool) -> tuple[str, ...]:
    """The units that cargo says it found fresh, or compiled."""
    names = set()
    for message in messages:
        if message.get("reason") == "compiler-artifact" and bool(message.get("fresh")) is fresh:
            script = "custom-build" in message.get("target", {}).get("kind", ())
            names.add(crate(message.get("package_id", "")) + (" (build script)" if script else ""))
    return tuple(sorted(names))


def crate(package_id: str) -> str:
    """The name and version in cargo's package id: ``…/candle?rev=1#candle-core@0.9.2`` or ``…/serde#1.0.2``."""
    where, _, what = package_id.rpartition("#")
    name, at, version = what.rpartition("@")
    if not at:
        name, version = where.partition("?")[0].rstrip("/").rpartition("/")[2], what
    return f"{name} {version}"


def timings(text: str) -> tuple[Unit, ...]:
    """The units in the page that ``cargo build --timings`` leaves, the slowest first; a fresh one took no time.

    Cargo promises nothing of that page. As 1.95 writes it, it holds ``const UNIT_DATA = [`` and the units as JSON.
    """
    found = _UNITS.search(text)
    if not found:
        return ()
    units = []
    with suppress(ValueError, LookupError, TypeError):
        for data in json.loads(found[1]):
            part = "its build script" if data["mode"] == "run-custom-build" else _part(str(data["target"]).strip())
            name = f"{data['name']} {data['version']}"
            units.append(Unit(name, part, float(data["start"]), float(data["duration"])))
    return tuple(sorted((unit for unit in units if unit.seconds), key=lambda unit: unit.seconds, reverse=True))


def _part(target: str) -> str:
    if target.endswith('"bin"'):
        return "program"
    return "compile of its build script" if target == "build-script" else target or "library"


def nvcc_calls(text: str, root: str) -> list[tuple[Kernel, tuple[float, float]]]:
    """The compiles in nvcc's log that succeeded, each with the time from when to when it ran."""
    found = []
    for line in text.splitlines():
        with suppress(ValueError, LookupError, TypeError):
            call = json.loads(line)
            start, seconds = float(call["began"]), float(call["seconds"])
            if call["status"] == 0:
                source = str(call["source"]).removeprefix(f"{root}/").removeprefix("src/")
                found.append((Kernel(source, seconds, bool(call["ptx"])), (start, start + seconds)))
    return found


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The seconds in which at least one span lies."""
    total = end = 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def sizes(readelf: str, whole: int) -> tuple[Amount, ...]:
    """What a binary's bytes are, by what ``readelf -SW`` lists: the largest first, together the ``whole`` file.

    GPU machine code lies in .nv_fatbin; PTX that upstream embeds as text is read-only data.
    """
    groups: dict[str, int] = {}
    for name, sort, size, flags in _SECTION.findall(readelf):
        if sort not in ("NULL", "NOBITS"):
            group = _group(name, flags)
            groups[group] = groups.get(group, 0) + int(size, 16)
    if not groups:
        return ()
    groups["other"] = groups.get("other", 0) + max(0, whole - sum(groups.values()))
    return _largest(groups)


def _largest(sizes: Mapping[str, int]) -> tuple[Amount, ...]:
    """The amounts that are not 0, the largest first."""
    return tuple(Amount(name, float(size)) for name, size in sorted(sizes.items(), key=lambda item: -item[1]) if size)


def _group(name: str, flags: str) -> str:
    if name.startswith((".nv", "__nv")):
        return "GPU code"
    if "X" in flags:
        return "code"
    if name in (".symtab", ".strtab") or name.startswith(".debug"):
        return "symbols"
    if name.startswith((".rodata", ".data", ".tdata", ".lrodata", ".ldata")):
        return "data"
    if name.startswith((".eh_frame", ".gcc_except_table")):
        return "unwinding"
    return "relocations" if name.startswith(".rela") else "other"


# ---------------------------------------------------------------- what fell


def asked(kind: CacheCount) -> int:
    return kind.hits + kind.misses


def hit_share(kind: CacheCount) -> float:
    return kind.hits / asked(kind) if asked(kind) else 0.0


@dataclass(frozen=True)
class _Cause:
    """Why the cache may have given less, of which ``kinds`` (all when empty), and what to do where that is anything.

    A ``certain`` one is a change of the build's surroundings; another is a change of the sources, which is no
    reason to warn by itself.
    """

    text: str
    remedy: str = ""
    kinds: tuple[str, ...] = ()
    certain: bool = True


def drops(report: BuildReport, previous: BuildReport | None) -> list[str]:
    """A warning where the cache gave a smaller share of what it was asked for than in the build before.

    A kind counts from ENOUGH calls on, and where its share fell by MARGIN. A build before that asked for too little
    has no share: everything was there, and a fall is one only where the surroundings changed.
    """
    if previous is None:
        return []
    before = {kind.kind: kind for kind in previous.kinds}
    causes = _causes(report, previous)
    found: dict[tuple[_Cause, ...], list[str]] = {}
    for kind in report.kinds:
        likely = tuple(cause for cause in causes if not cause.kinds or kind.kind in cause.kinds)
        usual = before.get(kind.kind)
        share = hit_share(usual) if usual and asked(usual) >= ENOUGH else None
        if asked(kind) < ENOUGH or (share is None and not any(cause.certain for cause in likely)):
            continue
        if (1.0 if share is None else share) - hit_share(kind) >= MARGIN:
            then = "" if share is None else f", {share:.0%} before"
            told = f"{kind.hits} of {asked(kind)} {kind.kind} ({hit_share(kind):.0%}{then})"
            found.setdefault(likely, []).append(told)
    return [_warning(report, previous, likely, kinds) for likely, kinds in found.items()]


def _warning(report: BuildReport, previous: BuildReport, likely: tuple[_Cause, ...], kinds: list[str]) -> str:
    # Where the surroundings changed, the sources' own change is not worth a word.
    told = [cause for cause in likely if cause.certain] or list(likely)
    why = "; ".join(cause.text for cause in told) or "no cause is known"
    kept = "What was compiled now is kept" if told else "Compare the reports of the two builds"
    remedy = ". ".join(cause.remedy for cause in told if cause.remedy) or kept
    name, version = report.artifact.flavour.name, previous.artifact.source.version
    return (
        f"{name}: the compile cache had only {', '.join(kinds)}, less than in the build before ({version}). "
        f"Likely cause: {why}. {remedy}"
    )


def _causes(now: BuildReport, was: BuildReport) -> list[_Cause]:
    """What differs between two builds that a cache's key or content depends on."""
    a, b, new, old = now.artifact, was.artifact, now.cache, was.cache
    same_root = "Give all builders the same builder_root: its path is part of the cache's keys"
    changes = [
        _changed("rustc", b.rustc, a.rustc, "Rust"),
        _changed("RUSTFLAGS", b.rustflags, a.rustflags, "Rust"),
        _changed("the flavour's features", " ".join(b.flavour.features), " ".join(a.flavour.features), "Rust", *_CUDA),
        _changed("CUDA", b.cuda, a.cuda, *_CUDA),
        _changed("the compute capability", b.flavour.compute_capability, a.flavour.compute_capability, *_CUDA),
        _changed("the host compiler", was.host_compiler, now.host_compiler, "C/C++", *_CUDA),
        _changed("the builder's root", was.root, now.root, remedy=same_root),
        _changed("sccache", old.version, new.version),
    ]
    causes = [cause for cause in changes if cause]
    if new.shared_down and not old.shared_down:
        causes.append(_Cause("the shared level of the cache is down", "See that compile_cache_endpoint answers"))
    if new.limit and new.size >= new.limit * 0.95:
        causes.append(
            _Cause(
                f"the cache is full ({new.size / 1e9:.1f} of {new.limit / 1e9:.1f} GB) and forgets",
                "Raise compile_cache_size",
            )
        )
    elif new.size < old.size * 0.95:
        causes.append(
            _Cause(f"the cache lost what it had ({old.size / 1e9:.1f} GB, now {new.size / 1e9:.1f} GB): it was deleted")
        )
    changed = len(now.crates - was.crates)
    if changed > len(now.crates) * 0.1:
        causes.append(
            _Cause(
                f"{changed} of {len(now.crates)} crates are of other versions", kinds=("Rust", "C/C++"), certain=False
            )
        )
    if a.source.commit != b.source.commit:
        causes.append(_Cause(f"upstream went from {b.source.version} to {a.source.version}", certain=False))
    return causes


def _changed(what: str, old: str, new: str, *kinds: str, remedy: str = "") -> _Cause | None:
    """A cause where a value that both builds know changed."""
    if old == new or not (old and new):
        return None
    cause = _Cause(f"{what} changed from {old} to {new}", kinds=kinds)
    return _Cause(cause.text, remedy, kinds) if remedy else cause


# ---------------------------------------------------------------- the folder of logs


def html(report: BuildReport, previous: BuildReport | None) -> str:
    """The report as one page, compared with the build before of its flavour."""
    return page(report, previous, drops(report, previous))


def leave(report: BuildReport) -> tuple[str, list[str]]:
    """Leave the report beside its log.

    Returns the page's path and what an operator should be warned of. A report that cannot be written is such a
    warning, and the path is then empty.
    """
    log, flavour = Path(report.artifact.log), report.artifact.flavour.name
    try:
        previous = last(log.parent, flavour, incremental=report.artifact.incremental)
        target = log.with_suffix(".html")
        target.write_text(html(report, previous))
        report.write(log.with_suffix(".json"))
    except OSError as error:
        return "", [f"the report of this build could not be written ({error}); the build is not concerned"]
    return str(target), drops(report, previous)


def last(folder: Path, flavour: str, *, incremental: bool = False) -> BuildReport | None:
    """The newest report of a flavour's builds of that kind; one that another version wrote is passed over."""
    for _, files in _builds(folder, flavour):
        for path in files:
            if path.suffix == ".json":
                with suppress(OSError, PipelineError):
                    found = BuildReport.read(path)
                    if found.artifact.incremental == incremental:
                        return found
    return None


def rotate(folder: Path, flavour: str, keep: int, writing: Path | None = None) -> list[Path]:
    """Delete all but the newest ``keep`` builds of a flavour, never the one of the log ``writing``; what is gone."""
    gone = []
    for _, files in _builds(folder, flavour)[max(keep, 0) :]:
        if writing not in files:
            for path in files:
                path.unlink(missing_ok=True)
                gone.append(path)
    return gone


def _builds(folder: Path, flavour: str) -> list[tuple[str, list[Path]]]:
    """The files of each build of a flavour, the newest build first."""
    builds: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"{flavour}-*")):
        found = _NAME.fullmatch(path.name)
        if found and found["flavour"] == flavour:
            builds.setdefault(found["time"], []).append(path)
    return sorted(builds.items(), reverse=True)
