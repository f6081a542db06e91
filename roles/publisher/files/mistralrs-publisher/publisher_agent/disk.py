"""Small durable steps on disk, locks, and the programs that the agent runs.

A step is on disk (fsync) when its function returns. A killed step leaves the old state or the new one, so each
step can be repeated. Programs get no shell and a fixed environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .refusal import Refused

PROGRAMS = ("rsync", "gpgv", "rpm", "rpmkeys")
MAX_RUN = 600  # seconds of one program
# HOME does not exist: a ~/.rpmmacros must not weaken the verification.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Make a folder and its missing parents; ``mode`` applies to the folder alone."""
    if not folder.is_dir():
        make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode)
        sync(folder.parent)


def rewrite(path: Path, text: str, temporary: Path) -> None:
    """Replace the content of ``path`` in one rename; ``temporary`` is on the same file system."""
    temporary.write_text(text)
    temporary.chmod(0o644)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def append(path: Path, line: str) -> None:
    """Append a line to a file. A last line that a full disk cut short is ended first."""
    with path.open("a+b") as stream:
        end = stream.tell()
        stream.seek(max(end - 1, 0))
        torn = stream.read(1) not in (b"", b"\n")
        stream.write(f"{chr(10) if torn else ''}{line}\n".encode())
    sync(path)
    sync(path.parent)


def json_lines(path: Path, last: int = 0) -> list[dict[str, Any]]:
    """The records of a file with one JSON object a line, oldest first; the ``last`` ones, or all for 0.

    Skips lines that are not JSON: a full disk may have cut one short.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found: list[dict[str, Any]] = []
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
        if len(found) == last:
            break
    return found[::-1]


def link(source: Path, target: Path) -> None:
    """Link a verified file to its final path; link(2) fails if the path is taken."""
    source.chmod(0o644)
    sync(source)
    target.hardlink_to(source)


def unlink(folder: Path, names: Iterable[str]) -> None:
    """Remove those of the files that exist."""
    gone = [folder / name for name in names]
    for path in gone:
        path.unlink(missing_ok=True)
    if gone and folder.is_dir():
        sync(folder)


def names_in(folder: Path) -> set[str]:
    """The names in a folder; empty if there is no folder. A pool is too large for one Path a name."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208
    except FileNotFoundError:
        return set()


def paths_in(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(names_in(folder))]


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_tree(folder: Path) -> None:
    """Remove an uploaded folder, whatever its modes. Python 3.11's shutil.rmtree fails on very deep trees."""
    for program in (("rm", "-rf"), ("chmod", "-R", "u+rwX"), ("rm", "-rf")):
        if os.path.lexists(folder):
            run(*program, "--", folder)


@contextlib.contextmanager
def locked(path: Path, wait: float = 0) -> Iterator[bool]:
    """Hold the flock of a file or folder; yields False if ``wait`` seconds were not enough to get it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        end = time.monotonic() + wait
        while not (free := flock(descriptor)) and time.monotonic() < end:
            time.sleep(0.02)
        yield free
    finally:
        os.close(descriptor)


def flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run(
    *argv: str | Path, stdin: bytes = b"", enter: Callable[[], None] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; ``enter`` confines it (see confine.confined)."""
    try:
        done = subprocess.run(  # noqa: S603  a list of words, no shell
            argv,
            cwd=cwd,
            env=ENVIRONMENT,
            input=stdin,
            capture_output=True,
            check=False,
            timeout=MAX_RUN,
            preexec_fn=enter,
        )
    except FileNotFoundError as error:
        raise missing_program(str(argv[0])) from error
    except subprocess.TimeoutExpired as error:
        raise Refused(f"the program {argv[0]} took longer than {MAX_RUN} s", str(argv[-1])) from error
    except subprocess.SubprocessError as error:
        raise unconfined(str(argv[0])) from error
    texts = (output.decode(errors="replace") for output in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, *texts)


def unconfined(name: str) -> Refused:
    return Refused(
        f"the program {name} cannot be confined on the repo host",
        remedy="See the kernel's log; a container needs the system calls of Landlock allowed or absent",
    )


def missing_program(name: str) -> Refused:
    return Refused(f"the program {name} is not installed on the repo host", remedy="Install it")
