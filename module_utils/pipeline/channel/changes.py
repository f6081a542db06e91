"""What can be done to a channel: from the head's state and some arguments to a change.

Rules:

1. These take values and return values. A change is told against the snapshot whose metadata is taken over: the head,
   or an older one where the channel goes back.
2. A name never changes its bytes, and a name that was yanked never comes back.
3. What is so already is no change: each operation can be repeated.
4. A pattern that means nothing is an error, and so is a wildcard that would leave nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
    """With ``packages``; those that the head has already are left out."""
    published = head.digests
    known, new = dict(published), {}
    for package in packages:
        if package.filename in head.record.yanked:
            raise PipelineError(
                f"{package.filename} was yanked from this channel, and is never published again",
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
    """Without the packages that ``patterns`` (file names, NEVRAs or globs of either) mean.

    ``pooled`` says whether the pool has a file name: what the channel held before is removed already, and can still
    be yanked.
    """
    if not all(patterns):
        raise PipelineError("it is not said which packages", head.id, "Name them: -e names=NAME[,NAME]")
    here = set(head.digests)
    known = here | set(head.record.removed) | set(head.record.yanked)
    globs = [pattern for pattern in patterns if re.search(r"[*?\[]", pattern)]
    gone: set[str] = set()
    for pattern in patterns:
        meant = {name for name in known if _means(pattern, name)}
        plain = f"{pattern.removesuffix('.rpm')}.rpm"
        if not meant and pattern not in globs and pooled(plain):
            meant = {plain}
        if not meant:
            raise PipelineError(
                f"no package of the channel is called {pattern}",
                head.id,
                "Give file names, or name-version-release.arch as dnf lists them; * and ? are wildcards",
            )
        gone |= meant
    if here and here <= gone and globs:
        raise PipelineError(
            f"{', '.join(globs)} would leave nothing of the channel's {len(here)} packages",
            head.id,
            "Name each package in full if none is to stay",
        )
    yanked = {name for name in gone - set(head.record.yanked) if name in here or pooled(name)} if yank else set()
    return Change(head, drop=frozenset(gone & here), yank=frozenset(yanked))


def _means(pattern: str, filename: str) -> bool:
    return fnmatchcase(filename, pattern) or fnmatchcase(filename.removesuffix(".rpm"), pattern)


def rolled_back(head: State, old: State) -> Change:
    """The packages of ``old`` again, but for those that were yanked since."""
    yanked = sorted(set(old.digests) & set(head.record.yanked))
    if len(yanked) == len(old.packages):
        raise PipelineError(
            f"nothing is left of the snapshot {old.id}: all its packages were yanked",
            head.id,
            "Choose another snapshot",
        )
    notes = (f"left out, since they were yanked: {', '.join(yanked)}",) if yanked else ()
    return Change(old, drop=frozenset(yanked), notes=notes)


def pruned(head: State, retention: Retention) -> Change:
    """Without what ``retention`` does not keep."""
    return Change(head, drop=frozenset(package.filename for package in superseded(head.packages, retention)))
