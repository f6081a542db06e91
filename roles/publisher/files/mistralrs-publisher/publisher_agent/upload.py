"""Uploads: receiving one with rsync, its lock, its files, and the space that it may take.

An upload never fills the disk; the agent's own copy of it is what ``reserve_mib`` is for. It stops when less than
``reserve_mib`` is free, when the uploads of its channel together hold more than ``incoming_mib``, or when it has too
many files. It also stops when the client is silent for two minutes, or after two hours: what was sent is kept. A key
receives a few uploads at once.

rsync is confined to the folder of its transaction (see confine), and the modes of what it creates are the agent's. It
inherits the lock of that folder, so the lock lasts until its last process ends; the agent ends all of them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .command import Command
from .confine import Limits, adopt_orphans, confined
from .disk import ENVIRONMENT, flock, locked, make_folder, missing_program, paths_in, remove_tree, unconfined
from .host import Channel, Config
from .inside import FOLDERS, contents, opened, size_of, unlink_hidden
from .refusal import Busy, Refused

MAX_FILE = 4 << 30  # bytes of one file
MAX_FILES = 250  # and folders in one upload
MAX_UPLOADS = 200  # of one channel
AT_ONCE = 8  # uploads of one key in one channel
SILENCE = 120  # seconds without a byte
LONGEST = 7200  # seconds of one upload
STALE = 3600  # seconds until an upload makes way for another one, if there is no room
OF_RSYNC = Limits(cpu=LONGEST, memory=1 << 30, file=MAX_FILE)
POLL_INTERVAL = 0.1  # seconds between two checks of the space


def receive(channel: Channel, command: Command) -> int:
    """Receive an upload; rsync's exit status."""
    folder = channel.incoming(command.transaction)
    with slot(channel):
        make_way(channel, folder)
        check_room(channel, folder)
        with upload_lock(folder) as descriptor:
            # Packages resume where they were cut off. snapshot/ starts empty: a recomposed snapshot has other
            # metadata names.
            remove_tree(folder / "snapshot")
            unlink_hidden(folder, "Packages")
            # The last of two options counts. No mode of the sender can close a folder to the agent.
            forced = (f"--timeout={SILENCE}", "--chmod=D0700,F0600")
            adopt_orphans()
            inherited = own_children()
            try:
                rsync = subprocess.Popen(  # noqa: S603
                    ["rsync", "--server", *command.flags, *forced, ".", "."],
                    env=ENVIRONMENT,
                    cwd=folder,
                    pass_fds=[descriptor],
                    process_group=0,
                    preexec_fn=confined(OF_RSYNC, write=[folder]),  # noqa: PLW1509  the agent has one thread
                )
            except FileNotFoundError as error:
                raise missing_program("rsync") from error
            except subprocess.SubprocessError as error:
                raise unconfined("rsync") from error
            try:
                supervise(rsync, channel, folder)
            finally:
                stop(rsync)
                end_orphans(inherited)
    return rsync.returncode if rsync.returncode >= 0 else 128 - rsync.returncode


@contextlib.contextmanager
def slot(channel: Channel) -> Iterator[None]:
    """Hold one of the places that the caller's key has for long work; Busy without a free one."""
    channel.make_state()
    with contextlib.ExitStack() as stack:
        for number in range(AT_ONCE):
            path = channel.state / "slots" / f"{channel.config.caller or 'here'}-{number}"
            path.touch(0o600)
            if stack.enter_context(locked(path)):
                yield
                return
        raise Busy(f"{AT_ONCE} uploads of this key are being received or verified", channel.name)


def make_way(channel: Channel, folder: Path) -> None:
    """Make room for an upload: without any, stale uploads go. Refused if there are still too many."""
    others = [path for path in paths_in(folder.parent) if path != folder]
    if len(others) >= MAX_UPLOADS or not room(channel):
        for path in others:
            if age(path) > STALE:
                remove_upload(path)
        if not folder.exists() and len(paths_in(folder.parent)) >= MAX_UPLOADS:
            raise Refused(f"{MAX_UPLOADS} uploads wait already", channel.name, "Drop uploads that are no longer needed")


def age(upload: Path) -> float:
    """Seconds since the upload changed, by its ctime: rsync sets the mtime. A clock that was set back counts too."""
    try:
        return abs(time.time() - upload.lstat().st_ctime)
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def upload_lock(folder: Path) -> Iterator[int]:
    """Hold the lock of an upload, and make its folder if needed; Busy if another command holds the lock."""
    while True:
        make_folder(folder, 0o700)
        with opened(folder) as descriptor:
            if not flock(descriptor):
                raise Busy("this transaction is being uploaded or published already", folder.name)
            # The folder may have been removed before the lock was taken: then this locks an orphan.
            if folder.is_dir() and os.path.samestat(folder.stat(), os.fstat(descriptor)):
                yield descriptor
                return


def supervise(rsync: subprocess.Popen[bytes], channel: Channel, folder: Path) -> None:
    """Wait for the end of an upload; Refused once it takes more space, files or time than allowed."""
    ended, end = os.pidfd_open(rsync.pid), time.monotonic() + LONGEST
    try:
        while not select.select([ended], [], [], POLL_INTERVAL)[0]:
            check_room(channel, folder)
            if time.monotonic() > end:
                remedy = "Run again: what was sent is kept"
                raise Refused(f"the upload took longer than {LONGEST} s", folder.name, remedy)
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


def own_children() -> set[int]:
    """This process's children."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            _, parent, *_ = path.read_text(errors="replace").rpartition(")")[2].split()
            if int(parent) == os.getpid():
                found.add(int(path.parent.name))
    return found


def end_orphans(inherited: set[int]) -> None:
    """Kill what rsync started and left, in whatever session it is."""
    while left := own_children() - inherited:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it ended by itself
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


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


def free_files(config: Config) -> int | None:
    """The free inodes; None on a file system without a fixed number of them."""
    disk = os.statvfs(config.root)
    return disk.f_favail if disk.f_files else None


def uploaded_bytes(channel: Channel) -> int:
    return sum(size_of(upload) for upload in paths_in(channel.state / "incoming"))


def room(channel: Channel) -> int:
    """The bytes that uploads may bring now."""
    config = channel.config
    return max(0, min(free_bytes(config) - config.reserve, config.incoming - uploaded_bytes(channel)))


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
    with upload_unused(upload) as unused:
        if unused:
            remove_tree(upload)


@contextlib.contextmanager
def upload_unused(upload: Path) -> Iterator[bool]:
    """Whether no command uses an upload, and none can during the block; True if there is none."""
    with contextlib.ExitStack() as stack:
        try:
            free = flock(stack.enter_context(opened(upload)))
        except FileNotFoundError:
            free = True
        yield free
