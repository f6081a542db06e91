"""The channel engine: whatever is done to a channel is done by its next snapshot.

The process goes like this:

1. Ask the publisher agent for the head, and read that snapshot's verified metadata.
2. Work out the change (``changes``). Nothing to change: the channel is as wanted.
3. See that the repo host has room for the new packages.
4. Compose: the older metadata spliced with that of the new packages (``metadata``), both signatures.
5. Upload. Stage it where it is to be proved first; else commit it on that head.
6. If somebody else committed meanwhile, begin again at 1. What was uploaded is not sent again.

Rules:

1. Nothing that is published changes before the commit, and the agent does that one whole or not at all.
2. A transaction's id is decided by what is asked for, not by the head: it stays the same when it is composed again, or
   by the next run after a kill.
3. A run composes in a folder of its own below compose/, under a flock: the next run clears what a killed one left.
4. No package is read. The digest of a new one is that of the signing stage, which verified the file, and the agent
   holds what arrives against it.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Package, Snapshot, Transaction, digest_of
from ..sign.keyring import opened
from ..sign.trust import verify_detached
from .agent_client import Busy, ParentMoved
from .changes import Change, added, pruned, removed, rolled_back
from .metadata import TYPES, edits_of, entry_of, packages_txt, splice, write_repodata
from .reader import Channel, State
from .retention import Retention

T = TypeVar("T")
TRIES = 100  # commits of others, or the end of another command, that are waited out


class Agent(Protocol):
    """What the engine needs of ``publisher.Publisher``."""

    def head(self, channel: str) -> str: ...

    def look(self, channel: str) -> tuple[str, int]: ...

    def upload(self, transaction: Transaction) -> None: ...

    def stage(self, transaction: Transaction) -> str: ...

    def commit(self, transaction: Transaction) -> str: ...

    def drop(self, channel: str, transaction: str) -> str: ...

    def prune(self, channel: str, dry_run: bool = False) -> dict[str, Any]: ...

    def verify(self, channel: str) -> dict[str, Any]: ...

    def status(self, channel: str) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Signer:
    """Where the signing key is: a GnuPG home, its passphrase's file, and the trusted public key."""

    home: Path
    passphrase_file: Path | None
    trusted_keys: Path


@dataclass(frozen=True)
class Outcome:
    """What was done, or in check mode would be.

    ``head`` is the channel's head afterwards. ``snapshot`` was made now (None: nothing was); ``transaction`` is it
    where it was staged only. ``before`` and ``after`` are package file names. ``notes`` are for the operator.
    ``pruned`` is the agent's answer about older snapshots and the pool.
    """

    changed: bool
    head: str
    snapshot: Snapshot | None = None
    transaction: Transaction | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pruned: dict[str, Any] = field(default_factory=dict)

    @property
    def added(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.after) - set(self.before)))

    @property
    def removed(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.before) - set(self.after)))


