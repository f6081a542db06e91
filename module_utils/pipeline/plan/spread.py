"""Spreading: which builder builds which flavours of a release, and what becomes of a lost builder's.

Rules:

1. The same builders and flavours always give the same shares: nothing is measured, nothing is drawn by lot.
2. A flavour goes to a builder that is there, may build it (``flavours``; empty: all) and did not hand it on: of these
   to the one whose share, over its weight, stays smallest; of equals to its home, else to the first in the
   inventory. Flavours that few builders may build are placed first.
3. A flavour's home is where it is built in a release of all flavours: what was compiled before lies there.
4. A flavour is settled when a builder has packaged it or could not build it. A compile error is not tried elsewhere:
   every builder has the same source, compilers and flags, so it would come again, after the same hours.
5. A builder hands a flavour on when its check finds something (a full disk, a missing program): nothing was compiled.
6. A builder that was given a flavour and says nothing of it is lost. What it did settle before counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.records import Package, Record, sha256_file


@dataclass(frozen=True)
class Told(Record):
    """What a builder says of a flavour that it has not packaged."""

    flavour: str
    told: str


@dataclass(frozen=True)
class Builder(Record):
    """A builder as the run knows it: what it may build, how fast it is, and what it has said so far.

    ``weight`` is how much it builds in the time in which others build 1. ``there`` is False where it did not answer at
    the beginning, ``asked`` where it has no part in this run (``--limit``). ``settled`` names the flavours that it is
    done with; ``handed_on`` tells what its check found.
    """

    name: str
    flavours: tuple[str, ...] = ()
    weight: int = 1
    there: bool = True
    asked: bool = True
    settled: tuple[str, ...] = ()
    packaged: tuple[Package, ...] = ()
    failed: tuple[Told, ...] = ()
    handed_on: tuple[Told, ...] = ()

    def may_build(self, flavour: str) -> bool:
        return not self.flavours or flavour in self.flavours


@dataclass(frozen=True)
class Spread:
    """``shares`` is what each builder has to build now, ``missing`` what nobody will build, ``lost`` the builders that
    are gone; ``told`` is one line for a person.
    """

    shares: Mapping[str, tuple[str, ...]]
    missing: tuple[Told, ...]
    lost: tuple[str, ...]

    @property
    def told(self) -> str:
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
    """What is still to be built of ``wanted``, and by whom. After the ``last`` round what nobody built is missing.

    ``table`` names all flavours that a release of all of them has. ``given`` are the shares of the round before,
    ``lost`` the builders that were known to be lost then.
    """
    unknown = {flavour for builder in builders for flavour in builder.flavours} - set(table)
    if unknown:
        raise PipelineError(
            f"there is no flavour {', '.join(sorted(unknown))}",
            "builder_flavours",
            f"Choose of: {', '.join(table)}",
        )
    given = given or {}
    gone = tuple(b.name for b in builders if b.name in lost or not b.there or _silent_on(b, given.get(b.name, ())))
    here = [b for b in builders if b.asked and b.name not in gone]
    settled = {flavour for builder in builders for flavour in builder.settled}
    able = {
        flavour: [b for b in here if b.may_build(flavour) and not _handed_on(b, flavour)]
        for flavour in wanted
        if flavour not in settled
    }
    shares = _placed({flavour: some for flavour, some in able.items() if some}, _homes(builders, table))
    missing = [told for builder in builders for told in builder.failed]
    missing += [_homeless(flavour, builders, gone) for flavour, some in able.items() if not some]
    if last:
        missing += [
            Told(flavour, f"{flavour}: {name} could build it, and no round is left for that: run again")
            for name, share in shares.items()
            for flavour in share
        ]
        shares = {}
    return Spread(shares, tuple(missing), gone)


def verified(builders: Sequence[Builder]) -> tuple[Package, ...]:
    """The packages of all builders, on the signer: each has the digest that its builder told."""
    packages = []
    for builder in builders:
        for package in builder.packaged:
            path = Path(package.path)
            found = sha256_file(path) if path.is_file() else "no file"
            if found != package.sha256:
                raise PipelineError(
                    f"the package that {builder.name} made is not the one that arrived: {builder.name} told sha256 "
                    f"{package.sha256}, here is {found}",
                    package.path,
                    f"Delete it, and packages/ on {builder.name}; run again. Nothing was signed or published",
                )
            packages.append(package)
    return tuple(packages)


def _silent_on(builder: Builder, share: Collection[str]) -> bool:
    return any(flavour not in builder.settled and not _handed_on(builder, flavour) for flavour in share)


def _handed_on(builder: Builder, flavour: str) -> bool:
    return any(told.flavour == flavour for told in builder.handed_on)


def _homes(builders: Sequence[Builder], table: Sequence[str]) -> dict[str, str]:
    """Where each flavour is built in a release of all, with every builder there."""
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


def _homeless(flavour: str, builders: Sequence[Builder], gone: Collection[str]) -> Told:
    """Why nobody builds a flavour."""
    reasons = []
    for builder in builders:
        said = next((told.told for told in builder.handed_on if told.flavour == flavour), "")
        if not builder.may_build(flavour):
            reasons.append(f"{flavour}: {builder.name} may not build it (builder_flavours)")
        elif said:
            reasons.append(said if len(builders) == 1 else f"{said} [{builder.name}]")
        elif builder.name in gone:
            reasons.append(f"{flavour}: {builder.name} is lost")
        elif not builder.asked:
            reasons.append(f"{flavour}: {builder.name} has no part in this run")
    return Told(flavour, "; ".join(reasons) or f"{flavour}: there is no builder")
