"""The transcript of a proof: one file that root writes, at a path that another account may control.

Rules:

1. Whoever owns the first part of the path that is not root's may replace everything below it by a link. From there on,
   folders and the file are made and opened with that account's rights: root's rights open nothing for it. They belong
   to that account, so a person can delete them.
2. A folder of root's in which others may replace files is refused. The file is no link and has one name.
3. A file belongs to one proof at a time: while another run writes to it, this one takes the next name of
   client.log, client-2.log, … A killed run holds nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..base.errors import PipelineError

LINKS = 40
"""The number of links in a path after which it is taken for a loop; the kernel's own limit."""


FILES = 100
"""The number of proofs at once, by rule 3."""


class Transcript:
    """An open transcript, empty at first; ``path`` is its name in messages."""

    def __init__(self, path: Path) -> None:
        try:
            self.path, self._file = _free(path)
        except OSError as error:
            reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
            raise _refused(path, f"{reason}", "Remove what is there, or choose another path") from error

    def write(self, data: bytes | str) -> None:
        view = memoryview(data.encode(errors="replace") if isinstance(data, str) else data)
        # A thread may still have something to say; its descriptor is another file's by then.
        while view and self._file >= 0:
            view = view[os.write(self._file, view) :]

    def close(self) -> None:
        file, self._file = self._file, -1
        os.close(file)


def _refused(path: Path, reason: str, remedy: str) -> PipelineError:
    return PipelineError(f"the transcript cannot be written: {reason}", str(path), remedy)


def _free(path: Path) -> tuple[Path, int]:
    """Open the first file of rule 3 that no other process holds."""
    for number in range(1, FILES + 1):
        name = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        with suppress(BlockingIOError):
            return name, _opened(name.absolute(), LINKS)
    raise OSError(errno.EBUSY, f"{FILES} others are being written")


def _opened(path: Path, links: int) -> int:
    """Open ``path`` by rule 1: as root down to the first part that is not root's, then as its owner."""
    here = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for level, part in enumerate(path.parts[1:], 1):
            rest = path.parts[level + 1 :]
            status = _status(part, here)
            if status is not None and status.st_uid == 0 and stat.S_ISLNK(status.st_mode) and rest:
                if not links:
                    raise OSError(errno.ELOOP, "too many links")
                target = os.readlink(part, dir_fd=here)
                return _opened(Path(*path.parts[:level], target, *rest), links - 1)
            if status is not None and status.st_uid == 0 and rest:
                _expect_closed(Path(*path.parts[: level + 1]), status)
                here = _into(part, here)
                continue
            owner = status or os.fstat(here)
            if status is not None and rest and not stat.S_ISLNK(status.st_mode):
                here = _into(part, here)
            else:
                rest = (part, *rest)
            with _rights_of(owner):
                return _made(rest, here)
    finally:
        os.close(here)
    raise OSError(errno.EISDIR, "it is a folder")


def _made(parts: tuple[str, ...], here: int) -> int:
    """Open the file ``parts`` below the folder ``here``, and make what it lacks."""
    for level in range(1, len(parts)):
        if _status(folder := "/".join(parts[:level]), here) is None:
            os.mkdir(folder, 0o755, dir_fd=here)
    # O_NONBLOCK: a fifo would hold the proof.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open("/".join(parts), flags, 0o644, dir_fd=here)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(file)
        raise OSError(errno.EEXIST, "it is not a file of its own")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, 0)
    except OSError:
        os.close(file)
        raise
    return file


def _expect_closed(folder: Path, status: os.stat_result) -> None:
    """Refuse a folder of root's in which other accounts may replace files."""
    shared = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != 0)
    if shared and not status.st_mode & stat.S_ISVTX:
        raise _refused(
            folder, "other accounts may write in this folder of root's", f"chmod go-w {folder}, or choose another path"
        )


def _status(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _into(name: str, folder: int) -> int:
    """The folder ``name`` in ``folder``, which is closed."""
    inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    os.close(folder)
    return inner


@contextmanager
def _rights_of(owner: os.stat_result) -> Iterator[None]:
    """Root has only the rights of a file's owner in the block; for another caller nothing changes."""
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    try:
        group = pwd.getpwuid(owner.st_uid).pw_gid
    except KeyError:
        group = owner.st_gid or 65534
    before = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(group)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[1])
        os.setgroups(before[0])
