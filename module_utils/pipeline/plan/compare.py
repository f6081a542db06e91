"""Compare: which flavours of a source a repository has, and which are missing.

Rules:

1. A flavour is present if the repository has its exact package, built from the same commit.
2. The same name and version from another commit, whatever the release, means that upstream moved a tag: an error.
3. A yanked package is never published again, so it is not built again: an error.
4. Published versions only grow. A package that would sort below a published one of its name reaches no client by an
   upgrade: an error, unless the operator asked for this version or commit.
5. A published release above the source whose tag upstream no longer has is an error, even where nothing is missing:
   upstream withdrew it, or lost it. Else an older release would take its place.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass

from ..base.errors import PipelineError
from ..base.records import Flavour, Package, Source, nevra
from ..base.versions import by_build, release_of, rpm_order

ALL = "all"


@dataclass(frozen=True)
class Comparison:
    """The flavours to build, and the packages that are published already.

    ``below`` has a sentence for each missing package that sorts below a published one.
    """

    missing: tuple[Flavour, ...]
    present: tuple[Package, ...]
    below: tuple[str, ...] = ()


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
    *,
    asked: bool = False,
) -> Comparison:
    """Compare ``source`` with the published packages; PipelineError by rules 2 to 4.

    ``asked``: the operator named this version or commit.
    """
    known = list(published)
    missing: list[Flavour] = []
    present: list[Package] = []
    below: list[str] = []
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
        build = by_build((source.rpm_version, f"{package_release}{dist}"))
        higher = [p for p in known if p.name == flavour.package_name and by_build((p.version, p.release)) > build]
        if higher:
            newest = max(higher, key=lambda package: by_build((package.version, package.release)))
            below.append(f"{name} sorts below {newest.nevra}, which is published: no client would get it by an upgrade")
            if not asked:
                raise PipelineError(below[-1], source.url, _ways_on(source, newest))
        missing.append(flavour)
    return Comparison(tuple(missing), tuple(present), tuple(below))


def _ways_on(source: Source, newest: Package) -> str:
    """The remedy where a package would sort below ``newest``."""
    if newest.version == source.rpm_version:
        return f"Set package_release to that of {newest.nevra}, or above. Nothing was built"
    if source.kind == "tag":
        return f"Nothing was built. To build it all the same, name it: -e version={source.version} (VERSION= with make)"
    return (
        f"Nothing was built. {source.ref} went back, or a development build was published: a later commit will sort"
        f" above. To publish this one all the same: make dev COMMIT={source.commit} PUBLISH=unstable"
    )


def refuse_lost(
    source: Source, flavours: Iterable[Flavour], published: Iterable[Package], releases: Collection[str]
) -> None:
    """PipelineError by rule 5; ``releases`` are the versions of upstream's release tags, in rpm's spelling."""
    names = {flavour.package_name for flavour in flavours}
    newest = release_of(source.rpm_version)
    named = f". To build {newest} now: -e version={source.version} (VERSION= with make)" if source.kind == "tag" else ""
    for package in published:
        release = release_of(package.version)
        if package.name in names and release not in releases and rpm_order(release, newest) > 0:
            raise PipelineError(
                f"upstream lost the tag of {release}: {package.nevra} was published from commit"
                f" {package.commit or '(none recorded)'}, and upstream's newest release is now {newest}",
                source.url,
                "Check upstream_url, and find out from upstream why. Nothing was built. If upstream withdrew the"
                f" release, yank its packages or roll back: the next run then goes on{named}",
            )


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
