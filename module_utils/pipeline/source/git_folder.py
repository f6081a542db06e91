"""The project's own git folders: the signer's mirror of upstream, a builder's checkouts. All can be deleted.

Rules:

1. A folder is a repository of its own, with the project's configuration alone, or it is made anew. git never gets
   another one in its place (base/git.py, rule 4).
2. Under the folder's lock no git of the project works there: a lock file of git is nobody's then, and is removed. git
   removes its own unless it is killed (SIGKILL, no memory, power failure). A git that outlived its run is waited for.
3. Damage shows where git fails. ``git fsck`` confirms it, which is slow and so never done before; an intact folder's
   failure has another cause, and stays. First the index is dropped, then the git folder. A checkout's files stay with
   their times, so that cargo and nvcc do not start from nothing.
4. References that conflict with new ones are dropped: "next" and "next/0.9" exclude each other.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..base.errors import PipelineError
from ..base.git import OFFLINE, git, located
from ..base.lock import held_if_free
from ..base.run import CommandFailed

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds to wait for a git that outlived its run."""

_HEAD = re.compile(r"(ref: refs/\S+|[0-9a-f]{40,64})\n?")
# Where git locks; packed-refs.new is what it renames (git's refs/packed-backend.c).
_LOCKS = ("*.lock", "packed-refs.new", "refs/**/*.lock", "objects/info/**/*.lock", "objects/pack/*.lock")


def whole(
    folder: Path, work: Callable[[], T], *, bare: bool = False, commits_of: str = "", lock: Path | None = None
) -> T:
    """The result of ``work`` on a git folder, which is made as ``initialise`` says, and anew if it is damaged.

    ``work`` may be called again: it fetches what it needs. The caller holds the folder's lock, or names it: ``lock`` is
    held if it is free. Where another run holds it, that run looks after the folder.
    """
    if lock:
        with held_if_free(lock) as free:
            if free:
                return whole(folder, work, bare=bare, commits_of=commits_of)
    initialise(folder, bare=bare, commits_of=commits_of)
    if lock:
        return work()
    git_dir = folder if bare else folder / ".git"
    remove_locks(git_dir)
    try:
        return work()
    except CommandFailed:
        if _intact(folder):
            raise
    (git_dir / "index").unlink(missing_ok=True)
    if not _intact(folder):
        _remove(git_dir)
        initialise(folder, bare=bare, commits_of=commits_of)
    return work()


def initialise(folder: Path, *, bare: bool, commits_of: str = "") -> None:
    """Make ``folder`` a git repository, with the project's configuration alone; replaces a damaged one.

    With ``commits_of``, the address of the remote "origin", it is a treeless partial clone.
    """
    git_dir = folder if bare else folder / ".git"
    if not _sound(git_dir):
        _remove(git_dir)
        if not folder.is_dir():
            _remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        git("init", "--quiet", "--template=", *(["--bare"] if bare else []), folder.absolute())
    wanted = _configuration(bare=bare, commits_of=commits_of)
    config = git_dir / "config"
    if config.is_symlink() or not config.is_file() or config.read_text(errors="replace") != wanted:
        partial = git_dir / "config.new"
        partial.write_text(wanted)
        partial.replace(config)


def remove_locks(git_dir: Path) -> None:
    """Remove the lock files of a git that was killed; the folder's lock is held.

    PipelineError if a git still works there after ``PATIENCE``.
    """
    if not (locks := _locks(git_dir)):
        return
    end = time.monotonic() + PATIENCE
    while working := list(_working(git_dir)):
        if time.monotonic() > end:
            raise PipelineError(
                f"git still works here, and the run that started it has ended: process {', '.join(map(str, working))}",
                where=str(git_dir),
                remedy="Wait until it ends, or end it; then run again",
            )
        time.sleep(0.2)
    for path in locks:
        path.unlink(missing_ok=True)


def drop_conflicting(repository: Path, wanted: Iterable[str]) -> None:
    """Delete the references that exclude one of ``wanted``: a path above or below it."""
    names = set(wanted)
    above = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    listed = git("for-each-ref", "--format=%(refname)", repository=repository).splitlines()
    dropped = [
        ref for ref in listed if ref in above or any(str(parent) in names for parent in PurePosixPath(ref).parents)
    ]
    if dropped:
        git("update-ref", "--stdin", repository=repository, stdin="".join(f"delete {ref}\n" for ref in dropped))


def _locks(git_dir: Path) -> list[Path]:
    return [path for pattern in _LOCKS for path in git_dir.glob(pattern) if path.is_file() or path.is_symlink()]


def _working(git_dir: Path) -> Iterator[int]:
    """The processes that work on a git folder: GIT_DIR names it in their environment, or they stand in it."""
    named = f"GIT_DIR={located(git_dir)['GIT_DIR']}".encode()
    place = git_dir.resolve()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or is another account's
            environment = (process / "environ").read_bytes().split(b"\0")
            inside = (process / "cwd").readlink().is_relative_to(place)
            if int(process.name) != os.getpid() and (named in environment or inside):
                yield int(process.name)


def _intact(folder: Path) -> bool:
    try:
        git("fsck", "--no-dangling", "--no-progress", repository=folder)
        # To git a partial clone may lack any object. Of the project's it lacks no commit.
        git("rev-list", "--quiet", "--all", repository=folder, env=OFFLINE)
    except CommandFailed:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sound(git_dir: Path) -> bool:
    """Whether git finds a repository here (gitrepository-layout(5)): else it is damaged, incomplete or a link."""
    try:
        head = (git_dir / "HEAD").read_text()
    except (OSError, ValueError):
        return False
    folders = (git_dir, git_dir / "objects", git_dir / "refs")
    return bool(_HEAD.fullmatch(head)) and all(path.is_dir() and not path.is_symlink() for path in folders)


def _configuration(*, bare: bool, commits_of: str) -> str:
    lines = ["[core]", f"repositoryformatversion = {int(bool(commits_of))}"]
    lines += ["filemode = true", f"bare = {str(bare).lower()}"]
    if commits_of:
        url = commits_of.replace("\\", "\\\\").replace('"', '\\"')
        lines += ["[extensions]", "partialClone = origin", '[remote "origin"]', f'url = "{url}"']
        lines += ["promisor = true", "partialclonefilter = tree:0"]
    return "".join(f"{line}\n" if line[0] == "[" else f"\t{line}\n" for line in lines)