@dataclass(frozen=True)
class Verdict:
    """What reading everything told: ``findings`` is empty where all is as it must be."""

    head: str
    snapshots: int
    packages: int
    findings: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """The channel ``name`` as its signer sees it; ``root`` is the signer's folder.

    Each operation can be repeated. ``check`` tells what it would do and does nothing.
    """

    name: str
    channel: Channel
    agent: Agent
    signer: Signer
    root: Path
    now: Callable[[], float] = time.time
    tries: int = TRIES

    def add(self, packages: Sequence[Package], *, reason: str = "", hold: bool = False, check: bool = False) -> Outcome:
        """Add signed packages. With ``hold`` their snapshot is staged, for ``commit`` or ``drop``."""
        id_ = self._id("add", sorted((package.filename, package.sha256) for package in packages))
        return self._publish(
            id_, lambda head: added(head, packages), reason=reason or "packages added", hold=hold, check=check
        )

    def remove(self, names: Sequence[str], *, yank: bool = False, reason: str = "", check: bool = False) -> Outcome:
        """Take packages out of the head; with ``yank`` out of the pool too, and for good."""
        return self._publish(
            self._id("yank" if yank else "remove", sorted(names)),
            lambda head: removed(head, names, self.channel.has, yank=yank),
            reason=reason or f"{'yanked' if yank else 'removed'} {', '.join(names)}",
            check=check,
        )

    def rollback(self, snapshot: str = "", *, reason: str = "", check: bool = False) -> Outcome:
        """Publish the packages of an older snapshot again; "" is the one before the head, as it is at the start."""
        status = self.agent.status(self.name)
        published = [row["id"] for row in status["snapshots"] if not row["staged"]]
        target = snapshot or (status["snapshot"] and self.channel.record(status["snapshot"]).parent)
        if target not in published:
            raise PipelineError(
                f"the channel has no snapshot {target or 'before its first'}",
                self.channel.location,
                f"The newest are {', '.join(published[:5]) or 'none'}; `make status` lists more",
            )
        old = self.channel.state(target)
        return self._publish(
            self._id("rollback", target),
            lambda head: rolled_back(head, old),
            reason=reason or f"back to {target}",
            check=check,
        )

    def prune(self, retention: Retention, *, reason: str = "", check: bool = False) -> Outcome:
        """Take out of the head what ``retention`` does not keep; then the agent prunes by its own configuration."""
        done = self._publish(
            self._id("prune", [retention.versions, retention.builds]),
            lambda head: pruned(head, retention),
            reason=reason or "retention",
            check=check,
        )
        swept = self._patiently(lambda: self.agent.prune(self.name, dry_run=check))
        changed = done.changed or bool(swept["snapshots"] or swept["packages"])
        return Outcome(changed, done.head, done.snapshot, None, done.before, done.after, done.notes, swept)

    def commit(self, transaction: Transaction, packages: Sequence[Package], *, check: bool = False) -> Outcome:
        """Publish what ``add`` staged of ``packages``; composed again if the head moved meanwhile."""
        snapshot = transaction.snapshot
        head = self.agent.head(self.name)
        before = tuple(sorted(self.channel.state(head).digests))
        if head == snapshot.id:
            return Outcome(False, head, before=before, after=before)
        if head != snapshot.parent:
            return self.add(packages, reason=snapshot.reason, check=check)
        if not check:
            try:
                head = self._patiently(lambda: self.agent.commit(transaction))
            except ParentMoved:
                return self.add(packages, reason=snapshot.reason)
        after = (set(before) | set(snapshot.added)) - set(snapshot.removed)
        return Outcome(True, head, snapshot, None, before, tuple(sorted(after)))

    def drop(self, transaction: Transaction, *, check: bool = False) -> Outcome:
        """Take back what ``add`` staged."""
        status = self.agent.status(self.name)
        there = any(row["staged"] and row["id"] == transaction.snapshot.id for row in status["snapshots"])
        there = there or any(row["transaction"] == transaction.id for row in status["incoming"])
        if there and not check:
            self._patiently(lambda: self.agent.drop(self.name, transaction.id))
        return Outcome(there, status["snapshot"])

    def verify(self) -> Verdict:
        """Read every kept snapshot and every package of the channel, and the head as clients are told it."""
        head = self.agent.head(self.name)
        findings = self.channel.findings(head) if head else []
        served = self.channel.head()
        if served not in (head, now := self.agent.head(self.name)):
            findings.append(
                f"clients are told the snapshot {served or '(none)'}, the head is {now} ({self.channel.location}/"
                "mirrorlist). See whether a cache keeps the mirrorlist: it must not"
            )
        said = self.agent.verify(self.name)
        return Verdict(said["snapshot"], said["snapshots"], said["packages"], (*findings, *said["findings"]))

    def _id(self, operation: str, arguments: object) -> str:
        return f"tx-{digest_of([self.name, operation, arguments])[:32]}"

    def _publish(
        self, id_: str, change_of: Callable[[State], Change], *, reason: str, hold: bool = False, check: bool
    ) -> Outcome:
        """The process above; ``change_of`` says what to do with the head's state."""
        with ExitStack() as stack:
            work = functools.cache(lambda: stack.enter_context(workplace(self.root / "compose")))

            def attempt() -> Outcome:
                head, room = self.agent.look(self.name)
                parent = self.channel.state(head)
                change = change_of(parent)
                before, after = tuple(sorted(parent.digests)), tuple(change.names)
                changed = before != after or bool(change.yank)
                if not changed or check:
                    return Outcome(changed, parent.id, None, None, before, after, change.notes)
                self._require_room(id_, change.add, room)
                # Time never goes back along the chain, whatever the signer's clock does.
                moment = max(int(self.now()), parent.index.revision + 1)
                snapshot = compose(work(), self.name, self.channel, parent, change, self.signer, reason, moment)
                transaction = Transaction(id_, snapshot, str(work()))
                self.agent.upload(transaction)
                if hold:
                    self.agent.stage(transaction)
                    return Outcome(True, parent.id, snapshot, transaction, before, after, change.notes)
                head = self.agent.commit(transaction)
                return Outcome(True, head, snapshot, None, before, after, change.notes)

            return self._patiently(attempt, (ParentMoved, Busy))

    def _patiently(self, action: Callable[[], T], again: tuple[type[PipelineError], ...] = (Busy,)) -> T:
        """The result of ``action``, which is done again where the agent says that another is at work."""
        for attempt in range(self.tries):
            try:
                return action()
            except again as error:
                last = error
                # Who moved the parent is done; who keeps the agent busy may be sending a package.
                longest = 3.0 if isinstance(error, ParentMoved) else 30.0
                # Two signers that keep meeting must not keep step.
                time.sleep(random.uniform(0, min(longest, 0.1 * 2**attempt)))  # noqa: S311
        if not isinstance(last, ParentMoved):
            raise last
        raise PipelineError(
            f"others published {self.tries} times while this snapshot was composed",
            self.name,
            "See who publishes to this channel in its journal, then run again; nothing was changed",
        )

    def _require_room(self, transaction: str, packages: Iterable[Package], room: int) -> None:
        """PipelineError where the repo host cannot take the new packages; those it has got count as its room."""
        needed = sum(package.size for package in packages)
        if needed <= room:
            return
        room += sum(
            row["bytes"] for row in self.agent.status(self.name)["incoming"] if row["transaction"] == transaction
        )
        if needed > room:
            raise PipelineError(
                f"the repo host has room for {room:,} bytes, the packages need {needed:,}",
                self.name,
                "Free space there, prune the channel (make prune), or give the publisher agent a smaller reserve",
            )


