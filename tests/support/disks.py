"""Disks that can lose their power or be full: ext4 in a file, on a loop device that ends with the context."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
QUIET = 300  # seconds for which the kernel does not write by itself


def make_disk(image: Path, mib: int, content: Path) -> None:
    """An image of ``mib`` MiB that holds ``content``'s files."""
    with image.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-d", content, image], check=True)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[None]:
    """``image`` at the folder ``at``; the journal is replayed where that is due."""
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", f"loop,commit={QUIET}", image, at], check=True)
    try:
        yield
    finally:
        # Lazily: a child of what was killed may still run there.
        subprocess.run(["umount", "--lazy", at], check=True)


def cut_power(at: Path) -> None:
    """What was not flushed is gone; nothing works at ``at`` from here on."""
    descriptor = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(descriptor)


def as_it_is(image: Path) -> Path:
    """A copy of the disk, to be mounted as after a new start, whoever may still hold the old mount."""
    copy = image.with_name("restarted")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    return copy


def fill(folder: Path, left: int) -> Path:
    """Take the disk's space but for ``left`` bytes; the file to delete to have it back."""
    filler = folder / ".filler"
    with filler.open("wb", buffering=0) as file:
        for step in (1 << 20, 1 << 10):
            with suppress(OSError):
                while file.write(bytes(step)) == step:
                    pass
        file.truncate(max(0, file.tell() - left))
    return filler
