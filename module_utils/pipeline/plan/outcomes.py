"""The outcome of a flavour on a builder, as a run records it: the fact ``outcomes[flavour]`` of the builder.

Rules:

1. A flavour has one outcome for each builder, set once, where the builder is done with it. A builder that got a flavour
   and has no outcome for it is lost.
2. ``packaged``: ``package`` is the Package record on the builder, ``inbox`` the signer's folder that its file was
   brought to ("" where the signer reads the builder's own file), ``crate_version`` the version that the binary prints.
3. ``failed`` and ``handed_on`` carry the failed task and its message. ``failed`` is final: every builder has the same
   source, compilers and flags. ``handed_on`` is a check that failed before compiling, so another builder may succeed.
   ``upstream``: a compiler refused upstream's code; nothing is wrong with the builder.
4. ``skipped``: nothing was packaged and nothing failed, since another flavour failed first (together=true) or the run
   is in check mode. ``warmed``: the builder's caches hold the compiled flavour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.records import Package, Record

PACKAGED, FAILED, HANDED_ON, SKIPPED, WARMED = STATES = ("packaged", "failed", "handed_on", "skipped", "warmed")


@dataclass(frozen=True)
class FlavourOutcome(Record):
    """One outcome; ``state`` is one of ``STATES``."""

    state: str
    task: str = ""
    message: str = ""
    upstream: bool = False
    package: Package | None = None
    inbox: str = ""
    crate_version: str = ""

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise PipelineError(
                f"an outcome has the unknown state {self.state!r}", remedy=f"States: {', '.join(STATES)}"
            )

    def reason(self, flavour: str) -> str:
        """The failure in one line, for a person."""
        return f"{flavour} (task {self.task}): {self.message}"

    @property
    def arrived(self) -> Package | None:
        """The package with the path of its file on the signer. Only the file's name comes from the builder."""
        if self.package is None or not self.inbox:
            return self.package
        path = Path(self.inbox) / Path(self.package.path).name
        return Package(**{**self.package.to_dict(), "path": str(path)})


def outcomes_of(fact: Mapping[str, Mapping[str, Any]]) -> dict[str, FlavourOutcome]:
    """The outcomes of one builder, by flavour, from its fact."""
    return {flavour: FlavourOutcome.from_dict(outcome) for flavour, outcome in fact.items()}


def failures(outcomes: Mapping[str, FlavourOutcome], *, upstream: bool | None = None) -> list[str]:
    """The reasons of the failed outcomes; ``upstream`` narrows them to upstream's faults, or to all others."""
    return [
        outcome.reason(flavour)
        for flavour, outcome in outcomes.items()
        if outcome.state == FAILED and upstream in (None, outcome.upstream)
    ]
