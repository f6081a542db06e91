"""One target directory for all flavours, with what depends on the GPU kept apart.

Most of a build is the same for every GPU generation, and cargo compiles it once when the target directory is one. The
rest must not be shared: build scripts put kernels into folders whose names do not tell the GPU (upstream's skip a
``.ptx`` that is newer than its ``.cu`` and never compare the architecture). So:

1. A *variant* is what decides the GPU's part: the architecture and nvcc's own version. One variant at a time is in
   place; the units of another are set aside in ``<target>/variants/<variant>/`` and come back by rename.
2. A unit stays in place when it is known to be *common*: a build that ended well had it, and neither its package nor
   one that it depends on has a build script that asked for the GPU's variables. Whatever is not known goes aside.
3. Upstream's kernel builder (cudaforge 0.1.4, hash.rs and builder.rs) compiles a kernel again when the ``.cu`` itself
   changed, not for a header. When another file beside the kernels changed, those build scripts start from nothing;
   the compile cache, which reads what the preprocessor reads, then has all that is still the same.
4. What a build script left that did not end well is deleted: kernels of one commit, and half-written ones, would be
   taken for those of the next.
5. A flavour without a GPU has units of its own names (its features differ): it moves nothing.

Each step can be cut off anywhere: what was moved half is moved on by the next build.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.git import git
from ..base.records import Record, digest_of

GPU_VARIABLES = frozenset(
    {"CUDA_COMPUTE_CAP", "NVCC", "CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR", "CUDARC_CUDA_VERSION"}
)
"""What a build script asks for when its work depends on the variant (cargo:rerun-if-env-changed)."""

KEPT_DAYS = 60
"""After so many days without use a unit is deleted: two months of upstream's tags stay quick to come back to."""

_UNIT = re.compile(r"-([0-9a-f]{16})(?:\.|$)")
_ASKS = re.compile(r"^cargo::?rerun-if-env-changed=(\w+)$", re.MULTILINE)
_FOLDERS = (".fingerprint", "build", "deps")
# Beside kernels these are never included by one.
_NO_HEADER = (".rs", ".cu", ".metal", ".md", ".toml", ".py")


@dataclass(frozen=True)
class State(Record):
    """Which variant is in place ("" before the first), and the hashes of the units that all share."""

    variant: str = ""
    common: tuple[str, ...] = ()


def enter(target: Path, variant: str) -> None:
    """Put the units of ``variant`` in place, and set those of another aside. A variant of "" changes nothing."""
    folder = target / "variants"
    folder.mkdir(parents=True, exist_ok=True)
    state = _read(target)
    if state is None:
        # Nobody knows for which GPU this was compiled.
        shutil.rmtree(target / "release", ignore_errors=True)
        state = State()
        state.write(folder / "state.json")
    if variant:
        _change(target, state, variant)
    for out in (target / "release" / "build").glob("*/out"):
        if not _finished(target / "release" / ".fingerprint" / out.parent.name):
            shutil.rmtree(out)


def _finished(fingerprint: Path) -> bool:
    """Whether a build script ran to its end: cargo empties the mark before it runs one, and fills it after."""
    marks = [path for path in fingerprint.glob("run-build-script-*") if path.suffix != ".json"]
    return any(mark.stat().st_size for mark in marks)


def _change(target: Path, state: State, variant: str) -> None:
    folder = target / "variants"
    if state.variant and state.variant != variant:
        common = set(state.common)
        aside = [path for path in _units(target / "release") if _hash(path) not in common]
        _move(aside, target / "release", folder / state.variant)
    if state.variant != variant:
        State(variant, state.common).write(folder / "state.json")
    back = folder / variant
    if back.is_dir():
        _move(list(_units(back)), back, target / "release")
        shutil.rmtree(back)


def forget_kernels(target: Path, variant: str, checkout: Path) -> list[str]:
    """Let the build scripts of kernels start anew where a header changed since they ran; their units' names."""
    mark = target / "variants" / f"{variant}.headers"
    packages, digest = headers(git("ls-tree", "-r", "-z", "--full-tree", "HEAD", repository=checkout))
    before = mark.read_text() if mark.exists() else digest
    forgotten = []
    if before != digest:
        for unit in sorted((target / "release" / "build").glob("*/out")):
            name = unit.parent.name
            if name.rpartition("-")[0] in packages:
                shutil.rmtree(target / "release" / ".fingerprint" / name, ignore_errors=True)
                shutil.rmtree(unit.parent)
                forgotten.append(name)
    mark.write_text(digest)
    return forgotten


