"""Stage, publish, drop.

An upload is copied and verified before the channel's lock is taken, so a slow one delays nobody.

Staging lays a verified upload ready: packages in the pool, then the complete snapshot under its final URL in one
rename. No mirrorlist names it yet. Publishing is the rename of the mirrorlist: before it the channel is the old
snapshot, after it the new one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .command import Command
from .disk import link, make_folder, remove_tree, rewrite, sync
from .examine import Examined, examined, fits
from .host import Channel
from .inside import reading
from .metadata import MAX_RECORD, SNAPSHOT_FILES, parse_record, parse_repomd, parse_snapshot
from .refusal import Busy, ParentMoved, Refused
from .staged import StagedTransaction, exclusive, finish, recover, remove_abandoned, take_back
from .upload import remove_upload, slot, upload_unused

KEPT_METADATA = 5  # snapshots whose metadata the plain repodata/ keeps, for clients that read by it


def stage_or_publish(channel: Channel, command: Command) -> str:
    """Stage an upload, and publish it if that is the command; the id of its snapshot."""
    upload = channel.incoming(command.transaction)
    with unused(upload), contextlib.ExitStack() as stack:
        remove_tree(channel.examined(command.transaction))  # of a killed command
        ready = None
        if upload.is_dir() and channel.head() == command.parent and not already_staged(channel, command, upload):
            stack.enter_context(slot(channel))
            ready = stack.enter_context(examined(channel, command, upload))
        stack.enter_context(exclusive(channel))
        snapshot, done = under_lock(channel, command, upload, ready)
        remove_abandoned(channel)
    if done:
        remove_upload(upload)
    return snapshot


def under_lock(channel: Channel, command: Command, upload: Path, ready: Examined | None) -> tuple[str, bool]:
    """Stage or publish; the snapshot, and whether it is the head."""
    head = channel.head()
    if head and already_published(channel, command, head):
        return head, True
    if head != command.parent:
        raise ParentMoved(
            f"the head is {head or '-'}, no longer {command.parent or '-'}",
            channel.name,
            "Compose the snapshot again on the new head",
        )
    transaction = already_staged(channel, command, upload) or stage(channel, command, upload, ready)
    if command.verb == "publish":
        line = channel.url(transaction.snapshot) + "\n"
        rewrite(channel.folder / "mirrorlist", line, channel.state / "line.new")
        finish(channel, transaction)
    return transaction.snapshot, command.verb == "publish"


def drop(channel: Channel, command: Command) -> str:
    """Remove an upload, and its staged snapshot; the head's id."""
    upload = channel.incoming(command.transaction)
    with exclusive(channel):
        with unused(upload):
            if transaction := StagedTransaction.read(channel, command.transaction):
                take_back(channel, transaction)
        remove_upload(upload)
        if upload.exists():
            raise Refused("the upload cannot be removed", upload, "Remove it as root, and find out whose files it has")
        remove_abandoned(channel)
        return channel.head()


@contextlib.contextmanager
def unused(upload: Path) -> Iterator[None]:
    """Hold the lock of an upload, if there is one; Busy while it is being written."""
    with upload_unused(upload) as free:
        if not free:
            raise Busy("the upload is still being written", upload.name)
        yield


def already_published(channel: Channel, command: Command, head: str) -> bool:
    """Whether the head is of this very transaction: the command is repeated because its answer was lost."""
    return any(
        (last.get("transaction"), last.get("parent"), last.get("snapshot"))
        == (command.transaction, command.parent, head)
        for last in channel.journal(1)
    )


def already_staged(channel: Channel, command: Command, upload: Path) -> StagedTransaction | None:
    """The staged transaction of this command; None if the upload has another snapshot by now."""
    transaction = StagedTransaction.read(channel, command.transaction)
    if transaction is None or transaction.parent != command.parent:
        return None
    try:
        with reading(upload, "snapshot/snapshot.json", MAX_RECORD) as stream:
            record = parse_record(stream.read(MAX_RECORD), upload)
    except FileNotFoundError:
        return transaction
    return transaction if record["id"] == transaction.snapshot else None


def stage(channel: Channel, command: Command, upload: Path, ready: Examined | None) -> StagedTransaction:
    """Lay a verified upload ready, in the place of what the transaction staged before."""
    if not ready:
        if upload.is_dir():
            raise Busy("the channel changed while this command waited", channel.name)
        raise Refused("there is no such upload", command.transaction, "Upload the transaction, then repeat this")
    old = StagedTransaction.read(channel, command.transaction)
    transaction = fits(channel, command, ready, old)
    if old:
        take_back(channel, old)
    try:
        lay_ready(channel, ready.folder, transaction)
    except Exception:
        recover(channel)
        raise
    return transaction


def lay_ready(channel: Channel, verified: Path, transaction: StagedTransaction) -> None:
    """Record, pool, snapshot: each is on disk before the next begins. ``verified`` is the agent's copy."""
    staging = channel.state / "staging"
    for folder in (channel.pool, channel.folder / "snapshots"):
        make_folder(folder)
    transaction.write(channel)

    for name in transaction.fresh:
        if not (channel.pool / name).exists():  # another staged transaction has the same package
            link(verified / "Packages" / name, channel.pool / name)
    sync(channel.pool)

    (staging / "repodata").mkdir(parents=True)
    for name in (*SNAPSHOT_FILES, *(f"repodata/{name}" for name in transaction.metadata)):
        link(verified / "snapshot" / name, staging / name)
    for path in recent_metadata(channel, transaction.parent):
        if not (staging / "repodata" / path.name).exists():
            (staging / "repodata" / path.name).hardlink_to(path)
    (staging / "Packages").symlink_to("../../Packages")
    sync(staging / "repodata")
    sync(staging)
    staging.rename(channel.snapshot(transaction.snapshot))
    sync(channel.folder / "snapshots")


def recent_metadata(channel: Channel, snapshot: str) -> Iterator[Path]:
    """The metadata files of a snapshot and of its ancestors, newest first, up to a damaged one."""
    for _ in range(KEPT_METADATA):
        folder = channel.snapshot(snapshot)
        if not snapshot or not folder.is_dir():
            return
        try:
            names = parse_repomd(folder / "repodata/repomd.xml")[1]
            snapshot = parse_snapshot(folder / "snapshot.json")["parent"]
        except (Refused, OSError):
            return
        yield from (path for name in names if (path := folder / "repodata" / name).is_file())
