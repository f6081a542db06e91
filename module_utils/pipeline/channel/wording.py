"""The messages of the module repository_snapshot: what an operation changed, or in check mode would change.

``changes`` also describes publications in the agent's journal.

``state`` is the module's option.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..base.text import moment

if TYPE_CHECKING:
    from .engine import Result, Verification

NAMED = 3
"""Yanked packages that a line names."""


def changes(added: Collection[str], removed: Collection[str], yanked: Collection[str]) -> list[str]:
    """What a snapshot changes: numbers, and by name what it yanks, in the head or in the pool alone."""
    left = set(removed) - set(yanked)
    named = [*sorted(yanked)[:NAMED], *([f"{len(yanked) - NAMED} more"] if len(yanked) > NAMED else [])]
    counts = [f"{len(added)} added"] if added else []
    counts += [f"{len(left)} removed"] if left else []
    return counts + ([f"yanked {', '.join(named)}"] if named else [])


def summary(state: str, channel: str, done: Result) -> str:
    """The result in one line."""
    counts = changes(done.added, done.removed, done.yanked)
    if done.pruned:
        old, files = (len(done.pruned[kind]) for kind in ("snapshots", "packages"))
        counts += [f"{old} old snapshots and {files} files deleted"] if old or files else []
    if state == "dropped":
        return f"{channel}: {'staged snapshot dropped' if done.changed else 'nothing was staged'}"
    if not done.changed:
        return f"{channel} {done.head or '(empty)'}: nothing to change"
    if not done.snapshot and not done.pruned:
        return f"{channel}: would be changed, {', '.join(counts) or 'in its pool'}"
    shown = f"{channel} {done.snapshot.id if done.snapshot else done.head}"
    return f"{shown}: {', '.join([*counts, f'{len(done.after)} packages'])}"


def listing(state: str, channel: str, done: Result) -> list[str]:
    """The removed and restored packages, one a line; empty for the other states."""
    if state not in ("removed", "rolled_back", "pruned"):
        return []
    lines = [f"  - {name}" for name in done.removed] + [f"  + {name}" for name in done.added]
    lines += [f"  {name} is yanked for good" for name in done.yanked]
    pruned = {"snapshots": [], "packages": [], "waiting": {}} | done.pruned
    lines += [f"  snapshot {snapshot} is deleted" for snapshot in pruned["snapshots"]]
    lines += [f"  {name} is deleted from the pool" for name in pruned["packages"]]
    for name, end in sorted(pruned["waiting"].items()):
        lines.append(f"  {name} stays in the pool until {moment(end)} UTC")
    return [f"{channel}:", *lines] if lines else []


def verified(channel: str, done: Verification) -> str:
    """The result of a verification without findings, in one line."""
    return f"{channel} {done.head or '(empty)'}: {done.snapshots} snapshots and {done.packages} packages are intact"
