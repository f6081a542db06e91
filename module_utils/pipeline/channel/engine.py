"""The engine: every change of a repository is its next snapshot.

The process:

1. Ask the agent for the head, read the verified metadata of that snapshot, and compare it with the signer's memory.
2. Compute the change (``changes``). Without one, the repository is as wanted.
3. Check that the signer's clock is not ahead, and that the repo host has room for the new packages.
4. Compose: splice the older metadata with that of the new packages (``metadata``), and sign both files.
5. Upload. Stage the snapshot if it is to be proved first; otherwise publish it on that head.
6. Remember the new head.
7. If another publisher was faster, start again at 1. Uploaded packages are not sent again.

Rules:

1. Published state changes only when a snapshot is published, which the agent does whole or not at all.
2. A transaction's id depends on the request and not on the head: composing again, or the next run after a kill, uses
   the same one. It also depends on a secret of the signer: whoever guessed an id could occupy or drop the upload.
3. A run composes in a folder of its own below compose/, under a flock. The next run removes the folder of a killed one.
4. Packages are not read. A new package's digest is that of the signing step, which verified the file; the agent checks
   the upload against it.
"""

from __future__ import annotations

import fcntl
import functools
import hmac
import os
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Package, Snapshot, Transaction, digest_of, sha256_file
from ..sign import clocks
from ..sign.keyring import opened
from ..sign.signer import Signer
from ..sign.trust import verify_detached
from .agent_client import AgentClient, Busy, Look, ParentMoved
from .changes import Change, added, noted, pruned, removed, rolled_back, yanked_again
from .heads import HeadRefused
from .hold import expect_none
from .metadata import TYPES, edits_of, entry_of, packages_txt, splice, write_repodata
from .reader import Repository, State
from .retention import Retention

T = TypeVar("T")
TRIES = 100
"""How often an operation starts again after another publisher's snapshot or a busy agent."""


@dataclass(frozen=True)
class Result:
    """What an operation changed, or in check mode would change.

    ``head`` is the repository's head afterwards. ``snapshot`` is the new snapshot, or None; ``transaction`` belongs to
    it where it is staged only. ``before``, ``after`` and ``yanked`` (now) are package file names. ``notes`` are for
    the operator. ``pruned`` is the agent's answer about older snapshots and the pool.
    """

    changed: bool
    head: str
    snapshot: Snapshot | None = None
    transaction: Transaction | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pruned: dict[str, Any] = field(default_factory=dict)
    yanked: tuple[str, ...] = ()

    @property
    def added(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.after) - set(self.before)))

    @property
    def removed(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.before) - set(self.after)))


