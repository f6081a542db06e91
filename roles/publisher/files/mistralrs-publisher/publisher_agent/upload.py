"""Uploads: receiving one with rsync, its lock, its files, and the space that it may take.

An upload never fills the disk. It stops when less than ``reserve_mib`` is free, when the uploads of its channel
together hold more than ``incoming_mib``, or when it has too many files. rsync writes below the folder of its
transaction and nowhere else. It inherits the lock of that folder, so the lock lasts until its last process ends.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .command import Command
from .disk import ENVIRONMENT, flock, locked, make_folder, missing_program, paths_in, remove_tree
from .host import Channel, Config
from .refusal import Busy, Refused

MAX_FILE = 4 << 30  # bytes of one file
MAX_FILES = 250  # and folders in one upload
MAX_UPLOADS = 200  # of one channel
POLL_INTERVAL = 0.1  # seconds between two checks of the space

FOLDERS = ("snapshot", "snapshot/repodata", "Packages")


def receive(channel: Channel, command: Command) -> int:
    """Receive an upload; rsync's exit status."""
    channel.make_state()
    folder = channel.incoming(command.transaction)
    if not folder.exists() and len(paths_in(folder.parent)) >= MAX_UPLOADS:
        raise Refused(f"{MAX_UPLOADS} uploads wait already", channel.name, "Drop uploads that are no longer needed")
    check_room(channel, folder)
    with upload_lock(folder) as descriptor:
        # Packages resume where they were cut off. snapshot/ starts empty: a recomposed snapshot has other
        # metadata names. Hidden files are the temporary files of a killed rsync.
        remove_tree(folder / "snapshot")
        for left in (folder / "Packages").glob(".*"):
            left.unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
        try:
            argv, descriptors = ["rsync", "--server", *command.flags, ".", "."], [descriptor]
            rsync = subprocess.Popen(  # noqa: S603
                argv, env=ENVIRONMENT, cwd=folder, pass_fds=descriptors, process_group=0
            )
        except FileNotFoundError as error:
            raise missing_program("rsync") from error
        try:
            supervise(rsync, channel, folder)
        finally:
            stop(rsync)
    return rsync.returncode if rsync.returncode >= 0 else 128 - rsync.returncode


@contextlib.contextmanager
def upload_lock(folder: Path) -> Iterator[int]:
    """Hold the lock of an upload, and make its folder if needed; Busy if another command holds the lock."""
    while True:
        make_folder(folder, 0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not flock(descriptor):
                raise Busy("this transaction is being uploaded or published already", folder.name)
            # The folder may have been removed before the lock was taken: then this locks an orphan.
            if folder.is_dir() and os.path.samestat(folder.stat(), os.fstat(descriptor)):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def supervise(rsync: subprocess.Popen[bytes], channel: Channel, folder: Path) -> None:
    """Wait for the end of an upload; Refused once it takes more space or files than allowed."""
    ended = os.pidfd_open(rsync.pid)
    try:
        while not select.select([ended], [], [], POLL_INTERVAL)[0]:
            check_room(channel, folder)
    finally:
        os.close(ended)
    rsync.wait()
    check_room(channel, folder)


def stop(rsync: subprocess.Popen[bytes]) -> None:
    """End rsync and its children. SIGTERM first: rsync then keeps the received part of a file."""
    for signal_ in (signal.SIGTERM, signal.SIGKILL):
        if rsync.poll() is None:
            os.killpg(rsync.pid, signal_)
            with contextlib.suppress(subprocess.TimeoutExpired):
                rsync.wait(5)


def check_room(channel: Channel, folder: Path) -> None:
    """Refuse an upload without room left, or with too many files."""
    config, name = channel.config, folder.name
    regular_files(folder)
    if (held := uploaded_bytes(channel)) >= config.incoming:
        raise Refused(
            f"there is no room: the uploads of {channel.name} hold {held} bytes, and may hold {config.incoming}",
            name,
            "Drop uploads that are no longer needed (status lists them), or raise publisher_incoming_mib; "
            "then repeat this: what was sent is kept",
        )
    if (left := free_bytes(config)) <= config.reserve:
        raise Refused(
            f"there is no room: the repo host has {left} bytes free, and keeps {config.reserve} of them",
            name,
            "Prune the channel or give the host more disk, then repeat this: what was sent is kept",
        )


def free_bytes(config: Config) -> int:
    disk = os.statvfs(config.root)
    return disk.f_bavail * disk.f_frsize


def size_of(upload: Path) -> int:
    return sum(status.st_size for status in contents(upload).values() if stat.S_ISREG(status.st_mode))


def uploaded_bytes(channel: Channel) -> int:
    return sum(size_of(upload) for upload in paths_in(channel.state / "incoming"))


def room(channel: Channel) -> int:
    """The bytes that uploads may bring now."""
    config = channel.config
    return max(0, min(free_bytes(config) - config.reserve, config.incoming - uploaded_bytes(channel)))


def contents(upload: Path) -> dict[str, os.stat_result]:
    """What is in the folders of an upload, by path; ignores anything deeper. It may change meanwhile."""
    found: dict[str, os.stat_result] = {}
    for folder in ("", *FOLDERS):
        if not folder or (folder in found and stat.S_ISDIR(found[folder].st_mode)):
            for path in paths_in(upload / folder):
                with contextlib.suppress(FileNotFoundError):
                    found[str(path.relative_to(upload))] = path.lstat()
    return found


def regular_files(upload: Path) -> dict[str, int]:
    """The sizes of an upload's files, by path; refuses links, devices, unknown folders and too many files."""
    found = contents(upload)
    if len(found) > MAX_FILES:
        remedy = "Drop it, and publish in several transactions"
        raise Refused(f"the upload has more than {MAX_FILES} files", upload.name, remedy)
    for path, status in found.items():
        if not stat.S_ISREG(status.st_mode) and not (stat.S_ISDIR(status.st_mode) and path in FOLDERS):
            raise Refused("the upload holds something that is not a plain file of a snapshot", path)
    return {path: status.st_size for path, status in found.items() if path not in FOLDERS}


def remove_upload(upload: Path) -> None:
    """Remove an upload, unless it is still being written."""
    with contextlib.suppress(FileNotFoundError), locked(upload) as unused:
        if unused:
            remove_tree(upload)
