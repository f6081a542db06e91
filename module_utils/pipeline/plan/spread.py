"""Spreading: which builder builds which flavours of a release, and who takes over from a lost builder.

Rules:

1. The same builders and flavours always give the same shares: nothing is measured or random.
2. A flavour goes to a builder that answers, may build it (``flavours``; empty: all) and did not hand it on. Among these
   the builder with the smallest share gets it, where a share counts by the builder's weight. Of equal builders its home
   gets it, else the first in the inventory. Flavours that few builders may build are placed first.
3. A flavour's home is its builder in a release of all flavours: earlier compiles of it are cached there.
4. A flavour is settled when a builder packaged it or could not build it. A compile error is not tried elsewhere: every
   builder has the same source, compilers and flags, so it would recur after the same hours.
5. A builder hands a flavour on when its check fails (a full disk, a missing program): nothing was compiled.
6. A builder that got a flavour and has no outcome for it is lost. Its earlier outcomes count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import PipelineError
from ..base.records import Package, Record, sha256_file
from .outcomes import FAILED, HANDED_ON, FlavourOutcome


@dataclass(frozen=True)
class MissingFlavour(Record):
    """A flavour that no builder will build, and the reason."""

    flavour: str
    reason: str


@dataclass(frozen=True)
class Builder:
    """A builder of the run: what it may build, its speed, and its outcomes so far.

    ``weight`` is how many flavours it builds in the time in which a builder of weight 1 builds one. ``answers`` is
    False where it was unreachable at the start, ``in_run`` where ``--limit`` leaves it out.
    """

    name: str
    flavours: tuple[str, ...] = ()
    weight: int = 1
    answers: bool = True
    in_run: bool = True
    outcomes: Mapping[str, FlavourOutcome] = field(default_factory=dict)

    def may_build(self, flavour: str) -> bool:
        return not self.flavours or flavour in self.flavours

    def handed_on(self, flavour: str) -> bool:
        return flavour in self.outcomes and self.outcomes[flavour].state == HANDED_ON

    def settled(self, flavour: str) -> bool:
        return flavour in self.outcomes and not self.handed_on(flavour)


@dataclass(frozen=True)
class Spread:
    """``shares``: the flavours that each builder builds now; ``missing``: those that nobody will build; ``lost``: the
    builders that are gone.
    """

    shares: Mapping[str, tuple[str, ...]]
    missing: tuple[MissingFlavour, ...]
    lost: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line: "forge is lost; blackwell by anvil"."""
        gone = [f"{name} is lost" for name in self.lost]
        shares = [f"{', '.join(share)} by {name}" for name, share in self.shares.items()]
        return "; ".join(gone + shares) or "nothing is left to build"


def spread(
    wanted: Sequence[str],
    builders: Sequence[Builder],
    table: Sequence[str],
    *,
    given: Mapping[str, Collection[str]] | None = None,
    lost: Collection[str] = (),
    last: bool = False,
) -> Spread:
    """Spread the flavours of ``wanted`` that are not settled yet. After the ``last`` round they are missing instead.

    ``table`` names all flavours that a release of all of them has. ``given`` are the shares of the round before,
    ``lost`` the builders that were lost by then.
    """
    unknown = {flavour for builder in builders for flavour in builder.flavours} - set(table)
    if unknown:
        raise PipelineError(
            f"there is no flavour {', '.join(sorted(unknown))}",
            "builder_flavours",
            f"Choose from: {', '.join(table)}",
        )
    given = given or {}
    gone = tuple(b.name for b in builders if b.name in lost or not b.answers or _silent(b, given.get(b.name, ())))
    here = [b for b in builders if b.in_run and b.name not in gone]
    able = {
        flavour: [b for b in here if b.may_build(flavour) and not b.handed_on(flavour)]
        for flavour in wanted
        if not any(b.settled(flavour) for b in builders)
    }
    shares = _placed({flavour: some for flavour, some in able.items() if some}, _homes(builders, table))
    missing = [
        MissingFlavour(flavour, outcome.reason(flavour))
        for builder in builders
        for flavour, outcome in builder.outcomes.items()
        if outcome.state == FAILED
    ]
    missing += [_homeless(flavour, builders, gone) for flavour, some in able.items() if not some]
    if last:
        missing += [
            MissingFlavour(flavour, f"{flavour}: {name} could build it, but no round is left: run again")
            for name, share in shares.items()
            for flavour in share
        ]
        shares = {}
    return Spread(shares, tuple(missing), gone)


def verified(builders: Sequence[Builder]) -> tuple[Package, ...]:
    """The packages of all builders, as files on the signer; PipelineError if a digest differs from the builder's."""
    packages = []
    for builder in builders:
        for package in filter(None, (outcome.arrived for outcome in builder.outcomes.values())):
            path = Path(package.path)
            found = sha256_file(path) if path.is_file() else "no file"
            if found != package.sha256:
                raise PipelineError(
                    f"the package that {builder.name} made is not the one that arrived: {builder.name} reports sha256 "
                    f"{package.sha256}, here is {found}",
                    package.path,
                    f"Delete it, and packages/ on {builder.name}; run again. Nothing was signed or published",
                )
            packages.append(package)
    return tuple(packages)


def version_line(builders: Sequence[Builder]) -> str:
    """The line that ``mistralrs --version`` of the packaged binaries prints; "" if nothing was packaged."""
    versions = (outcome.crate_version for b in builders for outcome in b.outcomes.values() if outcome.crate_version)
    return next((f"mistralrs {version}" for version in versions), "")


def _silent(builder: Builder, share: Collection[str]) -> bool:
    return any(flavour not in builder.outcomes for flavour in share)


def _homes(builders: Sequence[Builder], table: Sequence[str]) -> dict[str, str]:
    """The builder of each flavour in a release of all, with every builder present."""
    able = {flavour: [b for b in builders if b.may_build(flavour)] for flavour in table}
    return {flavour: name for name, share in _placed(able, {}).items() for flavour in share}


def _placed(able: Mapping[str, Sequence[Builder]], homes: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The shares, by builder, each in the order of the flavours."""
    load: dict[str, int] = {}
    at: dict[str, str] = {}
    for flavour in sorted(able, key=lambda name: len(able[name])):
        if not able[flavour]:
            continue
        chosen = min(
            able[flavour],
            key=lambda b: ((load.get(b.name, 0) + 1) / b.weight, b.name != homes.get(flavour)),
        )
        load[chosen.name] = load.get(chosen.name, 0) + 1
        at[flavour] = chosen.name
    names = list(dict.fromkeys(b.name for some in able.values() for b in some))
    shares = {name: tuple(flavour for flavour in able if at.get(flavour) == name) for name in names}
    return {name: share for name, share in shares.items() if share}


def _homeless(flavour: str, builders: Sequence[Builder], gone: Collection[str]) -> MissingFlavour:
    """The reasons why each builder does not build a flavour."""
    reasons = []
    for builder in builders:
        if not builder.may_build(flavour):
            reasons.append(f"{flavour}: {builder.name} may not build it (builder_flavours)")
        elif builder.handed_on(flavour):
            reason = builder.outcomes[flavour].reason(flavour)
            reasons.append(reason if len(builders) == 1 else f"{reason} [{builder.name}]")
        elif builder.name in gone:
            reasons.append(f"{flavour}: {builder.name} is lost")
        elif not builder.in_run:
            reasons.append(f"{flavour}: {builder.name} has no part in this run (--limit)")
    return MissingFlavour(flavour, "; ".join(reasons) or f"{flavour}: there is no builder")