@dataclass(frozen=True)
class Verification:
    """The result of reading everything; ``findings`` is empty where all of it is intact."""

    head: str
    snapshots: int
    packages: int
    findings: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """The repository of the channel named ``channel``, as its signer changes it.

    Each operation can be repeated. With ``check`` it returns what it would do, and changes nothing.
    """

    channel: str
    repository: Repository
    agent: AgentClient
    signer: Signer
    now: Callable[[], float] = time.time
    tries: int = TRIES

    def publish(self, packages: Sequence[Package], *, reason: str = "", check: bool = False) -> Result:
        """Add signed packages to the head."""
        return self._add(packages, reason=reason, check=check)

    def stage(self, packages: Sequence[Package], *, reason: str = "", check: bool = False) -> Result:
        """Stage a snapshot with signed packages added, for ``publish_staged`` or ``drop``. Held while releases are."""
        if not check:
            expect_none(self.signer.root, "Nothing was staged")
        return self._add(packages, reason=reason, stage=True, check=check)

    def publish_staged(self, transaction: Transaction, packages: Sequence[Package], *, check: bool = False) -> Result:
        """Publish the snapshot that ``stage`` left of ``packages``; composed again if the head has moved since.

        Held while releases are: the snapshot stays staged.
        """
        if not check:
            expect_none(self.signer.root, "The snapshot stays staged, and nothing was published")
        snapshot = transaction.snapshot
        parent = self.repository.head_state(lambda: self.agent.head(self.channel))
        head, before = parent.id, tuple(sorted(parent.digests))
        if head == snapshot.id:
            return Result(False, head, before=before, after=before)
        if head != snapshot.parent:
            return self.publish(packages, reason=snapshot.reason, check=check)
        if not check:
            try:
                head = self._patiently(lambda: self._published(transaction))
            except ParentMoved:
                return self.publish(packages, reason=snapshot.reason)
        after = (set(before) | set(snapshot.added)) - set(snapshot.removed)
        return Result(True, head, snapshot, None, before, tuple(sorted(after)))

    def drop(self, transaction: Transaction, *, check: bool = False) -> Result:
        """Remove the upload and the snapshot that ``stage`` left."""
        status = self.agent.status(self.channel)
        there = any(row["staged"] and row["id"] == transaction.snapshot.id for row in status["snapshots"])
        there = there or any(is_of(row, transaction.id) for row in status["incoming"])
        if there and not check:
            self._patiently(lambda: self.agent.drop(self.channel, transaction.id))
        return Result(there, status["snapshot"])

    def remove(self, names: Sequence[str], *, yank: bool = False, reason: str = "", check: bool = False) -> Result:
        """Remove packages from the head; with ``yank`` from the pool too, and for good."""
        return self._change(
            self._request("yank" if yank else "remove", sorted(names)),
            lambda head: removed(head, names, self.repository.has, yank=yank),
            reason=reason or f"{'yanked' if yank else 'removed'} {', '.join(names)}",
            check=check,
        )

    def rollback(self, snapshot: str = "", *, reason: str = "", check: bool = False) -> Result:
        """Publish the packages of an older snapshot again; "" is the parent of the head as it is at the start."""
        head, damage = self.repository.left_state(lambda: self.agent.head(self.channel))
        # What the agent calls published may be one of this signer's that failed its proof.
        staged = self.repository.staged()
        published = [
            row["id"]
            for row in self.agent.status(self.channel)["snapshots"]
            if not row["staged"] and row["id"] not in staged
        ]
        earlier = [id_ for id_ in published if id_ < head.id]
        target = snapshot or (max(earlier, default="") if damage else head.record.parent)
        if target not in published:
            raise PipelineError(
                f"the channel has no snapshot {target or 'before its first'}",
                self.repository.location,
                f"The newest are {', '.join(published[:5]) or 'none'}; `make status` lists more",
            )
        old = self.repository.state(target)
        return self._change(
            self._request("rollback", target),
            lambda head: noted(rolled_back(head, old), f"the head {head.id} is damaged: {damage}" if damage else ""),
            reason=reason or f"back to {target}",
            check=check,
            leave=True,
        )

    def prune(self, retention: Retention, *, reason: str = "", check: bool = False) -> Result:
        """Remove from the head what ``retention`` does not keep; then the agent prunes by its own configuration."""
        done = self._change(
            self._request("prune", [retention.versions, retention.builds]),
            lambda head: pruned(head, retention),
            reason=reason or "retention",
            check=check,
        )
        swept = self._patiently(lambda: self.agent.prune(self.channel, dry_run=check))
        changed = done.changed or bool(swept["snapshots"] or swept["packages"])
        return replace(done, changed=changed, pruned=swept)

    def verify(self) -> Verification:
        """Read every kept snapshot and every package, and the head as clients see it."""
        head = self.agent.head(self.channel)
        findings = self.repository.findings(head) if head else []
        try:
            self.repository.head_state(lambda: self.agent.head(self.channel))
        except HeadRefused as error:
            findings.append(str(error))
        except PipelineError:
            pass  # it is among the findings
        served = self.repository.head()
        if served not in (head, now := self.agent.head(self.channel)):
            findings.append(
                f"clients see the snapshot {served or '(none)'}, the head is {now} ({self.repository.location}/"
                "mirrorlist). Check that no cache keeps the mirrorlist"
            )
        answer = self.agent.verify(self.channel)
        return Verification(
            answer["snapshot"], answer["snapshots"], answer["packages"], (*findings, *answer["findings"])
        )

    def _published(self, transaction: Transaction) -> str:
        """Publish an uploaded or staged snapshot and remember it as the head; its id."""
        memory = self.repository.memory
        if memory:
            memory.publishing(transaction.snapshot.id)
        head = self.agent.publish(transaction)
        if memory:
            memory.published(transaction.snapshot, transaction.repomd)
        return head

    def _add(self, packages: Sequence[Package], *, reason: str, stage: bool = False, check: bool) -> Result:
        return self._change(
            self._request("add", sorted((package.filename, package.sha256) for package in packages)),
            lambda head: added(head, packages),
            reason=reason or "packages added",
            stage=stage,
            check=check,
        )

    def _request(self, operation: str, arguments: object) -> str:
        return digest_of([self.channel, operation, arguments])

    def _change(
        self,
        request: str,
        change_of: Callable[[State], Change],
        *,
        reason: str,
        stage: bool = False,
        leave: bool = False,
        check: bool,
    ) -> Result:
        """The process above; ``change_of`` computes the change from the head's state.

        With ``leave``, a damaged head is left for a snapshot that takes nothing from it.
        """
        with ExitStack() as stack:
            work = functools.cache(lambda: stack.enter_context(workplace(self.signer.root / "compose")))

            def attempt() -> Result:
                seen: list[Look] = []

                def look() -> str:
                    seen.append(self.agent.look(self.channel))
                    return seen[0].snapshot

                parent = self.repository.left_state(look)[0] if leave else self.repository.head_state(look)
                change = yanked_again(change_of(parent), parent, self.repository.has)
                before, after = tuple(sorted(parent.digests)), tuple(change.names)
                damaged = parent.id and not parent.index.files
                changed = before != after or bool(change.yank or damaged)
                yanked = tuple(sorted(change.yank))
                done = Result(changed, parent.id, None, None, before, after, change.notes, yanked=yanked)
                if not changed or check:
                    return done
                id_ = transaction_id(self.signer.root, request)
                if seen[0].ahead is not None:
                    clocks.require_present(seen[0].ahead, self.repository.location)
                self._require_room(id_, change.add, seen[0].room)
                # Along the chain time only rises, even if the signer's clock goes back.
                moment = max(int(self.now()), parent.index.revision + 1)
                snapshot = compose(work(), self.channel, self.repository, parent, change, self.signer, reason, moment)
                repomd = sha256_file(work() / "snapshot/repodata/repomd.xml")
                transaction = Transaction(id_, snapshot, str(work()), repomd)
                if stage and self.repository.memory:
                    self.repository.memory.staged(snapshot.id)
                self.agent.upload(transaction)
                if stage:
                    self.agent.stage(transaction)
                    return replace(done, snapshot=snapshot, transaction=transaction)
                return replace(done, head=self._published(transaction), snapshot=snapshot)

            return self._patiently(attempt, (ParentMoved, Busy))

    def _patiently(self, action: Callable[[], T], again: tuple[type[PipelineError], ...] = (Busy,)) -> T:
        """The result of ``action``, repeated while another publisher is at work."""
        for attempt in range(self.tries):
            try:
                return action()
            except again as error:
                last = error
                # After a moved parent the way is free; a busy agent may be receiving a package.
                longest = 3.0 if isinstance(error, ParentMoved) else 30.0
                # At random, so that two signers do not collide again and again.
                time.sleep(random.uniform(0, min(longest, 0.1 * 2**attempt)))  # noqa: S311
        if not isinstance(last, ParentMoved):
            raise last
        raise PipelineError(
            f"other publishers were faster {self.tries} times while this snapshot was composed",
            self.channel,
            "Find them in the journal (make status), then run again; nothing was changed",
        )

    def _require_room(self, transaction: str, packages: Iterable[Package], room: int) -> None:
        """PipelineError where the repo host lacks room for the new packages; uploaded ones need none."""
        needed = sum(package.size for package in packages)
        if needed <= room:
            return
        room += sum(row["bytes"] for row in self.agent.status(self.channel)["incoming"] if is_of(row, transaction))
        if needed > room:
            raise PipelineError(
                f"the repo host has room for {room:,} bytes, the packages need {needed:,}",
                self.channel,
                "Free space there, prune the channel (make prune), or lower the agent's reserve",
            )


