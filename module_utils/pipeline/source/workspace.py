"""What ``cargo metadata --no-deps`` says of a workspace: which of its packages a build compiles, and what it needs.

Rules:

1. A build compiles the package and its path dependencies: optional ones only where a feature activates them, those for
   tests never. Features reach dependencies as in The Cargo Book, "Features", with resolver 1: all platforms and kinds
   together. So a build compiles at most what is named here.
2. ``misfit`` names only differences that no cargo accepts: a lock names each member with its version and the names of
   all its dependencies, for all features and platforms. Versions in a requirement's range are cargo's own matter.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

Metadata = Mapping[str, Any]


@dataclass
class Compiled:
    """A package of the workspace that a build compiles; ``dependencies`` are the activated optional ones, by name."""

    package: Metadata
    features: set[str] = field(default_factory=set)
    dependencies: set[str] = field(default_factory=set)

    @property
    def folder(self) -> str:
        """The absolute folder of its manifest."""
        return str(PurePosixPath(self.package["manifest_path"]).parent)


def compiled(packages: Sequence[Metadata], package: str, features: Sequence[str]) -> dict[str, Compiled]:
    """What a build of ``package`` with these features compiles, by the absolute folder. Unknown features are ignored.

    A path dependency that is no member of the workspace has no features and no dependencies of its own here.
    """
    members = {Compiled(entry).folder: entry for entry in packages}
    top = next(folder for folder, entry in members.items() if entry["name"] == package)
    reached: dict[str, Compiled] = {}
    waiting = [(top, name) for name in ("", "default", *features)]
    while waiting:
        folder, feature = waiting.pop()
        unit = reached.setdefault(folder, Compiled(members.get(folder, _stranger(folder))))
        if feature in unit.features:
            continue
        unit.features.add(feature)
        _activate(unit)
        waiting += _reaches(unit)
    for unit in reached.values():
        unit.features.discard("")
    return reached


def _stranger(folder: str) -> Metadata:
    return {
        "name": PurePosixPath(folder).name, "manifest_path": f"{folder}/Cargo.toml",
        "features": {}, "dependencies": [], "targets": [],
    }  # fmt: skip


def _activate(unit: Compiled) -> None:
    """Add the features and the optional dependencies that the active features name, of the package itself."""
    known = unit.package["features"]
    waiting = list(unit.features)
    while waiting:
        for word in known.get(waiting.pop(), ()):
            name, slash, _ = word.partition("/")
            if name.endswith("?"):
                continue
            if name.startswith("dep:") or slash:
                unit.dependencies.add(name.removeprefix("dep:"))
            elif word not in unit.features:
                unit.features.add(word)
                waiting.append(word)


def _reaches(unit: Compiled) -> Iterator[tuple[str, str]]:
    """The path dependencies of a package in its present state, each with each feature that it gets ("" for none)."""
    for row in unit.package["dependencies"]:
        name = row["rename"] or row["name"]
        if not row.get("path") or row["kind"] == "dev" or (row["optional"] and name not in unit.dependencies):
            continue
        given = [word for feature in unit.features for word in unit.package["features"].get(feature, ())]
        passed = [word.partition("/")[2] for word in given if word.partition("/")[0].rstrip("?") == name]
        default = ["default"] if row["uses_default_features"] else []
        for feature in ("", *default, *row["features"], *filter(None, passed)):
            yield row["path"], feature


def misfit(packages: Sequence[Metadata], lock: str) -> str:
    """Why a Cargo.lock cannot be that of the workspace's ``packages``, or "". An unreadable lock is cargo's matter."""
    if not lock:
        return "there is none"
    try:
        rows = tomllib.loads(lock).get("package", [])
        listed = {(row["name"], row["version"]): row for row in rows if "source" not in row}
        found = (_misfit(package, listed) for package in sorted(packages, key=lambda package: str(package["name"])))
        return next(filter(None, found), "")
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError):
        return ""


def _misfit(package: Metadata, listed: Mapping[tuple[str, str], Metadata]) -> str:
    name, version = package["name"], package["version"]
    if (name, version) not in listed:
        others = [known for other, known in listed if other == name]
        return f"it has {name} {others[0]}, whose manifest says {version}" if others else f"it lacks {name}"
    # A version and a source may follow a name.
    locked = {word.split(" ")[0] for word in listed[name, version].get("dependencies", [])}
    named = {dependency["name"] for dependency in package["dependencies"]}
    if missing := sorted(named - locked - {name}):
        return f"it lacks {missing[0]}, on which {name} depends"
    if stray := sorted(locked - named):
        return f"it has {stray[0]} for {name}, which does not depend on it"
    return ""
