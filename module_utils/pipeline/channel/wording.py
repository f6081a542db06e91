"""What an operation on a channel did, or would do, in words for a person.

``state`` is what was asked for, as the module repository_snapshot calls it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import Outcome, Verdict


def result(state: str, channel: str, done: Outcome) -> str:
    """What became of the channel, or would, on one line."""
    counts = [f"{len(done.added)} added"] if done.added else []
    counts += [f"{len(done.removed)} removed"] if done.removed else []
    if done.pruned:
        old, files = (len(done.pruned[kind]) for kind in ("snapshots", "packages"))
        counts += [f"{old} old snapshots and {files} files deleted"] if old or files else []
    if state == "dropped":
        return f"{channel}: {'taken back' if done.changed else 'nothing was staged'}"
    if not done.changed:
        return f"{channel} {done.head or '(empty)'}: nothing to change"
    if not done.snapshot and not done.pruned:
        return f"{channel}: would be changed, {', '.join(counts) or 'in its pool'}"
    said = f"{channel} {done.snapshot.id if done.snapshot else done.head}"
    return f"{said}: {', '.join([*counts, f'{len(done.after)} packages'])}"


def listing(state: str, channel: str, done: Outcome) -> list[str]:
    """What is taken away or brought back, a line each; publishing needs no list."""
    if state not in ("removed", "rolled_back", "pruned"):
        return []
    lines = [f"  - {name}" for name in done.removed] + [f"  + {name}" for name in done.added]
    pruned = {"snapshots": [], "packages": [], "waiting": {}} | done.pruned
    lines += [f"  snapshot {snapshot} is deleted" for snapshot in pruned["snapshots"]]
    lines += [f"  {name} is deleted from the pool" for name in pruned["packages"]]
    for name, end in sorted(pruned["waiting"].items()):
        lines.append(f"  {name} stays in the pool until {time.strftime('%Y-%m-%d %H:%M', time.gmtime(end))} UTC")
    return [f"{channel}:", *lines] if lines else []


def well(channel: str, verdict: Verdict) -> str:
    """That reading everything found nothing, on one line."""
    return (
        f"{channel} {verdict.head or '(empty)'}: {verdict.snapshots} snapshots and {verdict.packages} packages"
        " are as they must be"
    )
