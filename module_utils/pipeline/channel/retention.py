"""Which packages of a channel's head give way to newer ones.

Rules:

1. For each package name, the highest versions and the highest builds stay, by rpm's order; a build is a version with
   its release. 0 keeps all.
2. So a package name never loses its last build, however old it is.
3. What goes leaves the head only. Older snapshots and the pool are the repo host's: it prunes them by its own
   configuration, which no signer can change.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from ..base.errors import PipelineError
from ..base.versions import rpm_order
from .metadata import Identity


@dataclass(frozen=True)
class Retention:
    """How many distinct versions, and how many builds, of each package name stay in the head; 0 is all."""

    versions: int = 0
    builds: int = 0

    def __post_init__(self) -> None:
        if min(self.versions, self.builds) < 0:
            raise PipelineError(
                f"a retention of {self.versions} versions and {self.builds} builds keeps nothing",
                "inventory/group_vars/all/channels.yml",
                "Use 0 to keep all, or the number to keep",
            )


def superseded(packages: Iterable[Identity], retention: Retention) -> list[Identity]:
    """The packages that go, in the order given."""
    all_ = list(packages)
    builds: dict[str, set[tuple[str, str]]] = {}
    for package in all_:
        builds.setdefault(package.name, set()).add((package.version, package.release))
    kept = {(name, *build) for name, found in builds.items() for build in _kept(found, retention)}
    return [package for package in all_ if (package.name, package.version, package.release) not in kept]


def _kept(builds: set[tuple[str, str]], retention: Retention) -> list[tuple[str, str]]:
    """Of the builds of one package name, those that stay."""
    newest = sorted(builds, key=_by_rpm_order, reverse=True)
    versions = list(dict.fromkeys(version for version, _ in newest))
    wanted = set(versions[: retention.versions or None])
    return [(version, release) for version, release in newest[: retention.builds or None] if version in wanted]


def _compare(left: tuple[str, str], right: tuple[str, str]) -> int:
    return rpm_order(left[0], right[0]) or rpm_order(left[1], right[1])


_by_rpm_order = functools.cmp_to_key(_compare)
