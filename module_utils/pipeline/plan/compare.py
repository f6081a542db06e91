"""Compare: which flavours of a source a repository has, and which are missing.

Rules:

1. A flavour is present if the repository has its exact package, built from the same commit.
2. The same name and version from another commit, whatever the release, means that upstream moved a tag: an error.
3. A yanked package is never published again, so it is not built again: an error.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from ..base.errors import PipelineError
from ..base.records import Flavour, Package, Source, nevra
from ..base.versions import rpm_order

ALL = "all"


@dataclass(frozen=True)
class Comparison:
    """The flavours to build, and the packages that are published already."""

    missing: tuple[Flavour, ...]
    present: tuple[Package, ...]


def select_flavours(flavours: Sequence[Flavour], name: str) -> tuple[Flavour, ...]:
    """The flavours of ``-e flavour=``: one by its name, or "all" for every published one."""
    selected = tuple(f for f in flavours if (f.published if name == ALL else f.name == name))
    if not selected:
        known = ", ".join(flavour.name for flavour in flavours)
        raise PipelineError(
            f"there is no flavour {name}",
            "inventory/group_vars/all/flavours.yml",
            f"Choose one of: {known}, {ALL}",
        )
    return selected


def unknown(wanted: Iterable[Flavour], published: Iterable[Package]) -> tuple[Flavour, ...]:
    """The flavours without a published package of any version."""
    names = {package.name for package in published}
    return tuple(flavour for flavour in wanted if flavour.package_name not in names)


def plan(
    source: Source,
    wanted: Iterable[Flavour],
    published: Iterable[Package],
    package_release: str,
    dist: str,
    arch: str = "x86_64",
    yanked: Container[str] = (),
) -> Comparison:
    """Compare ``source`` with the published packages; PipelineError if its tag moved or its package was yanked."""
    known = list(published)
    missing: list[Flavour] = []
    present: list[Package] = []
    for flavour in wanted:
        same = [
            package
            for package in known
            if (package.name, package.version) == (flavour.package_name, source.rpm_version)
        ]
        for package in same:
            if package.commit != source.commit:
                raise moved(source, package)
        exact = [p for p in same if (p.release, p.arch) == (f"{package_release}{dist}", arch)]
        present += exact
        if exact:
            continue
        name = nevra(flavour.package_name, source.rpm_version, f"{package_release}{dist}", arch)
        if f"{name}.rpm" in yanked:
            raise PipelineError(
                f"{name} was yanked from this repository, and is never published again",
                source.url,
                "To build it again, raise package_release",
            )
        missing.append(flavour)
    return Comparison(tuple(missing), tuple(present))


def predecessors(source: Source, missing: Iterable[Flavour], published: Iterable[Package]) -> list[Package]:
    """For each missing flavour, the highest published package below ``source``, from which clients upgrade."""
    known = list(published)
    found: list[Package] = []
    for flavour in missing:
        older = [
            package
            for package in known
            if package.name == flavour.package_name and rpm_order(package.version, source.rpm_version) < 0
        ]
        found += sorted(older, key=_by_version)[-1:]
    return found


def _compare(left: Package, right: Package) -> int:
    return rpm_order(left.version, right.version)


_by_version = functools.cmp_to_key(_compare)


def moved(source: Source, package: Package) -> PipelineError:
    """The error for a tag whose published package has another commit."""
    return PipelineError(
        f"{source.kind} {source.ref} moved: {package.nevra} was published from commit"
        f" {package.commit or '(none recorded)'}, it is now {source.commit}",
        source.url,
        "Find out from upstream why. Published packages stay; this version is not built again from another commit",
    )