def compose(
    work: Path,
    channel: str,
    repository: Repository,
    parent: State,
    change: Change,
    signer: Signer,
    reason: str,
    moment: int,
) -> Snapshot:
    """Write the upload that makes ``change`` to ``parent`` into the folder ``work``, replacing an earlier one.

    ``moment`` is the snapshot's time and the metadata's revision, in seconds since 1970.
    """
    folder, pool, base = work / "snapshot", work / "Packages", change.base
    for left in (folder, pool):
        shutil.rmtree(left, ignore_errors=True)
        left.mkdir()
    entries = [entry_of(package) for package in change.add]
    for package in change.add:
        link_or_copy(Path(package.path), pool / package.filename)
    edits = edits_of(base.packages, change.drop, entries)
    files = {kind: splice(kind, repository.packed(base, kind), base.packages, edits) for kind in TYPES}
    repomd = write_repodata(files, folder / "repodata", moment)
    digests = base.digests | {entry.filename: entry.sha256 for entry in entries}
    digests = {name: digest for name, digest in digests.items() if name not in change.drop}
    snapshot = Snapshot(
        id=f"{datetime.fromtimestamp(moment, UTC):%Y%m%dT%H%M%SZ}-{sha256(repomd).hexdigest()[:8]}",
        channel=channel,
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


def is_of(upload: Mapping[str, Any], transaction: str) -> bool:
    """Whether a row of the agent's uploads is this transaction's: over ssh the agent shows the start of an id."""
    return transaction.startswith(upload["transaction"])


def transaction_id(root: Path, request: str) -> str:
    """The id of a request's transaction. A signer whose secret was deleted sends everything again."""
    path = root / "transaction-secret"
    with held(root / ".transaction-secret.lock"):
        if not path.exists():
            made = path.with_suffix(".new")
            made.touch(0o600)
            made.write_bytes(secrets.token_bytes(32))
            made.replace(path)
        return f"tx-{hmac.digest(path.read_bytes(), request.encode(), 'sha256').hex()[:32]}"


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """A folder of this run below ``parent``, removed at the end. Removes those of killed runs."""
    parent.mkdir(parents=True, exist_ok=True)
    with held(parent / ".lock"):  # until the new folder is locked: another run would remove it
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
    """The flock of a folder, held until the descriptor is closed; None where another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def sign_files(paths: Sequence[Path], signer: Signer) -> None:
    """Write a detached signature, <name>.asc, beside each file, all by the one key that signs; it must be trusted."""
    with opened(signer.home, signer.passphrase_file) as keyring:
        key = keyring.signing_key()
        signatures = [keyring.sign(path.read_bytes(), key) for path in paths]
    verify_detached(paths[0].read_bytes(), signatures[0], signer.trusted_keys, str(paths[0]))
    for path, signature in zip(paths, signatures, strict=True):
        path.with_name(f"{path.name}.asc").write_bytes(signature)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file; copy it with its time where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
