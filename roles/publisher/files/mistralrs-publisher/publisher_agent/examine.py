"""The verification of an upload: everything that must hold before a client can reach one byte of it.

``examined`` does the long part before the channel's lock is taken: it copies the upload, and verifies the copy against
the trusted keys and against its parent, which never changes. ``fits`` does the rest under the lock: it compares the
result with the pool and with the other transactions.

What was verified when its snapshot was staged is not read again: the parent's packages, and files of the pool whose
digest a snapshot lists. Of ten thousand packages only the added and the removed ones are parsed.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .command import Command
from .disk import make_folder, names_in, remove_tree, sha256
from .host import Channel, caller_address
from .inside import FOLDERS, copy
from .metadata import (
    MAX_METADATA,
    METADATA,
    PACKAGE,
    SIGNED,
    SNAPSHOT_FILES,
    ListedFile,
    ParentSnapshot,
    check_parent,
    check_record,
    newly_yanked,
    parse_package,
    parse_packages,
    parse_primary,
    parse_repomd,
    parse_snapshot,
)
from .refusal import Refused
from .staged import StagedTransaction, exclusive_packages, listed_digests, staged_transactions
from .trust import Trust
from .upload import MAX_FILE, regular_files

MAX_PACKAGES = 200  # in one upload


class Examined(NamedTuple):
    """A verified copy of an upload. ``brought`` are the packages in ``folder`` that the snapshot names."""

    folder: Path
    record: Mapping[str, Any]
    parent: ParentSnapshot
    metadata: list[str]  # names in repodata/
    packages: Mapping[str, str]  # of the snapshot, name to sha256
    new: Mapping[str, ListedFile]  # those whose metadata the parent lacks
    brought: set[str]


@contextlib.contextmanager
def examined(channel: Channel, command: Command, upload: Path) -> Iterator[Examined]:
    """Copy and verify an upload. The copy ends with the block; the caller holds the upload's lock."""
    check_layout(found := regular_files(upload))
    folder = channel.examined(command.transaction)
    try:
        for name in FOLDERS:
            make_folder(folder / name)
        yield verified_copy(channel, command, upload, found, folder)
    finally:
        remove_tree(folder)


def verified_copy(channel: Channel, command: Command, upload: Path, found: Mapping[str, int], folder: Path) -> Examined:
    """Copy what ``found`` names (path: size), metadata first, and verify each part before the next is read."""
    snapshot = folder / "snapshot"
    digests = {name: copy(upload, name, folder / name, found[name]) for name in found if name.startswith("snapshot/")}

    trust = Trust.load(channel.config)
    for name in SIGNED:
        trust.check_signature(snapshot / name)

    revision, metadata, primary = parse_repomd(snapshot / "repodata/repomd.xml")
    record, parent = parse_snapshot(snapshot / "snapshot.json"), ParentSnapshot.read(channel, command.parent)
    check_parent(record, revision, parent)
    check_record(record, channel.name, digests["snapshot/repodata/repomd.xml"])

    uploaded = below("snapshot/repodata/", found)
    if (wanted := {"repomd.xml", "repomd.xml.asc", *metadata}) != uploaded:
        raise Refused("repodata/ does not hold exactly what repomd.xml names", ", ".join(sorted(wanted ^ uploaded)))
    for name, file in metadata.items():
        path = f"snapshot/repodata/{name}"
        if (digests[path], found[path]) != file:
            raise different(name)

    packages = parse_packages(snapshot / "packages.txt")
    new = changed_packages(parse_primary(snapshot / "repodata" / primary), packages, parent)
    changes = sorted(set(packages) - set(parent.packages)), sorted(set(parent.packages) - set(packages))
    if parent.whole and (sorted(record["added"]), sorted(record["removed"])) != changes:
        raise Refused("snapshot.json names other changes than packages.txt shows", "snapshot.json")

    # A package that the snapshot does not name is from an older composition: it stays in the upload, unused.
    brought = below("Packages/", found) & set(packages)
    for name in sorted(brought):
        path = f"Packages/{name}"
        if copy(upload, path, folder / path, found[path]) != packages[name]:
            raise different(name)
        trust.check_package(folder / path)
    return Examined(folder, record, parent, sorted(uploaded), packages, new, brought)


