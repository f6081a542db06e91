"""Publish: compose the next snapshot of a channel and commit it.

The process goes like this:

1. Ask the publisher agent for the head.
2. Read and verify the head's metadata.
3. Leave out the packages that it holds already. Nothing left: the channel is as wanted.
4. Compose a transaction: the new packages, the metadata of old and new, both signatures.
5. Upload it, then commit it on that head. If somebody else committed meanwhile, begin again at 1.

Nothing that is published changes before the last step, and the agent does that one whole or not at all.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from .channel import Channel
from .errors import PipelineError
from .keys import opened
from .metadata import Entry, entry_of, packages_txt, write_repodata
from .publisher import ParentMoved
from .records import Package, Snapshot, Transaction, digest_of
from .trust import verify_detached

TRIES = 20  # commits of others that are waited out


class Agent(Protocol):
    """What publishing needs of ``publisher.Publisher``."""

    def head(self, channel: str) -> str: ...

    def upload(self, transaction: Transaction) -> None: ...

    def commit(self, transaction: Transaction) -> str: ...


@dataclass(frozen=True)
class Signer:
    """Where the signing key is: a GnuPG home, its passphrase's file, and the trusted public key."""

    home: Path
    passphrase_file: Path | None
    public_key: Path


@dataclass(frozen=True)
class Outcome:
    """``snapshot`` is None where nothing had to be published, and in check mode.

    ``head`` is the channel's head afterwards; ``before`` and ``after`` are its package file names.
    """

    changed: bool
    head: str
    snapshot: Snapshot | None
    before: tuple[str, ...]
    after: tuple[str, ...]


def publish(
    name: str,
    packages: Sequence[Package],
    *,
    channel: Channel,
    agent: Agent,
    signer: Signer,
    root: Path,
    reason: str,
    check: bool = False,
    now: Callable[[], float] = time.time,
    tries: int = TRIES,
) -> Outcome:
    """Add signed packages to the channel ``name``, by the process above. ``root`` is the signer's folder."""
    for attempt in range(tries):
        parent = agent.head(name)
        revision, old = channel.entries(parent)
        new = not_published(old, packages)
        before = tuple(sorted(entry.filename for entry in old))
        after = tuple(sorted({*before, *(package.filename for package in new)}))
        if not new or check:
            return Outcome(bool(new), parent, None, before, after)
        # Time never goes back along the chain, whatever the signer's clock does.
        moment = max(int(now()), revision + 1)
        transaction = compose(name, parent, old, new, signer=signer, root=root, reason=reason, moment=moment)
        try:
            agent.upload(transaction)
            head = agent.commit(transaction)
            return Outcome(True, head, transaction.snapshot, before, after)
        except ParentMoved:
            # Two signers that keep meeting must not keep step.
            time.sleep(random.uniform(0, min(3.0, 0.1 * 2**attempt)))  # noqa: S311
        finally:
            shutil.rmtree(transaction.folder, ignore_errors=True)
    raise PipelineError(
        f"others published {tries} times while this snapshot was composed",
        name,
        "See who publishes to this channel in its journal, then run again; nothing was changed",
    )


def not_published(old: Iterable[Entry], packages: Iterable[Package]) -> list[Package]:
    """The packages that a snapshot lacks; PipelineError for a name that it has with other bytes."""
    known = {entry.filename: entry.sha256 for entry in old}
    new: dict[str, Package] = {}
    for package in packages:
        digest = known.setdefault(package.filename, package.sha256)
        if digest != package.sha256:
            raise PipelineError(
                f"{package.filename} is published with other bytes: SHA-256 {digest}, not {package.sha256}",
                package.path,
                "A published package never changes: raise package_release and build it again",
            )
        new[package.filename] = package
    published = {entry.filename for entry in old}
    return [package for filename, package in sorted(new.items()) if filename not in published]


def compose(
    name: str,
    parent: str,
    old: Sequence[Entry],
    new: Sequence[Package],
    *,
    signer: Signer,
    root: Path,
    reason: str,
    moment: int,
) -> Transaction:
    """Lay out the transaction that adds ``new`` to ``parent``, below ``root``/compose.

    Its id is the digest of what it does, so an upload that broke off is gone on with. ``moment`` is the
    snapshot's time and the metadata's revision.
    """
    id_ = f"tx-{digest_of([name, parent, sorted(package.sha256 for package in new)])[:32]}"
    folder = root / "compose" / name / id_
    shutil.rmtree(folder, ignore_errors=True)
    (pool := folder / "Packages").mkdir(parents=True)
    entries = list(old)
    for package in new:
        entry = entry_of(Path(package.path), package.filename)
        if entry.sha256 != package.sha256:
            raise PipelineError(
                "the package was changed after it was signed",
                package.path,
                "Delete its folder and sign it again",
            )
        entries.append(entry)
        link_or_copy(Path(package.path), pool / package.filename)

    repomd = write_repodata(entries, folder / "snapshot" / "repodata", moment)
    snapshot = Snapshot(
        id=f"{datetime.fromtimestamp(moment, UTC):%Y%m%dT%H%M%SZ}-{sha256(repomd).hexdigest()[:8]}",
        channel=name,
        parent=parent,
        time=moment,
        reason=reason,
        added=tuple(package.filename for package in new),
    )
    (folder / "snapshot" / "packages.txt").write_text(packages_txt(entries))
    snapshot.write(folder / "snapshot" / "snapshot.json")
    sign_files([folder / "snapshot/repodata/repomd.xml", folder / "snapshot/snapshot.json"], signer)
    for path in (folder / "snapshot").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Transaction(id_, snapshot, str(folder))


def sign_files(paths: Iterable[Path], signer: Signer) -> None:
    """Put a detached signature, <name>.asc, beside each file; the trusted key must accept it."""
    with opened(signer.home, signer.passphrase_file) as keyring:
        key = keyring.signing_key()
        for path in paths:
            signature = keyring.sign(path.read_bytes(), key)
            verify_detached(path.read_bytes(), signature, signer.public_key, str(path))
            path.with_name(f"{path.name}.asc").write_bytes(signature)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name; a copy with its time where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
