"""Disks that can lose power or be full: ext4 images on loop devices."""

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
COMMIT_INTERVAL = 300  # seconds between the kernel's own writes of the journal: longer than any test


def make_disk(image: Path, mib: int, content: Path) -> None:
    """Create an ext4 image of ``mib`` MiB with the files of ``content``."""
    with image.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-d", content, image], check=True)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[None]:
    """Mount ``image`` at the folder ``at``; replays the journal if necessary."""
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", f"loop,commit={COMMIT_INTERVAL}", image, at], check=True)
    try:
        yield
    finally:
        # Lazily: a child of a killed program may still run there.
        subprocess.run(["umount", "--lazy", at], check=True)


def cut_power(at: Path) -> None:
    """Shut the file system at ``at`` down. Unflushed data is lost; every later access fails."""
    descriptor = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(descriptor)


def after_reboot(image: Path) -> Path:
    """A copy of the disk to mount as after a reboot, even while a process keeps the old mount busy."""
    copy = image.with_name("restarted")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    return copy


def fill(folder: Path, left: int) -> Path:
    """Fill the disk up to ``left`` free bytes; returns the file to delete to free the space."""
    filler = folder / ".filler"
    with filler.open("wb", buffering=0) as file:
        for step in (1 << 20, 1 << 10):
            with suppress(OSError):
                while file.write(bytes(step)) == step:
                    pass
        file.truncate(max(0, file.tell() - left))
    return filler
