"""Prune: remove what the retention in the configuration does not keep.

The retention is the host's own: a caller asks to prune, never what to remove. Kept are the head, staged snapshots,
the newest ``snapshots``, and all that were the head less than ``days`` ago. A package is removed ``grace_hours``
after the last kept snapshot that named it was removed. Files are removed after the state without them is on disk.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import time
import zlib
from pathlib import Path
from typing import Any

from .disk import names_in, rewrite, unlink
from .host import Channel
from .metadata import PACKAGE, PRIMARY, named_packages, parse_packages, parse_repomd, parse_snapshot
from .refusal import Refused
from .staged import discard, empty_trash, exclusive, remove_abandoned, staged_transactions


def prune(channel: Channel, *, dry_run: bool) -> dict[str, Any]:
    """Remove snapshots, then packages that none names any more."""
    with exclusive(channel):
        row, now, marks = channel.row, int(time.time()), unnamed_since(channel)
        published, folders = published_chain(channel), channel.snapshots()
        expired = expired_snapshots(channel, published, now - row.days * 86400)
        # Neither published nor staged: cut off by an interrupted prune or a repair by hand.
        strays = set(folders) - set(published) - {transaction.snapshot for transaction in staged_transactions(channel)}
        since = {snapshot: marks.get(snapshot, now) for snapshot in sorted(strays)}
        grace = row.grace_hours * 3600
        expired = [snapshot for snapshot, then in since.items() if then + grace <= now] + expired
        kept = [folder for snapshot, folder in folders.items() if snapshot not in expired]
        for folder in kept:
            check_list(folder)
        before, after = named_packages(folders.values()), named_packages(kept)
        unused = sorted(name for name in names_in(channel.pool) - after if re.fullmatch(PACKAGE, name))
        ends = {name: (now if name in before else marks.get(name, now)) + grace for name in unused}
        since |= {name: end - grace for name, end in ends.items()}
        gone = [name for name, end in ends.items() if end <= now]
        waiting = {name: end for name, end in ends.items() if end > now}
        if not dry_run:
            if since != marks:
                rewrite(channel.state / "unnamed", json.dumps(since), channel.state / "unnamed.new")
            discard(channel, expired)
            unlink(channel.pool, gone)
            empty_trash(channel)
            remove_abandoned(channel)
        return {"snapshot": channel.head(), "snapshots": expired, "packages": gone, "waiting": waiting}


def published_chain(channel: Channel) -> list[str]:
    """The published snapshots that are on disk, newest first."""
    snapshot, folders, found = channel.head(), channel.snapshots(), []
    if snapshot and snapshot not in folders:
        remedy = "Restore it from a backup, or write the URL of an existing snapshot into the mirrorlist"
        raise Refused("the head's snapshot is gone", channel.snapshot(snapshot), remedy)
    while snapshot in folders:
        found.append(snapshot)
        try:
            snapshot = parse_snapshot(folders[snapshot] / "snapshot.json")["parent"]
        except (Refused, OSError) as error:
            remedy = "Restore it from a backup; if another snapshot is the head, you may move the damaged one away"
            raise Refused(f"a snapshot is damaged: {error}", folders[snapshot], remedy) from error
    return found


def expired_snapshots(channel: Channel, published: list[str], before: int) -> list[str]:
    """The published snapshots (newest first) beyond the count to keep and replaced before that time, oldest first."""
    times = {line["snapshot"]: line["time"] for line in channel.journal()}
    replaced = []
    for newer, snapshot in itertools.pairwise(published):
        if newer not in times:
            times[newer] = parse_snapshot(channel.snapshot(newer) / "snapshot.json")["time"]
        replaced.append((snapshot, times[newer]))
    beyond = replaced[channel.row.snapshots - 1 :]
    return [snapshot for snapshot, then in reversed(beyond) if then <= before]


def unnamed_since(channel: Channel) -> dict[str, int]:
    """Since when no kept snapshot names a package, or a snapshot is neither published nor staged, by prune's record."""
    try:
        return dict(json.loads((channel.state / "unnamed").read_text()))
    except (FileNotFoundError, ValueError):  # every grace begins again
        return {}


def check_list(snapshot: Path) -> None:
    """Refuse a truncated packages.txt: the packages that it lacks would be pruned."""
    head = PRIMARY % len(parse_packages(snapshot / "packages.txt"))
    primary = parse_repomd(snapshot / "repodata/repomd.xml")[2]
    try:
        with gzip.open(snapshot / "repodata" / primary) as stream:
            same = stream.read(len(head)) == head
    except (EOFError, zlib.error):
        same = False
    if not same:
        remedy = "Restore it from a backup, then run verify for other damage"
        raise Refused("packages.txt does not name as many packages as the metadata", snapshot, remedy)
