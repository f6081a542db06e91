"""Spreading: which builder builds which flavours of a release, and who takes over from a lost builder.

Rules:

1. The same builders and flavours always give the same shares: nothing is measured or random.
2. A flavour goes to a builder that answers, may build it (``flavours``; empty: all) and did not hand it on. Among these
   the builder with the smallest share gets it, where a share counts by the builder's weight. Of equal builders its home
   gets it, else the first in the inventory. Flavours that few builders may build are placed first.
3. A flavour's home is its builder in a release of all flavours: earlier compiles of it are cached there.
4. With ``agreement`` 2, two builders build each flavour at once, and so on. A flavour that too few builders can build
   is not built at all; one that too few have built is not published.
5. A flavour is settled when enough builders built it, or one could not. A compile error is not tried elsewhere: every
   builder has the same source, compilers and flags, so it would recur after the same hours.
6. A builder hands a flavour on when its check fails (a full disk, a missing program): nothing was compiled.
7. A builder that got a flavour and has no outcome for it is lost. Its earlier outcomes count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..base.errors import PipelineError
from ..base.records import Record
from .outcomes import BUILT, FAILED, HANDED_ON, FlavourOutcome


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

    def built(self, flavour: str) -> bool:
        return flavour in self.outcomes and self.outcomes[flavour].state == BUILT

    def gave_up(self, flavour: str) -> bool:
        """Whether it neither built the flavour nor handed it on: no other builder tries."""
        return flavour in self.outcomes and not self.built(flavour) and not self.handed_on(flavour)


@dataclass(frozen=True)
class HandedOver(Record):
    """A hand-over of a flavour: its builder, and the path of the file on the signer."""

    builder: str
    file: str


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
    agreement: int = 1,
) -> Spread:
    """Spread the flavours of ``wanted`` that are not settled yet. After the ``last`` round they are missing instead.

    ``table`` names all flavours that a release of all of them has. ``given`` are the shares of the round before,
    ``lost`` the builders that were lost by then, ``agreement`` the builders that must build each flavour.
    """
    _require_agreement(agreement, builders)
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
    needed = {
        flavour: agreement - sum(b.built(flavour) for b in builders)
        for flavour in wanted
        if not any(b.gave_up(flavour) for b in builders)
    }
    able = {
        flavour: [b for b in here if b.may_build(flavour) and flavour not in b.outcomes]
        for flavour, number in needed.items()
        if number > 0
    }
    possible = {flavour: some for flavour, some in able.items() if len(some) >= needed[flavour]}
    shares = _placed(possible, _homes(builders, table), needed)
    missing = [
        MissingFlavour(flavour, outcome.reason(flavour))
        for builder in builders
        for flavour, outcome in builder.outcomes.items()
        if outcome.state == FAILED
    ]
    missing += [_homeless(flavour, builders, gone, agreement) for flavour in able if flavour not in possible]
    if last:
        missing += [
            MissingFlavour(flavour, f"{flavour}: {' and '.join(names)} could build it, but no round is left: run again")
            for flavour, names in _builders_of(shares).items()
        ]
        shares = {}
    return Spread(shares, tuple(missing), gone)


def handed_over(
    wanted: Sequence[str], builders: Sequence[Builder], agreement: int = 1
) -> dict[str, tuple[HandedOver, ...]]:
    """The hand-overs of each flavour that enough builders built, for the signer to package."""
    found = {
        flavour: tuple(HandedOver(b.name, b.outcomes[flavour].file) for b in builders if b.built(flavour))
        for flavour in wanted
        if not any(b.gave_up(flavour) for b in builders)
    }
    return {flavour: some for flavour, some in found.items() if len(some) >= agreement}


def _require_agreement(agreement: int, builders: Sequence[Builder]) -> None:
    if agreement < 1:
        raise PipelineError(f"agreement is {agreement}", "agreement", "Set it to 1, or to the builders that must agree")
    if agreement > len(builders):
        raise PipelineError(
            f"agreement is {agreement}, and the inventory has {len(builders)} builder{'s' * (len(builders) > 1)}: no "
            "flavour can be built by enough of them",
            "agreement",
            f"Add builders to the inventory, or set agreement: {len(builders)}. Nothing was built",
        )


def _builders_of(shares: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The builders of each flavour in the shares."""
    found: dict[str, list[str]] = {}
    for name, share in shares.items():
        for flavour in share:
            found.setdefault(flavour, []).append(name)
    return found


def _silent(builder: Builder, share: Collection[str]) -> bool:
    return any(flavour not in builder.outcomes for flavour in share)


def _homes(builders: Sequence[Builder], table: Sequence[str]) -> dict[str, str]:
    """The builder of each flavour in a release of all, with every builder present."""
    able = {flavour: [b for b in builders if b.may_build(flavour)] for flavour in table}
    return {flavour: name for name, share in _placed(able, {}, {}).items() for flavour in share}


def _placed(
    able: Mapping[str, Sequence[Builder]], homes: Mapping[str, str], needed: Mapping[str, int]
) -> dict[str, tuple[str, ...]]:
    """The shares, by builder, each in the order of the flavours. ``needed`` builders (1) get each flavour."""
    load: dict[str, int] = {}
    at: dict[str, set[str]] = {}
    for flavour in sorted(able, key=lambda name: len(able[name])):
        left = list(able[flavour])
        for _ in range(min(needed.get(flavour, 1), len(left))):
            chosen = min(
                left,
                key=lambda b: ((load.get(b.name, 0) + 1) / b.weight, b.name != homes.get(flavour)),
            )
            left.remove(chosen)
            load[chosen.name] = load.get(chosen.name, 0) + 1
            at.setdefault(flavour, set()).add(chosen.name)
    names = list(dict.fromkeys(b.name for some in able.values() for b in some))
    shares = {name: tuple(flavour for flavour in able if name in at.get(flavour, ())) for name in names}
    return {name: share for name, share in shares.items() if share}


def _homeless(flavour: str, builders: Sequence[Builder], gone: Collection[str], agreement: int) -> MissingFlavour:
    """The reasons why each builder does not build a flavour."""
    reasons = [f"{flavour}: {agreement} builders must build the same bytes (agreement)"] if agreement > 1 else []
    for builder in builders:
        if builder.built(flavour):
            reasons.append(f"{flavour}: {builder.name} built it")
        elif not builder.may_build(flavour):
            reasons.append(f"{flavour}: {builder.name} may not build it (builder_flavours)")
        elif builder.handed_on(flavour):
            reason = builder.outcomes[flavour].reason(flavour)
            reasons.append(reason if len(builders) == 1 else f"{reason} [{builder.name}]")
        elif builder.name in gone:
            reasons.append(f"{flavour}: {builder.name} is lost")
        elif not builder.in_run:
            reasons.append(f"{flavour}: {builder.name} has no part in this run (--limit)")
    return MissingFlavour(flavour, "; ".join(reasons) or f"{flavour}: there is no builder")
