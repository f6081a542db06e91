"""Verify and status: commands that report on a channel and change nothing.

Verify reads every byte beside running commands, so a file that disappears meanwhile is no finding. Status reads
no packages.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .command import LONG_ID
from .confine import landlock
from .disk import json_lines, locked, names_in, paths_in, sha256
from .examine import different
from .host import Channel
from .inside import size_of
from .metadata import (
    SIGNED,
    ParentSnapshot,
    check_record,
    named_packages,
    parse_package,
    parse_packages,
    parse_primary,
    parse_repomd,
    parse_snapshot,
    time_of,
)
from .prune import published_chain, unnamed_since
from .refusal import FINAL, Refused, refusal
from .staged import LOCK_WAIT, staged_transactions
from .trust import Trust
from .upload import age, free_bytes, room

CERTIFICATE = Path("/var/lib/mistralrs-certificate/state.json")
"""The verdict of the role tls_certificate on the certificate that this host serves."""


def verify(channel: Channel) -> dict[str, Any]:
    """Verify every snapshot and package on disk; ``findings`` describe the damage."""
    channel.make_state()
    trust = Trust.load(channel.config)
    findings = check_links(channel)
    parsed: dict[bytes, tuple[str, str]] = {}
    listed: dict[str, str] = {}
    folders = channel.snapshots()
    for id_, folder in folders.items():
        try:
            for name, digest in check_snapshot(channel, trust, folder, parsed).items():
                if listed.setdefault(name, digest) != digest:
                    findings.append(f"two snapshots list {name} with different digests ({id_})")
        except (Refused, OSError) as error:
            if folder.is_dir():  # else it was pruned or dropped meanwhile
                findings.append(f"{error} ({folder.name})")
    packages = total = 0
    for path in paths_in(channel.pool):
        try:
            packages, total = packages + 1, total + path.stat().st_size
            if path.name in listed:
                check_file(path, listed[path.name])
            else:  # orphaned: no snapshot has its digest, so its signature must do
                trust.check_package(path)
        except (Refused, OSError) as error:
            if path.exists():  # else it was pruned, dropped or yanked meanwhile
                findings.append(f"{error} ({path.name})")
    with locked(channel.state / "lock", LOCK_WAIT):
        findings += [f"it is gone from the pool ({name})" for name in sorted(missing_packages(channel))]
        head = channel.head()
    return {"snapshot": head, "snapshots": len(folders), "packages": packages, "bytes": total, "findings": findings}


def check_links(channel: Channel) -> list[str]:
    """Findings about the mirrorlist, repodata and the chain of snapshots."""
    findings = []
    try:
        head = channel.head()
        if head and (channel.folder / "mirrorlist").read_text() != channel.url(head) + "\n":
            findings.append(f"the mirrorlist names another address than {channel.url(head)}")
        if head and str((channel.folder / "repodata").readlink()) != f"snapshots/{head}/repodata":
            findings.append("repodata does not lead to the head")
        published_chain(channel)
    except (Refused, OSError) as error:
        findings.append(str(error))
    return findings


def check_snapshot(
    channel: Channel, trust: Trust, folder: Path, parsed: dict[bytes, tuple[str, str]]
) -> dict[str, str]:
    """Verify a snapshot anew; its packages, name to sha256. ``parsed`` caches texts of primary metadata."""
    for name in SIGNED:
        trust.check_signature(folder / name)
    check_record(parse_snapshot(folder / "snapshot.json"), channel.name, sha256(folder / "repodata/repomd.xml"))
    _, metadata, primary = parse_repomd(folder / "repodata/repomd.xml")
    for name, file in metadata.items():
        check_file(folder / "repodata" / name, file.sha256, file.size)
    if str((folder / "Packages").readlink()) != "../../Packages":
        raise Refused("its Packages does not lead to the pool", folder)
    found: dict[str, str] = {}
    for text in parse_primary(folder / "repodata" / primary):
        if text not in parsed:
            name, package = parse_package(text)
            parsed[text] = (name, package.sha256)
        found.update([parsed[text]])
    packages = parse_packages(folder / "packages.txt")
    if packages != found:
        raise Refused("packages.txt and the primary metadata name different packages", folder)
    return packages


def check_file(path: Path, digest: str, size: int | None = None) -> None:
    if (size is not None and path.stat().st_size != size) or sha256(path) != digest:
        raise different(path.name)


def missing_packages(channel: Channel) -> set[str]:
    """The packages that a snapshot names and the pool lacks, except yanked ones."""
    head = channel.head()
    yanked = ParentSnapshot.read(channel, head).yanked
    return listed_packages(channel.snapshots().values()) - names_in(channel.pool) - set(yanked)


def listed_packages(snapshots: Iterable[Path]) -> set[str]:
    """Every package that one of these snapshots names; a damaged one may name none."""
    return named_packages(folder for folder in snapshots if (folder / "packages.txt").is_file())


def shown_record(folder: Path) -> dict[str, Any]:
    """The time and reason of a snapshot; of a damaged one, what is known and what is wrong."""
    try:
        return parse_snapshot(folder / "snapshot.json")
    except (Refused, OSError) as error:
        return {"time": time_of(folder.name), "reason": f"damaged: {refusal(error).what}"}


def number_of_packages(folder: Path) -> int:
    listed = folder / "packages.txt"
    return listed.read_bytes().count(b"\n") if listed.is_file() else 0


def status(channel: Channel) -> dict[str, Any]:
    """The state of a channel, at the ``time`` of this host.

    ``orphans`` are files of the pool that no snapshot names, ``since`` when by prune's record (null: prune has not
    seen them). ``missing`` are packages that a snapshot names and the pool lacks. ``journal`` has the last
    publications, ``refusals`` the last refused commands. ``landlock`` is the kernel's version of it, 0 for none: then
    rsync, gpgv and rpm are confined by limits alone. ``certificate`` is null without one of the role tls_certificate.
    Over ssh, ids of transactions are shortened: whoever knows one
    can occupy or drop the upload.
    """
    channel.make_state()
    with locked(channel.state / "lock", 1):  # a report beside a long command is better than none
        folders, marks = channel.snapshots(), unnamed_since(channel)
        staged = {transaction.snapshot for transaction in staged_transactions(channel)}
        files = {name: os.lstat(f"{channel.pool}/{name}").st_size for name in names_in(channel.pool)}
        orphans = sorted(set(files) - listed_packages(folders.values()))
        records = {id_: shown_record(folder) for id_, folder in folders.items()}
        return {
            "snapshot": channel.head(),
            "time": time.time(),
            "room": room(channel),
            "free": free_bytes(channel.config),
            "landlock": landlock(),
            "certificate": certificate(),
            "snapshots": [
                {
                    "id": id_,
                    "time": record["time"],
                    "reason": record["reason"],
                    "packages": number_of_packages(folders[id_]),
                    "staged": id_ in staged,
                }
                for id_, record in sorted(records.items(), key=lambda row: (row[1]["time"], row[0]), reverse=True)
            ],
            "pool": {"files": len(files), "bytes": sum(files.values())},
            "orphans": [{"name": name, "bytes": files[name], "since": marks.get(name)} for name in orphans],
            "missing": sorted(missing_packages(channel)),
            "incoming": [
                {"transaction": shown(channel, path.name), "bytes": size_of(path), "age": int(age(path))}
                for path in paths_in(channel.state / "incoming")
            ],
            "journal": [row | {"transaction": shown(channel, row["transaction"])} for row in channel.journal(10)],
            "refusals": [
                row | {"command": shown(channel, row["command"])}
                for row in json_lines(channel.state.parent / "log")
                if row["status"] in FINAL
            ][-10:],
        }


def certificate(state: Path = CERTIFICATE) -> dict[str, Any] | None:
    """When the certificate that is served was last compared with that on the disk, and what was wrong ("": nothing).

    None on a host that compares none.
    """
    try:
        found = json.loads(state.read_text())
        return {"time": int(found["time"]), "fault": str(found["fault"])[:1000]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        return {"time": 0, "fault": f"{state} cannot be read: {error!r}"}


def shown(channel: Channel, text: str) -> str:
    """The text with shortened ids of transactions, for a caller over ssh."""
    return re.sub(LONG_ID, r"\1", text) if channel.config.remote else text