def compose(
    work: Path,
    name: str,
    channel: Channel,
    parent: State,
    change: Change,
    signer: Signer,
    reason: str,
    moment: int,
) -> Snapshot:
    """Lay out the upload that makes ``change`` to ``parent`` in the folder ``work``, anew each time.

    ``moment`` is the snapshot's time and the metadata's revision.
    """
    folder, pool, base = work / "snapshot", work / "Packages", change.base
    for left in (folder, pool):
        shutil.rmtree(left, ignore_errors=True)
        left.mkdir()
    entries = [entry_of(package) for package in change.add]
    for package in change.add:
        link_or_copy(Path(package.path), pool / package.filename)
    edits = edits_of(base.packages, change.drop, entries)
    files = {kind: splice(kind, channel.packed(base, kind), base.packages, edits) for kind in TYPES}
    repomd = write_repodata(files, folder / "repodata", moment)
    digests = base.digests | {entry.filename: entry.sha256 for entry in entries}
    digests = {name: digest for name, digest in digests.items() if name not in change.drop}
    snapshot = Snapshot(
        id=f"{datetime.fromtimestamp(moment, UTC):%Y%m%dT%H%M%SZ}-{sha256(repomd).hexdigest()[:8]}",
        channel=name,
        parent=parent.id,
        time=moment,
        reason=reason,
        added=tuple(sorted(digests.keys() - parent.digests.keys())),
        removed=tuple(sorted(parent.digests.keys() - digests.keys())),
        yanked=tuple(sorted({*parent.record.yanked, *change.yank})),
    )
    (folder / "packages.txt").write_text(packages_txt(digests))
    snapshot.write(folder / "snapshot.json")
    sign_files([folder / "repodata/repomd.xml", folder / "snapshot.json"], signer)
    return snapshot


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """A folder of this run's own below ``parent``, removed at the end. Clears those of runs that were killed."""
    parent.mkdir(parents=True, exist_ok=True)
    with held(parent / ".lock"):  # so that nobody takes a folder for a dead one before it is locked
        for left in parent.iterdir():
            if left.is_dir() and (descriptor := _lock(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(descriptor)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix="run-"))
        mine = _lock(folder)
    assert mine is not None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(mine)


def _lock(folder: Path) -> int | None:
    """The flock of a folder, held until the descriptor is closed; None where another process has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def sign_files(paths: Sequence[Path], signer: Signer) -> None:
    """Put a detached signature, <name>.asc, beside each file, all by one key that the trusted key file has."""
    with opened(signer.home, signer.passphrase_file) as keyring:
        key = keyring.signing_key()
        signatures = [keyring.sign(path.read_bytes(), key) for path in paths]
    verify_detached(paths[0].read_bytes(), signatures[0], signer.trusted_keys, str(paths[0]))
    for path, signature in zip(paths, signatures, strict=True):
        path.with_name(f"{path.name}.asc").write_bytes(signature)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name; a copy with its time where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
