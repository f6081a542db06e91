"""The outcome of a flavour on a builder, as a run records it: the fact ``outcomes[flavour]`` of the builder.

Rules:

1. A flavour has one outcome for each builder, set once, where the builder is done with it. A builder that got a flavour
   and has no outcome for it is lost.
2. ``built``: the builder handed the artifact over; ``file`` is the hand-over's path on the signer, which no builder
   decides.
3. ``failed`` and ``handed_on`` carry the failed task and its message. ``failed`` is final: every builder has the same
   source, compilers and flags. ``handed_on`` is a check that failed before compiling, so another builder may succeed.
   ``upstream``: a compiler refused upstream's code; nothing is wrong with the builder.
4. ``skipped``: nothing was built and nothing failed, since another flavour failed first (together=true) or the run
   is in check mode. ``warmed``: the builder's caches hold the compiled flavour; its key is ``<flavour> <version>``,
   since a night warms a release and a commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import PipelineError
from ..base.patterns import Line
from ..base.records import Record

BUILT, FAILED, HANDED_ON, SKIPPED, WARMED = STATES = ("built", "failed", "handed_on", "skipped", "warmed")


@dataclass(frozen=True)
class FlavourOutcome(Record):
    """One outcome; ``state`` is one of ``STATES``."""

    state: str
    task: str = ""
    message: str = ""
    upstream: bool = False
    file: Line = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.state not in STATES:
            raise PipelineError(
                f"an outcome has the unknown state {self.state!r}", remedy=f"States: {', '.join(STATES)}"
            )

    def reason(self, flavour: str) -> str:
        """The failure in one line, for a person."""
        return f"{flavour} (task {self.task}): {self.message}"


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
