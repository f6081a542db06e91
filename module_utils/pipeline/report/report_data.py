"""A build's report as data, read from the output of cargo, nvcc's wrapper, sccache and readelf.

Output in an unknown format gives no value and never an error. Sizes are bytes, times seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..base.records import Artifact, CacheCount, Parallel, Record

SLOWEST = 10
"""The number of units and kernels that are listed."""

_RUN, _SCRIPT = "its build script", "compile of its build script"
_LABELS = {_RUN: "(build)", _SCRIPT: "(build.rs)", "program": "(bin)"}
_UNITS = re.compile(r"^const UNIT_DATA = (\[.*?^\]);$", re.DOTALL | re.MULTILINE)
# "  [16] .text  PROGBITS  0000000001958100 1957100 305b861 00  AX  0   0 64": name, type, address, offset, size, flags.
_SECTION = re.compile(r"^ *\[ *\d+\] (\S*) +(\S+) +[0-9a-f]{16} [0-9a-f]+ ([0-9a-f]+) \S+ +([A-Za-z]*)", re.MULTILINE)


@dataclass(frozen=True)
class Unit(Record):
    """A unit of cargo: ``crate`` is "serde 1.0.2", ``part`` the part of it; ``began`` counts from cargo's start.

    ``label`` is its name in cargo's progress: "serde", "serde(build.rs)", "serde(build)" for its run, "tool(bin)".
    """

    crate: str
    part: str
    began: float
    seconds: float
    label: str = ""


@dataclass(frozen=True)
class Kernel(Record):
    """A call of nvcc for one source. Its time includes the wait for the compile cache, not the wait for a slot."""

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
    """The compile cache's state: sccache's version, and the size and limit of its disk level.

    ``shared_down`` is set where a shared level is configured and did not work.
    """

    version: str = ""
    size: int = 0
    limit: int = 0
    shared_down: bool = False


@dataclass(frozen=True)
class Machine(Record):
    """The builder: its name, the model of its processors, what a build may use of them and of its memory (bytes).

    ``limits`` name what gives a build less than the host has.
    """

    host: str = ""
    cpu: str = ""
    processors: int = 0
    memory: int = 0
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link(Record):
    """Something that belongs to the build, at its URL."""

    name: str
    url: str


@dataclass(frozen=True)
class Costs(Record):
    """What a finished build cost, as read where upstream's code ran: for display only.

    ``compiled`` and ``fresh`` are units as "serde 1.0.2", build scripts as "serde 1.0.2 (build script)", and their runs
    as "serde 1.0.2 (run of its build script)": together as many as cargo's progress counts. ``within`` are parts of the
    compile, ``units`` all that took time, in the order of their start.
    """

    compiled: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    kinds: tuple[CacheCount, ...] = ()
    not_cached: tuple[Amount, ...] = ()
    cache: Level = field(default_factory=Level)
    slowest: tuple[Unit, ...] = ()
    units: tuple[Unit, ...] = ()
    kernels: int = 0
    kernel_seconds: float = 0.0
    slowest_kernels: tuple[Kernel, ...] = ()
    within: tuple[Amount, ...] = ()
    sections: tuple[Amount, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BuildReport(Costs):
    """One finished build.

    ``phases`` follow each other. ``memory`` is the peak, 0 where unknown. ``trust`` is the build's. ``unprotected``
    names the protections that the operator has switched off. ``links`` lead to what becomes of the artifact.
    """

    artifact: Artifact
    began: int
    root: str
    parallel: Parallel
    phases: tuple[Amount, ...]
    memory: int = 0
    programs: tuple[Amount, ...] = ()
    host_compiler: str = ""
    trust: str = "release"
    unprotected: tuple[str, ...] = ()
    machine: Machine = field(default_factory=Machine)
    links: tuple[Link, ...] = ()

    @property
    def crates(self) -> frozenset[str]:
        return frozenset(unit.partition(" (")[0] for unit in (*self.compiled, *self.fresh))


@dataclass(frozen=True)
class Output:
    """The output of a build's programs. Missing parts are empty.

    ``messages`` are cargo's JSON messages, ``timings`` the text of its cargo-timing.html, ``calls`` that of nvcc's log,
    ``sections`` the output of ``readelf -SW`` for the binary of ``size`` bytes. ``not_cached`` is {reason: n}.
    """

    root: str
    messages: Sequence[Mapping[str, Any]] = ()
    timings: str = ""
    calls: str = ""
    sections: str = ""
    size: int = 0
    kinds: Sequence[CacheCount] = ()
    not_cached: Mapping[str, int] = field(default_factory=dict)
    cache: Level = field(default_factory=Level)


def requests(*kinds: CacheCount) -> int:
    """The number of requests to the cache."""
    return sum(kind.hits + kind.misses for kind in kinds)


def hit_share(*kinds: CacheCount) -> float:
    """The share of requests that the cache answered, 0 to 1."""
    asked = requests(*kinds)
    return sum(kind.hits for kind in kinds) / asked if asked else 0.0


def costs(output: Output) -> Costs:
    """The costs of a build."""
    every, calls = every_unit(output.timings), nvcc_calls(output.calls, output.root)
    units = timings(every)
    kernels = sorted((kernel for kernel, _ in calls), key=lambda kernel: kernel.seconds, reverse=True)
    programs = [unit.seconds for unit in units if unit.part == "program"]
    # A script may take less than a hundredth of a second, but it starts after it was compiled.
    ran = {unit.crate for unit in every if unit.part == _RUN and (unit.began or unit.seconds)}
    within = [
        *([Amount("with nvcc running", round(covered(span for _, span in calls), 1))] if calls else []),
        *([Amount("for the program's own crate and its link", programs[-1])] if programs else []),
    ]
    return Costs(
        compiled=unit_names(output.messages, ran, fresh=False),
        fresh=unit_names(output.messages, ran, fresh=True),
        kinds=tuple(sorted(output.kinds, key=lambda kind: kind.kind)),
        not_cached=tuple(Amount(reason, float(count)) for reason, count in sorted(output.not_cached.items())),
        cache=output.cache,
        slowest=units[:SLOWEST],
        units=tuple(sorted(units, key=lambda unit: unit.began)),
        kernels=len(kernels),
        kernel_seconds=round(sum((kernel.seconds for kernel in kernels), 0.0), 1),
        slowest_kernels=tuple(kernels[:SLOWEST]),
        within=tuple(within),
        sections=sizes(output.sections, output.size),
    )


def build_report(artifact: Artifact, costs: Costs, **host: Any) -> BuildReport:
    """The report of the build of ``artifact``; ``host`` are the other fields of BuildReport."""
    return BuildReport(artifact=artifact, **vars(costs), **host)


def amounts(values: Mapping[str, float]) -> tuple[Amount, ...]:
    """The values in their order, to a tenth."""
    return tuple(Amount(name, round(float(value), 1)) for name, value in values.items())


# ---------------------------------------------------------------- the output of programs


def unit_names(messages: Iterable[Mapping[str, Any]], ran: Collection[str], *, fresh: bool) -> tuple[str, ...]:
    """The units that cargo found fresh, or that it compiled or ran. ``ran`` are the crates whose build scripts ran."""
    names = []
    for message in messages:
        name, reason = crate(message.get("package_id", "")), message.get("reason")
        if reason == "compiler-artifact" and bool(message.get("fresh")) is fresh:
            script = "custom-build" in message.get("target", {}).get("kind", ())
            names.append(name + (" (build script)" if script else ""))
        # cargo reports a script that it did not run again in the same way.
        elif reason == "build-script-executed" and (name not in ran) is fresh:
            names.append(f"{name} (run of its build script)")
    return tuple(sorted(names))


def crate(package_id: str) -> str:
    """The name and version in cargo's package id: ``…/candle?rev=1#candle-core@0.9.2`` or ``…/serde#1.0.2``."""
    where, _, what = package_id.rpartition("#")
    name, at, version = what.rpartition("@")
    if not at:
        name, version = where.partition("?")[0].rstrip("/").rpartition("/")[2], what
    return f"{name} {version}"


