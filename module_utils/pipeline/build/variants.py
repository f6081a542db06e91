"""One target directory for all flavours, with the units that depend on the GPU kept apart.

Most units are the same for every GPU generation: in one target directory cargo compiles them once. The others must not
be shared, since build scripts write kernels to folders whose names do not contain the GPU (upstream's skip a ``.ptx``
that is newer than its ``.cu`` and never compare the architecture). So:

1. A *variant* is the architecture and nvcc's own version. One variant at a time is in place; the units of others are
   in ``<target>/variants/<variant>/`` and return by rename.
2. A *common* unit stays in place: a successful build used it, and neither its package nor a dependency of it has a
   build script that reads the GPU's variables. All other units belong to the variant.
3. Upstream's kernel builder (cudaforge 0.1.4, hash.rs and builder.rs) recompiles a kernel if its ``.cu`` changed, but
   not for a header. If another file beside the kernels changed, those build scripts restart from nothing; the compile
   cache, which hashes preprocessed sources, then has all unchanged kernels.
4. Output of a failed build script is deleted: the next build would take its kernels, of another commit or half
   written, for current ones.
5. A flavour without a GPU moves nothing: its features differ, and so do the names of its units.

Every step can be interrupted: the next build completes a partial move.
"""

from __future__ import annotations

import errno
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
"""A build script that reads one of these (cargo:rerun-if-env-changed) depends on the variant."""

KEPT_DAYS = 60
"""Units unused for this number of days are deleted: two months of upstream's tags stay quick to rebuild."""

_UNIT = re.compile(r"-([0-9a-f]{16})(?:\.|$)")
_ASKS = re.compile(r"^cargo::?rerun-if-env-changed=(\w+)$", re.MULTILINE)
_FOLDERS = (".fingerprint", "build", "deps")
# No kernel includes files of these kinds.
_NO_HEADER = (".rs", ".cu", ".metal", ".md", ".toml", ".py")


@dataclass(frozen=True)
class TargetState(Record):
    """The variant in place ("" before the first), and the hashes of the common units."""

    variant: str = ""
    common: tuple[str, ...] = ()


def enter(target: Path, variant: str) -> bool:
    """Move the units of ``variant`` in, and those of another variant out; returns whether there was another one.

    A variant of "" moves nothing.
    """
    folder = target / "variants"
    folder.mkdir(parents=True, exist_ok=True)
    state = _read(target)
    if state is None:
        # The GPU of these units is unknown.
        shutil.rmtree(target / "release", ignore_errors=True)
        state = TargetState()
        state.write(folder / "state.json")
    if variant:
        _change(target, state, variant)
    for out in (target / "release" / "build").glob("*/out"):
        if not _finished(target / "release" / ".fingerprint" / out.parent.name):
            shutil.rmtree(out)
    return bool(variant) and state.variant != variant


def _finished(fingerprint: Path) -> bool:
    """Whether a build script succeeded: cargo empties the mark before a run and fills it after."""
    marks = [path for path in fingerprint.glob("run-build-script-*") if path.suffix != ".json"]
    return any(mark.stat().st_size for mark in marks)


def _change(target: Path, state: TargetState, variant: str) -> None:
    folder = target / "variants"
    if state.variant and state.variant != variant:
        common = set(state.common)
        aside = [path for path in _units(target / "release") if _hash(path) not in common]
        _move(aside, target / "release", folder / state.variant)
    if state.variant != variant:
        TargetState(variant, state.common).write(folder / "state.json")
    back = folder / variant
    if back.is_dir():
        _move(list(_units(back)), back, target / "release")
        shutil.rmtree(back)


def forget_kernels(target: Path, variant: str, checkout: Path) -> list[str]:
    """Delete the state of kernels' build scripts if a header changed since their last run; returns their units."""
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
    """Delete units of all variants that no build used for ``days``; returns their number.

    ``messages`` are those of the build that has just succeeded. cargo itself deletes nothing.
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
    # rustc's incremental state: a crate's folder has the time of the last build of it.
    for crate in (target / "release" / "incremental").glob("*"):
        if now - crate.stat().st_mtime > days * 86400:
            shutil.rmtree(crate)
    return sum(map(len, old.values()))


def headers(tree: str) -> tuple[frozenset[str], str]:
    """The top folders with kernels, and the digest of all files that a kernel there may include.

    ``tree`` is the output of ``git ls-tree -rz``. A top folder has the name of its package.
    """
    files = [line.split("\t", 1) for line in tree.split("\0") if line]
    packages = frozenset(path.split("/")[0] for _, path in files if path.endswith(".cu"))
    included = [
        [entry, path] for entry, path in files if path.split("/")[0] in packages and not path.endswith(_NO_HEADER)
    ]
    return packages, digest_of(included)


def learn(target: Path, messages: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> frozenset[str]:
    """Record the common units of a successful build; returns the ids of the packages that depend on the GPU.

    ``messages`` are cargo's (--message-format json), ``metadata`` is the output of ``cargo metadata``.
    """
    messages = list(messages)
    particular = particular_packages(messages, metadata)
    state = _read(target) or TargetState()
    present = {_hash(path) for path in _units(target / "release")}
    shared = {unit for message in messages for unit in _shared(message, particular, target)}
    # A unit that was common and now reads the GPU's variables is dropped.
    known = shared | (set(state.common) - {unit for message in messages for unit in _named(message, target)})
    if known & present != set(state.common):
        TargetState(state.variant, tuple(sorted(known & present))).write(target / "variants" / "state.json")
    return particular.packages


@dataclass(frozen=True)
class Particular:
    """Ids of the packages that depend on the GPU, and of those whose build scripts do too."""

    packages: frozenset[str]
    scripts: frozenset[str]


def particular_packages(messages: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> Particular:
    """The packages whose build script read a variable of the GPU, and all packages that depend on them."""
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
    """The hashes of the units that a message of cargo names."""
    if message.get("reason") == "build-script-executed":
        yield _hash(Path(message["out_dir"]).parent)
    elif message.get("reason") == "compiler-artifact":
        script = "custom-build" in message["target"]["kind"]
        for name in message["filenames"]:
            # A build script is in a folder with its unit's name. A binary is a hard link without a hash in its name.
            path = Path(name).parent if script else Path(name)
            yield _hash(path) or unit_of(path, target)


def unit_of(binary: Path, target: Path) -> str:
    """The hash of the unit that a binary in ``<target>/release`` links to."""
    units = (target / "release" / "deps").glob(f"{binary.name}-*")
    return next((_hash(path) for path in units if path.samefile(binary)), "")


def _read(target: Path) -> TargetState | None:
    try:
        return TargetState.read(target / "variants" / "state.json")
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
        try:
            path.replace(place)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(path, place)


def _copy(path: Path, place: Path) -> None:
    """Move a folder by copying it: an overlay renames no folder of its lower layer (overlayfs, "redirect_dir")."""
    partial = place.with_name(f".{place.name}.moving")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(path, partial, symlinks=True)
    partial.replace(place)
    shutil.rmtree(path)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
