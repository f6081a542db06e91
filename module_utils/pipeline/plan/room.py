"""Room for a release on the hosts after the builder: compared before anything is compiled.

Rules:

1. A missing flavour's package is expected to be as large as the largest published one of its name; without one, as the
   largest of any flavour. Where nothing is published yet, each host needs only ``FLOOR``.
2. Unpacked, a package is at most ``EXPANDED`` times as large (docs/benchmarks.md has the payloads of real builds).
3. The repo host receives the packages. The signer holds each package three times (made, signed, composed) and what a
   builder handed over twice (received, unpacked), and one package unpacked while rpmbuild runs. The proof's client
   has its files in memory: the packages downloaded and unpacked, side by side.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..base.findings import Finding
from ..base.records import Flavour, Package

FLOOR = 16 << 20
"""Bytes that any release needs: metadata, logs, small packages."""

FILES = 2000
"""Free inodes that any release needs."""

EXPANDED = 4


@dataclass(frozen=True)
class Room:
    """Free bytes and free inodes. ``files`` is None where a file system has no fixed number of them."""

    bytes: int
    files: int | None = None


def expected(missing: Iterable[Flavour], published: Iterable[Package]) -> dict[str, int]:
    """The expected sizes of the missing flavours' packages, by name; 0 if nothing is known (rule 1)."""
    sizes: dict[str, int] = {}
    for package in published:
        if package.commit:
            sizes[package.name] = max(package.size, sizes.get(package.name, 0))
    largest = max(sizes.values(), default=0)
    return {flavour.package_name: sizes.get(flavour.package_name, largest) for flavour in missing}


def on_repo_host(room: Room, sizes: Mapping[str, int], where: str) -> Finding:
    """Whether the repo host has room for an upload."""
    remedy = (
        f"Free space on {where}: make prune removes what retention does not keep, make status lists waiting uploads. "
        "Or give it more disk, or lower publisher_reserve_mib"
    )
    return _finding("room on the repo host", room, sum(sizes.values()), sizes, remedy)


def on_signer(room: Room, sizes: Mapping[str, int], where: str) -> Finding:
    """Whether the signer's disk takes what is handed over and packaged."""
    needed = sum(sizes.values()) * (2 * EXPANDED + 3) + max(sizes.values(), default=0) * EXPANDED
    remedy = f"Free space below {where}, or set signer_root to a larger disk; packages/ and signed/ may be deleted"
    return _finding("room on the signer", room, needed, sizes, remedy)


def in_client(room: Room, sizes: Mapping[str, int]) -> Finding:
    """Whether the verifier's memory takes the files of the proof's client."""
    remedy = "End what uses memory on the verifier, or give it more: the client's files are in memory"
    return _finding("memory for the proof", room, in_memory(sizes), sizes, remedy)


def in_memory(sizes: Mapping[str, int]) -> int:
    """The bytes of the files of the proof's client."""
    return sum(sizes.values()) * (EXPANDED + 1)


def _finding(check: str, room: Room, needed: int, sizes: Mapping[str, int], remedy: str) -> Finding:
    needed = max(needed, FLOOR)
    found, wanted = f"{room.bytes:,} bytes", f"{needed:,} bytes"
    if sizes and any(sizes.values()):
        wanted += f" for {', '.join(sizes)}, by the sizes of published packages"
    if room.bytes >= needed and room.files is not None and room.files < FILES:
        found, wanted = f"{room.files:,} free inodes", f"{FILES:,}"
    fits = room.bytes >= needed and (room.files is None or room.files >= FILES)
    return Finding.of(check, found, wanted, fits=fits, remedy=remedy)


# ---------------------------------------------------------------- the edge


def free(folder: Path) -> Room:
    """The room of the file system that has the folder, or that will have it."""
    while not folder.exists():
        folder = folder.parent
    disk = os.statvfs(folder)
    return Room(disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None)


def memory(proc: Path = Path("/proc/meminfo")) -> Room:
    """The memory that files of a tmpfs of the usual size may take: what is available, and half of all at most."""
    words = (line.split() for line in proc.read_text().splitlines())
    kib = {name: int(number) for name, number, *_ in words}
    return Room(min(kib["MemAvailable:"], kib["MemTotal:"] // 2) << 10)
