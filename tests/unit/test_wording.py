"""The messages of repository_snapshot, as tables."""

from __future__ import annotations

from typing import Any

import pytest
from pipeline.base.records import Snapshot
from pipeline.channel.engine import Result, Verification
from pipeline.channel.wording import listing, summary, verified

HEAD = "20261121T115203Z-33638f77"
MADE = Snapshot(id=HEAD, channel="stable", parent="", time=0, reason="")
PRUNED: dict[str, Any] = {"snapshots": ["old"], "packages": ["a.rpm", "b.rpm"], "waiting": {"c.rpm": 0}}
NOTHING: dict[str, Any] = {"snapshots": [], "packages": [], "waiting": {}}


@pytest.mark.parametrize(
    ("state", "done", "line"),
    [
        ("published", Result(False, ""), "stable (empty): nothing to change"),
        ("published", Result(False, HEAD), f"stable {HEAD}: nothing to change"),
        ("published", Result(True, HEAD, MADE, after=("a",)), f"stable {HEAD}: 1 added, 1 packages"),
        ("published", Result(True, "", after=("a",)), "stable: would be changed, 1 added"),
        (
            "removed",
            Result(True, HEAD, MADE, before=("a", "b"), after=("a",)),
            f"stable {HEAD}: 1 removed, 1 packages",
        ),
        (
            "removed",
            Result(True, HEAD, MADE, before=("a", "b"), after=("a",), yanked=("b",)),
            f"stable {HEAD}: yanked b, 1 packages",
        ),
        (
            "removed",
            Result(True, HEAD, MADE, before=("a",), after=("a",), yanked=("b",)),
            f"stable {HEAD}: yanked b, 1 packages",
        ),
        (
            "removed",
            Result(True, HEAD, before=("a",), after=("a",), yanked=("b",)),
            "stable: would be changed, yanked b",
        ),
        ("dropped", Result(True, HEAD), "stable: staged snapshot dropped"),
        ("dropped", Result(False, HEAD), "stable: nothing was staged"),
        (
            "pruned",
            Result(True, HEAD, before=("a", "b"), after=("a",), pruned=PRUNED),
            f"stable {HEAD}: 1 removed, 1 old snapshots and 2 files deleted, 1 packages",
        ),
        ("pruned", Result(True, HEAD, before=("a",), after=("a",), pruned=NOTHING), f"stable {HEAD}: 1 packages"),
        ("pruned", Result(True, HEAD), "stable: would be changed, in its pool"),
    ],
)
def test_the_result_is_one_line(state: str, done: Result, line: str) -> None:
    assert summary(state, "stable", done) == line


def test_removed_and_restored_packages_are_listed() -> None:
    done = Result(True, HEAD, before=("x",), after=("y",), pruned=PRUNED)
    assert listing("pruned", "stable", done) == [
        "stable:",
        "  - x",
        "  + y",
        "  snapshot old is deleted",
        "  a.rpm is deleted from the pool",
        "  b.rpm is deleted from the pool",
        "  c.rpm stays in the pool until 1970-01-01 00:00:00 UTC",
    ]
    yank = Result(True, HEAD, before=("a",), after=("a",), yanked=("b",))
    assert listing("removed", "stable", yank) == ["stable:", "  b is yanked for good"], "the head lacked it before"
    assert listing("rolled_back", "stable", Result(False, HEAD)) == []
    assert listing("published", "stable", done) == [], "a publication has no list"


def test_an_intact_repository_is_one_line() -> None:
    assert verified("stable", Verification(HEAD, 2, 3, ())) == f"stable {HEAD}: 2 snapshots and 3 packages are intact"