def timings(units: Iterable[Unit]) -> tuple[Unit, ...]:
    """The units that took time, the slowest first."""
    return tuple(sorted((unit for unit in units if unit.seconds), key=lambda unit: unit.seconds, reverse=True))


def every_unit(text: str) -> tuple[Unit, ...]:
    """The units in the page of ``cargo build --timings``.

    The page's format is not specified. cargo 1.95 writes ``const UNIT_DATA = [`` and the units as JSON, with a start
    and a duration of 0 for fresh ones.
    """
    found = _UNITS.search(text)
    if not found:
        return ()
    units = []
    with suppress(ValueError, LookupError, TypeError):
        for data in json.loads(found[1]):
            target = str(data["target"]).strip()
            part = _RUN if data["mode"] == "run-custom-build" else _part(target)
            label = f"{target.split()[0] if part == 'program' else data['name']}{_LABELS.get(part, '')}"
            name = f"{data['name']} {data['version']}"
            units.append(Unit(name, part, float(data["start"]), float(data["duration"]), label))
    return tuple(units)


def _part(target: str) -> str:
    if target.endswith('"bin"'):
        return "program"
    return _SCRIPT if target == "build-script" else target or "library"


def nvcc_calls(text: str, root: str) -> list[tuple[Kernel, tuple[float, float]]]:
    """The successful compiles in the log of nvcc's wrapper, each with its start and end."""
    found = []
    for line in text.splitlines():
        with suppress(ValueError, LookupError, TypeError):
            call = json.loads(line)
            start, seconds = float(call["began"]), float(call["seconds"])
            if call["status"] == 0:
                source = str(call["source"]).removeprefix(f"{root}/").removeprefix("src/")
                found.append((Kernel(source, seconds, bool(call["ptx"])), (start, start + seconds)))
    return found


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of the spans."""
    total = end = 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def sizes(readelf: str, whole: int) -> tuple[Amount, ...]:
    """The parts of a binary from the output of ``readelf -SW``, the largest first; their sum is the ``whole`` file.

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
    return largest(groups)


def largest(sizes: Mapping[str, int]) -> tuple[Amount, ...]:
    """The amounts above 0, the largest first."""
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