def sweep(target: Path, messages: Iterable[Mapping[str, Any]], now: float, days: float = KEPT_DAYS) -> int:
    """Delete what no build has used for so many days, of every variant; how many units went.

    ``messages`` are those of the build that has just ended well. cargo keeps everything for ever.
    """
    used = {unit for message in messages for unit in _named(message, target)}
    places = [target / "release", *(path for path in (target / "variants").iterdir() if path.is_dir())]
    old: dict[Path, set[str]] = {}
    for place in places:
        for unit in place.glob(".fingerprint/*"):
            if place == places[0] and _hash(unit) in used:
                os.utime(unit, (now, now))
            elif now - unit.stat().st_mtime > days * 86400:
                old.setdefault(place, set()).add(_hash(unit))
    for place, units in old.items():
        for path in list(_units(place)):
            if _hash(path) in units:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    # What rustc keeps for a crate; its folder's time is that of the last build of it.
    for crate in (target / "release" / "incremental").glob("*"):
        if now - crate.stat().st_mtime > days * 86400:
            shutil.rmtree(crate)
    return sum(map(len, old.values()))


def headers(tree: str) -> tuple[frozenset[str], str]:
    """The folders that hold kernels, and the digest of all that a kernel there may include, from ``git ls-tree -rz``.

    A folder at the top of the tree is named as the package in it.
    """
    files = [line.split("\t", 1) for line in tree.split("\0") if line]
    packages = frozenset(path.split("/")[0] for _, path in files if path.endswith(".cu"))
    included = [
        [entry, path] for entry, path in files if path.split("/")[0] in packages and not path.endswith(_NO_HEADER)
    ]
    return packages, digest_of(included)


def learn(target: Path, messages: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> frozenset[str]:
    """Note which units of a build that ended well are common; returns the ids of the packages that are not.

    ``messages`` are cargo's (--message-format json), ``metadata`` is that of ``cargo metadata``.
    """
    messages = list(messages)
    particular = particular_packages(messages, metadata)
    state = _read(target) or State()
    present = {_hash(path) for path in _units(target / "release")}
    shared = {unit for message in messages for unit in _shared(message, particular, target)}
    # A unit that was common and asks for the GPU now is so no longer.
    known = shared | (set(state.common) - {unit for message in messages for unit in _named(message, target)})
    if known & present != set(state.common):
        State(state.variant, tuple(sorted(known & present))).write(target / "variants" / "state.json")
    return particular.packages


@dataclass(frozen=True)
class Particular:
    """Ids of the packages that depend on the GPU, and of those whose build scripts are even compiled for it."""

    packages: frozenset[str]
    scripts: frozenset[str]


def particular_packages(messages: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> Particular:
    """The packages whose build script asked for a variable of the GPU, and all that depend on them."""
    asking = {
        message["package_id"]
        for message in messages
        if message.get("reason") == "build-script-executed"
        and GPU_VARIABLES & set(_ASKS.findall(_text(Path(message["out_dir"]).parent / "output")))
    }
    normal: dict[str, set[str]] = {}
    build: dict[str, set[str]] = {}
    for node in metadata["resolve"]["nodes"]:
        for dependency in node["deps"]:
            kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
            for kind, graph in ((None, normal), ("build", build)):
                if kind in kinds:
                    graph.setdefault(dependency["pkg"], set()).add(node["id"])
    found, waiting = set(asking), list(asking)
    scripts: set[str] = set()
    while waiting:
        package = waiting.pop()
        scripts |= build.get(package, set())
        for user in (normal.get(package, set()) | build.get(package, set())) - found:
            found.add(user)
            waiting.append(user)
    return Particular(frozenset(found), frozenset(scripts))


def _shared(message: Mapping[str, Any], particular: Particular, target: Path) -> Iterable[str]:
    script = message.get("reason") == "compiler-artifact" and "custom-build" in message["target"]["kind"]
    if message.get("package_id") not in (particular.scripts if script else particular.packages):
        yield from _named(message, target)


def _named(message: Mapping[str, Any], target: Path) -> Iterable[str]:
    """The unit that a message of cargo is about."""
    if message.get("reason") == "build-script-executed":
        yield _hash(Path(message["out_dir"]).parent)
    elif message.get("reason") == "compiler-artifact":
        script = "custom-build" in message["target"]["kind"]
        for name in message["filenames"]:
            # A build script lies in a folder of its unit's name; a binary is a hard link, whose name tells no unit.
            path = Path(name).parent if script else Path(name)
            yield _hash(path) or unit_of(path, target)


def unit_of(binary: Path, target: Path) -> str:
    """The hash of the unit that a binary in ``<target>/release`` is a link to."""
    units = (target / "release" / "deps").glob(f"{binary.name}-*")
    return next((_hash(path) for path in units if path.samefile(binary)), "")


def _read(target: Path) -> State | None:
    try:
        return State.read(target / "variants" / "state.json")
    except (OSError, PipelineError):
        return None


def _units(release: Path) -> Iterable[Path]:
    for folder in _FOLDERS:
        if (release / folder).is_dir():
            yield from (release / folder).iterdir()


def _hash(path: Path) -> str:
    found = _UNIT.search(path.name)
    return found[1] if found else ""


def _move(paths: Iterable[Path], origin: Path, destination: Path) -> None:
    for path in paths:
        place = destination / path.relative_to(origin)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.rmtree(place)
        path.replace(place)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
