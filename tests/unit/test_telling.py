"""What is told of an operation on a channel, as tables."""

from __future__ import annotations

from typing import Any

import pytest
from pipeline.base.records import Snapshot
from pipeline.channel.engine import Outcome, Verdict
from pipeline.channel.wording import listing, result, well

HEAD = "20261121T115203Z-33638f77"
MADE = Snapshot(id=HEAD, channel="stable", parent="", time=0, reason="")
PRUNED: dict[str, Any] = {"snapshots": ["old"], "packages": ["a.rpm", "b.rpm"], "waiting": {"c.rpm": 0}}
NOTHING: dict[str, Any] = {"snapshots": [], "packages": [], "waiting": {}}


@pytest.mark.parametrize(
    ("state", "done", "line"),
    [
        ("added", Outcome(False, ""), "stable (empty): nothing to change"),
        ("added", Outcome(False, HEAD), f"stable {HEAD}: nothing to change"),
        ("added", Outcome(True, HEAD, MADE, after=("a",)), f"stable {HEAD}: 1 added, 1 packages"),
        ("added", Outcome(True, "", after=("a",)), "stable: would be changed, 1 added"),
        (
            "removed",
            Outcome(True, HEAD, MADE, before=("a", "b"), after=("a",)),
            f"stable {HEAD}: 1 removed, 1 packages",
        ),
        ("dropped", Outcome(True, HEAD), "stable: taken back"),
        ("dropped", Outcome(False, HEAD), "stable: nothing was staged"),
        (
            "pruned",
            Outcome(True, HEAD, before=("a", "b"), after=("a",), pruned=PRUNED),
            f"stable {HEAD}: 1 removed, 1 old snapshots and 2 files deleted, 1 packages",
        ),
        ("pruned", Outcome(True, HEAD, before=("a",), after=("a",), pruned=NOTHING), f"stable {HEAD}: 1 packages"),
        ("pruned", Outcome(True, HEAD), "stable: would be changed, in its pool"),
    ],
)
def test_what_became_of_a_channel(state: str, done: Outcome, line: str) -> None:
    assert result(state, "stable", done) == line


def test_what_is_taken_away_or_brought_back_is_listed() -> None:
    done = Outcome(True, HEAD, before=("x",), after=("y",), pruned=PRUNED)
    assert listing("pruned", "stable", done) == [
        "stable:",
        "  - x",
        "  + y",
        "  snapshot old is deleted",
        "  a.rpm is deleted from the pool",
        "  b.rpm is deleted from the pool",
        "  c.rpm stays in the pool until 1970-01-01 00:00 UTC",
    ]
    assert listing("rolled_back", "stable", Outcome(False, HEAD)) == []
    assert listing("added", "stable", done) == [], "publishing needs no list"


def test_that_all_is_well() -> None:
    assert well("stable", Verdict(HEAD, 2, 3, ())) == f"stable {HEAD}: 2 snapshots and 3 packages are as they must be"
