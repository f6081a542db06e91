"""What a screen without -v shows.

Rules:

1. The result of a pipeline playbook is its steps. Every other playbook is about its changes: they are shown, as in
   check mode and under --diff.
2. On a terminal the last line shows what runs now and is replaced in place. Elsewhere, and on a terminal that cannot
   do it, there are only whole lines, no carriage return, no escape sequence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

STEPS = frozenset({
    "release", "prerelease", "standalone", "dev", "warm", "doctor", "status", "rollback", "yank", "prune", "rotate_key",
    "reproduce", "fingerprint", "hold", "resume",
})  # fmt: skip
"""The playbooks whose results are steps; their changes are not shown."""

# "[ada] 412/803 mistralrs-core, 3:10", as build/progress.py writes it.
PROGRESS = re.compile(r"\[[a-z0-9-]+\] \d+/\d+ ")

ERASE = "\r\x1b[K"
"""Moves to the beginning of the line and erases it."""


def shows_changes(play: str) -> bool:
    """Whether the changes of a play are shown; ``play`` is its FILE:LINE."""
    return PurePath(play.rpartition(":")[0]).stem not in STEPS


def changed_items(returned: Mapping[str, Any]) -> str:
    """The changed items of a loop: " (a, b; 2 of 3)"; "" for a task without a loop."""
    results = returned.get("results")
    if not isinstance(results, list):
        return ""
    changed = [part for part in results if isinstance(part, Mapping) and part.get("changed")]
    labels = [str(part.get("_ansible_item_label", part.get("item", ""))) for part in changed]
    shown = ", ".join(label if len(label) <= 60 else f"{label[:57]}..." for label in labels[:5])
    return f" ({shown}{', ...' if len(labels) > 5 else ''}; {len(changed)} of {len(results)})"


def is_progress(line: str) -> bool:
    """Whether a line is replaced by the next of its kind on a terminal."""
    return bool(PROGRESS.match(line))


def can_redraw(*, terminal: bool, kind: str) -> bool:
    """Whether the last line may be replaced; ``kind`` is the variable TERM."""
    return terminal and kind not in ("", "dumb")


def fitted(line: str, columns: int) -> str:
    """A line that takes no second row of the terminal."""
    return line if len(line) < columns else f"{line[: columns - 4]}..."
