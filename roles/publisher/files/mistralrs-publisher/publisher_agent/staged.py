"""Staged transactions: their record, and finishing or taking back one.

``staged/<transaction>`` is on disk before anything of the transaction is in the repository. Every step here may
have been done already, so a killed command is repaired by repeating it: the transaction whose snapshot is the head
is finished, one whose snapshot is not on disk is taken back. Any other waits, also after the head has moved on:
it may be in a proof.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .disk import append, locked, paths_in, remove_tree, rewrite, sync, unlink
from .host import Channel
from .metadata import package_lines
from .refusal import Busy, Refused
from .upload import age, remove_upload, upload_unused

LOCK_WAIT = 300.0  # seconds to wait for another command
ABANDONED = 2 * 86400  # seconds until an unpublished upload or staged snapshot is removed


class StagedTransaction(NamedTuple):
    """The file staged/<transaction>, and without ``metadata`` and ``fresh`` a line of the journal.

    ``metadata`` are the names in repodata/. ``fresh`` are packages that no head ever named: the pool has them for
    this and for other staged transactions alone. ``yanked`` are new in this snapshot.
    """

    transaction: str
    snapshot: str
    parent: str
    time: int
    reason: str
    who: str
    added: list[str]
    removed: list[str]
    yanked: list[str]
    metadata: list[str]
    fresh: list[str]

    @classmethod
    def read(cls, channel: Channel, transaction: str) -> StagedTransaction | None:
        path = channel.state / "staged" / transaction
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            remedy = "Move it away; then remove the transaction's snapshot by hand, if it is not the head"
            raise Refused(f"a staged transaction cannot be read: {error}", path, remedy) from error

    def write(self, channel: Channel) -> None:
        text = json.dumps(self._asdict())
        rewrite(channel.state / "staged" / self.transaction, text, channel.state / "entry.new")

    def remove(self, channel: Channel) -> None:
        unlink(channel.state / "staged", [self.transaction])


def staged_transactions(channel: Channel) -> list[StagedTransaction]:
    found = (StagedTransaction.read(channel, path.name) for path in paths_in(channel.state / "staged"))
    return [transaction for transaction in found if transaction]


def interrupted(channel: Channel) -> list[StagedTransaction]:
    """The transactions of killed commands: published but not finished, or not staged completely."""
    staged = staged_transactions(channel)
    head = channel.head() if staged else ""
    return [
        transaction
        for transaction in staged
        if transaction.snapshot == head or not channel.snapshot(transaction.snapshot).is_dir()
    ]


def listed_digests(channel: Channel, names: Iterable[str], *, but: str = "") -> dict[str, str]:
    """The sha256 of these packages in any snapshot except ``but``; verified when that snapshot was staged."""
    wanted, found = set(names), dict[str, str]()
    for folder in channel.snapshots().values() if wanted else ():
        if folder.name != but and (folder / "packages.txt").is_file():  # else it is damaged
            found |= {line[66:]: line[:64] for line in package_lines(folder) if line[66:] in wanted}
    return found


def exclusive_packages(channel: Channel, transaction: StagedTransaction | None) -> set[str]:
    """The packages in the pool that leave with the transaction: no other snapshot names them."""
    if not transaction:
        return set()
    return set(transaction.fresh) - set(listed_digests(channel, transaction.fresh, but=transaction.snapshot))


@contextlib.contextmanager
def exclusive(channel: Channel) -> Iterator[None]:
    """Hold the channel's lock, with the work of a killed command repaired."""
    channel.make_state()
    with locked(channel.state / "lock", LOCK_WAIT) as first:
        if not first:
            raise Busy(f"another command has been running for {LOCK_WAIT:g} s", channel.name)
        recover(channel)
        yield


def recover(channel: Channel) -> None:
    """Finish or take back the transactions of killed commands. The caller holds the channel's lock."""
    empty_trash(channel)
    for folder in paths_in(channel.state / "examined"):
        with upload_unused(channel.incoming(folder.name)) as unused:
            if unused:  # else a command is examining it
                remove_tree(folder)
    for transaction in interrupted(channel):
        if transaction.snapshot == channel.head():
            finish(channel, transaction)
        else:
            take_back(channel, transaction)


def finish(channel: Channel, transaction: StagedTransaction) -> None:
    """Do what follows the rename of the mirrorlist."""
    temporary = channel.state / "repodata.new"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"snapshots/{transaction.snapshot}/repodata")
    temporary.replace(channel.folder / "repodata")
    sync(channel.folder)
    for other in staged_transactions(channel):  # a package that a head named never leaves with another transaction
        if other != transaction and (shared := set(other.fresh) & set(transaction.added)):
            other._replace(fresh=sorted(set(other.fresh) - shared)).write(channel)
    if [last["snapshot"] for last in channel.journal(1)] != [transaction.snapshot]:
        line = {key: value for key, value in transaction._asdict().items() if key not in ("metadata", "fresh")}
        line["time"] = int((channel.folder / "mirrorlist").stat().st_mtime)
        append(channel.state / "journal", json.dumps(line))
    unlink(channel.pool, transaction.yanked)
    transaction.remove(channel)


def take_back(channel: Channel, transaction: StagedTransaction) -> None:
    """Remove a staged transaction with its snapshot and the packages that only it names."""
    gone = exclusive_packages(channel, transaction)
    discard(channel, [transaction.snapshot])
    unlink(channel.pool, gone)
    empty_trash(channel)
    transaction.remove(channel)


def discard(channel: Channel, snapshots: Iterable[str]) -> None:
    """Remove snapshots from their URLs, each in one rename that is on disk before the next."""
    trash = channel.state / "trash"
    trash.mkdir(0o700)
    for snapshot in snapshots:
        if channel.snapshot(snapshot).is_dir():
            channel.snapshot(snapshot).rename(trash / snapshot)
            sync(channel.folder / "snapshots")


def empty_trash(channel: Channel) -> None:
    for folder in (channel.state / "trash", channel.state / "staging"):
        if folder.is_dir():
            shutil.rmtree(folder)


def remove_abandoned(channel: Channel) -> None:
    """Remove what nobody published in time."""
    now, held = time.time(), set()
    for transaction in staged_transactions(channel):
        if now - transaction.time > ABANDONED:
            take_back(channel, transaction)
        else:
            held.add(transaction.transaction)
    for folder in paths_in(channel.state / "incoming"):
        if folder.name not in held and age(folder) > ABANDONED:
            remove_upload(folder)