def fits(channel: Channel, command: Command, ready: Examined, old: StagedTransaction | None) -> StagedTransaction:
    """Compare a verified upload with the channel, and return the transaction to stage in place of ``old``."""
    record, packages, parent = ready.record, ready.packages, ready.parent
    pool = names_in(channel.pool)
    yanked = newly_yanked(record, parent.yanked, pool | set(parent.packages), packages)
    staying = pool - exclusive_packages(channel, old)
    if lacking := sorted(set(packages) - staying - ready.brought):
        raise Refused("a package is neither in the pool nor in the upload", ", ".join(lacking))
    check_pooled(channel, {name: packages[name] for name in packages if name in staying}, parent)
    for name, package in ready.new.items():
        path = channel.pool / name if name in staying else ready.folder / "Packages" / name
        if path.stat().st_size != package.size:
            raise different(name)

    if channel.snapshot(record["id"]).exists():
        raise Refused("this snapshot exists already", record["id"])
    if (plain := channel.folder / "repodata").exists() and not plain.is_symlink():
        raise Refused("repodata is not a link that this agent made", plain, "Move it away: another tool wrote it")
    others = {name for transaction in staged_transactions(channel) for name in transaction.fresh}
    return StagedTransaction(
        transaction=command.transaction,
        snapshot=record["id"],
        parent=command.parent,
        time=int(time.time()),
        reason=record["reason"],
        who=f"{channel.config.caller or f'uid {os.getuid()}'} from {caller_address()}",
        added=sorted(record["added"]),
        removed=sorted(record["removed"]),
        yanked=yanked,
        metadata=ready.metadata,
        fresh=[name for name in packages if name not in pool or name in others],
    )


def different(name: str) -> Refused:
    return Refused("the file is not the one that the signed metadata names", name)


def below(folder: str, paths: Iterable[str]) -> set[str]:
    """The paths in ``folder`` (with its slash), relative to it."""
    return {path.removeprefix(folder) for path in paths if path.startswith(folder)}


def check_layout(found: Mapping[str, int]) -> None:
    """Refuse an upload (path: size) that lacks a file of a snapshot, or has any file besides it and packages."""
    fixed = {f"snapshot/{name}" for name in (*SNAPSHOT_FILES, *SIGNED, *(f"{name}.asc" for name in SIGNED))}
    pattern = f"snapshot/repodata/{METADATA}|Packages/{PACKAGE}"
    if lacking := sorted(fixed - set(found)):
        raise Refused("the upload is incomplete", ", ".join(lacking), "Upload the transaction again, then repeat this")
    if extra := sorted(path for path in found if path not in fixed and not re.fullmatch(pattern, path)):
        raise Refused("the upload holds a file that belongs to no snapshot", ", ".join(extra))
    metadata = sum(size for path, size in found.items() if path.startswith("snapshot/"))
    if len(below("Packages/", found)) > MAX_PACKAGES or metadata > MAX_METADATA or max(found.values()) > MAX_FILE:
        raise Refused(
            f"the upload is too large: at most {MAX_PACKAGES} packages, {MAX_METADATA} bytes of metadata "
            f"and {MAX_FILE} bytes a file",
            remedy="Publish the packages in several transactions",
        )


def changed_packages(
    texts: frozenset[bytes], packages: Mapping[str, str], parent: ParentSnapshot
) -> dict[str, ListedFile]:
    """The packages whose text the parent lacks; Refused unless primary and packages.txt name the same packages."""
    found, new = dict(parent.packages), {}
    for text in parent.texts - texts:
        found.pop(parse_package(text)[0], None)
    for text in texts - parent.texts:
        name, package = parse_package(text)
        if name in found:
            raise Refused(f"the primary metadata is not fit for this channel: {name} is named twice", "primary.xml.gz")
        found[name], new[name] = package.sha256, package
    if found != packages:
        raise Refused("packages.txt and the primary metadata name different packages", "packages.txt")
    return new


def check_pooled(channel: Channel, packages: Mapping[str, str], parent: ParentSnapshot) -> None:
    """Refuse a package (name: sha256) that is in the pool with other bytes."""
    known = {**listed_digests(channel, set(packages) - set(parent.packages)), **parent.packages}
    for name, digest in packages.items():
        if (known.get(name) or sha256(channel.pool / name)) != digest:
            raise Refused(
                "the pool has other bytes under this name",
                name,
                "A published package never changes: raise its release and build it again",
            )
