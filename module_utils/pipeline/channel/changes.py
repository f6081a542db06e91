"""Changes of a repository: pure functions from the head's state and arguments to a change.

Rules:

1. A change is relative to the snapshot whose metadata it takes over: the head, or for a rollback an older one.
2. A file name never changes its bytes, and a yanked name never comes back.
3. Each operation is idempotent.
4. A pattern that matches nothing is an error, and so is a wildcard that would leave no package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..base.errors import PipelineError
from ..base.records import Package
from .reader import State
from .retention import Retention, superseded


@dataclass(frozen=True)
class Change:
    """``base`` without the file names ``drop``, with the packages ``add``; the names ``yank`` leave the pool too.

    ``notes`` are sentences for the operator.
    """

    base: State
    add: tuple[Package, ...] = ()
    drop: frozenset[str] = frozenset()
    yank: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The package file names of the new state, sorted."""
        kept = set(self.base.digests) - self.drop
        return sorted(kept | {package.filename for package in self.add})


def added(head: State, packages: Iterable[Package]) -> Change:
    """Add ``packages``, except those that the head has."""
    published = head.digests
    known, new = dict(published), {}
    for package in packages:
        if package.filename in head.yanked:
            raise PipelineError(
                f"{package.filename} was yanked from this repository, and is never published again",
                package.path,
                "Raise package_release and build it again",
            )
        digest = known.setdefault(package.filename, package.sha256)
        if digest != package.sha256:
            raise PipelineError(
                f"{package.filename} is published with other bytes: SHA-256 {digest}, not {package.sha256}",
                package.path,
                "A published package never changes: raise package_release and build it again",
            )
        if package.filename not in published:
            new[package.filename] = package
    return Change(head, add=tuple(package for _, package in sorted(new.items())))


def removed(head: State, patterns: Sequence[str], pooled: Callable[[str], bool], *, yank: bool = False) -> Change:
    """Remove the packages that ``patterns`` (file names, NEVRAs or globs of either) match.

    ``pooled`` tests whether the pool has a file name: a package that left the head before can still be yanked.
    """
    if not all(patterns):
        raise PipelineError("no packages are named", head.id, "Name them: -e names=NAME[,NAME]")
    here = set(head.digests)
    known = here | set(head.record.removed) | set(head.record.yanked)
    globs = [pattern for pattern in patterns if re.search(r"[*?\[]", pattern)]
    gone: set[str] = set()
    for pattern in patterns:
        matched = {name for name in known if _matches(pattern, name)}
        plain = f"{pattern.removesuffix('.rpm')}.rpm"
        if not matched and pattern not in globs and pooled(plain):
            matched = {plain}
        if not matched:
            raise PipelineError(
                f"no package of the channel matches {pattern}",
                head.id,
                "Use file names, or name-version-release.arch as dnf lists them; * and ? are wildcards",
            )
        gone |= matched
    if here and here <= gone and globs:
        raise PipelineError(
            f"{', '.join(globs)} would remove all {len(here)} packages of the channel",
            head.id,
            "To remove all of them, name each in full",
        )
    yanked = {name for name in gone - set(head.record.yanked) if name in here or pooled(name)} if yank else set()
    return Change(head, drop=frozenset(gone & here), yank=frozenset(yanked))


def _matches(pattern: str, filename: str) -> bool:
    return fnmatchcase(filename, pattern) or fnmatchcase(filename.removesuffix(".rpm"), pattern)


def rolled_back(head: State, old: State) -> Change:
    """Publish the packages of ``old`` again, except those that were yanked since."""
    yanked = sorted(set(old.digests) & set(head.yanked))
    if len(yanked) == len(old.packages):
        raise PipelineError(
            f"all packages of the snapshot {old.id} were yanked",
            head.id,
            "Choose another snapshot",
        )
    notes = (f"omitted because they were yanked: {', '.join(yanked)}",) if yanked else ()
    return Change(old, drop=frozenset(yanked), notes=notes)


def noted(change: Change, note: str) -> Change:
    """``change`` with one more note, unless it is empty."""
    return replace(change, notes=(*change.notes, note)) if note else change


def yanked_again(change: Change, head: State, pooled: Callable[[str], bool]) -> Change:
    """``change`` with the yanks that the head owes, of the packages that the repository has."""
    there = {name for name in head.owed if name in head.digests or name in change.base.digests or pooled(name)}
    if not there:
        return change
    note = f"yanked again, since the accepted head lacks these yanks: {', '.join(sorted(there))}"
    return replace(
        change,
        drop=change.drop | (there & set(change.base.digests)),
        yank=change.yank | there,
        notes=(*change.notes, note),
    )


def pruned(head: State, retention: Retention) -> Change:
    """Remove what ``retention`` does not keep."""
    return Change(head, drop=frozenset(package.filename for package in superseded(head.packages, retention)))
