"""Retention: which packages of a repository's head are superseded.

Rules:

1. For each package name, the highest versions and the highest builds stay, in rpm's order; a build is a version with
   its release. 0 keeps all.
2. So each package name keeps its last build, however old it is.
3. Superseded packages leave the head only. The agent prunes older snapshots and the pool by its own configuration,
   which no signer can change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..base.errors import PipelineError
from ..base.versions import by_build
from .metadata import Identity


@dataclass(frozen=True)
class Retention:
    """The number of distinct versions and of builds of each package name that stay in the head; 0 is all."""

    versions: int = 0
    builds: int = 0

    def __post_init__(self) -> None:
        if min(self.versions, self.builds) < 0:
            raise PipelineError(
                f"a retention of {self.versions} versions and {self.builds} builds keeps nothing",
                "inventory/group_vars/all/channels.yml",
                "Use the number to keep, or 0 for all",
            )


def superseded(packages: Iterable[Identity], retention: Retention) -> list[Identity]:
    """The packages that leave the head, in the given order."""
    all_ = list(packages)
    builds: dict[str, set[tuple[str, str]]] = {}
    for package in all_:
        builds.setdefault(package.name, set()).add((package.version, package.release))
    kept = {(name, *build) for name, found in builds.items() for build in _kept(found, retention)}
    return [package for package in all_ if (package.name, package.version, package.release) not in kept]


def _kept(builds: set[tuple[str, str]], retention: Retention) -> list[tuple[str, str]]:
    """The builds of one package name that stay."""
    newest = sorted(builds, key=by_build, reverse=True)
    versions = list(dict.fromkeys(version for version, _ in newest))
    wanted = set(versions[: retention.versions or None])
    return [(version, release) for version, release in newest[: retention.builds or None] if version in wanted]
