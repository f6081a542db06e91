"""Inside an upload: its folders and files, reached without following a link, whatever their modes.

An uploader chooses names, kinds and modes of everything below the folder of a transaction. So that folder is opened
once, and everything in it relative to the open folder. The agent reads sizes there, and copies: it verifies and
publishes its own copy alone. A file that is still open for writing, or has a second name, changes nothing after that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .refusal import Refused

FOLDERS = ("snapshot", "snapshot/repodata", "Packages")
CHUNK = 1 << 20


@contextlib.contextmanager
def opened(path: str | Path, within: int | None = None) -> Iterator[int]:
    """Open a folder, and make it accessible for its owner. OSError if any component below ``within`` is a link."""
    first, _, rest = str(path).partition("/") if within is not None else (str(path), "", "")
    handle = os.open(first, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        if os.fstat(handle).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101  fchmod refuses O_PATH
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
    finally:
        os.close(handle)
    try:
        if rest:
            with opened(rest, folder) as inner:
                yield inner
        else:
            yield folder
    finally:
        os.close(folder)


def contents(upload: Path) -> dict[str, os.stat_result]:
    """What is in the folders of an upload, by path; ignores anything deeper. It may change meanwhile."""
    found: dict[str, os.stat_result] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), opened(upload) as top:
        for folder in ("", *FOLDERS):
            if folder and not (folder in found and stat.S_ISDIR(found[folder].st_mode)):
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), opened(folder or ".", top) as inner:
                for name in sorted(os.listdir(inner)):  # noqa: PTH208
                    with contextlib.suppress(FileNotFoundError):
                        found[f"{folder}/{name}".lstrip("/")] = os.lstat(name, dir_fd=inner)
    return found


def size_of(upload: Path) -> int:
    """The bytes of its files; 0 for an upload that cannot be read, which must not fail the others."""
    try:
        return sum(status.st_size for status in contents(upload).values() if stat.S_ISREG(status.st_mode))
    except OSError:
        return 0


def unlink_hidden(upload: Path, folder: str) -> None:
    """Remove the temporary files that a killed rsync left."""
    with contextlib.suppress(FileNotFoundError), opened(upload) as top, opened(folder, top) as inner:
        for name in os.listdir(inner):  # noqa: PTH208
            if name.startswith("."):
                os.unlink(name, dir_fd=inner)


@contextlib.contextmanager
def reading(upload: Path, name: str, most: int) -> Iterator[BinaryIO]:
    """Open a plain file of at most ``most`` bytes; Refused for anything else under this name."""
    folder, _, base = name.rpartition("/")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo does not block
    with (
        opened(upload) as top,
        opened(folder or ".", top) as inner,
        os.fdopen(os.open(base, flags, dir_fd=inner), "rb") as stream,
    ):
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise Refused("the upload holds something else than a plain file of its size", name)
        yield stream


def copy(upload: Path, name: str, target: Path, most: int) -> str:
    """Copy a plain file of an upload, of at most ``most`` bytes; the sha256 of what was written."""
    digest = hashlib.sha256()
    with reading(upload, name, most) as source, target.open("xb") as copied:
        status = os.fstat(source.fileno())
        left = status.st_size
        while left and (data := source.read(min(CHUNK, left))):
            digest.update(data)
            copied.write(data)
            left -= len(data)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))  # rsync and clients compare times
    return digest.hexdigest()
