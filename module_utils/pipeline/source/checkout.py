"""A builder's persistent checkouts of upstream, one for each trust.

Cargo judges freshness by modification times (The Cargo Book, "Build Scripts", rerun-if-changed), so a fresh clone would
run every build script, and so every nvcc, again. A checkout therefore has a fixed path, and git moves it between
commits: it touches only the files that differ.

A commit that upstream lacks arrives as a pack, possibly without its history: git then treats it as the end of a shallow
clone, and later fetches from upstream still work.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..base.errors import PipelineError
from ..base.git import fetch, git, has, parents_and_time, shallow
from ..base.records import Record, Source
from ..base.run import CommandFailed, run
from .git_folder import drop_conflicting, whole

T = TypeVar("T")


@dataclass(frozen=True)
class Checkout(Record):
    """The checkout at a commit; ``moved``: it was at another one before."""

    folder: str
    commit: str
    moved: bool


def current_commit(folder: Path) -> str:
    """The commit that is checked out, or "" if there is none."""
    if not (folder / ".git" / "HEAD").is_file():
        return ""
    try:
        return git("rev-parse", "--verify", "--quiet", "HEAD", repository=folder).strip()
    except CommandFailed:
        return ""


def move(folder: Path, source: Source) -> Checkout:
    """Move the checkout to exactly ``source``'s commit: removes local changes and stray files.

    Fetches the commit if it is missing. The builder's lock is held.
    """
    return whole(folder, lambda: _move(folder, source))


def _move(folder: Path, source: Source) -> Checkout:
    _bring(folder, source)
    before = current_commit(folder)
    if before != source.commit or git("status", "--porcelain", repository=folder).strip():
        if not (folder / ".git/index").is_file():
            git("read-tree", source.commit, repository=folder)
        # A new index, or that of a copied folder, does not know the files: git would write all of them again, with new
        # times.
        with suppress(CommandFailed):  # a file differs
            git("update-index", "-q", "--really-refresh", repository=folder)
        git("checkout", "--quiet", "--force", "--detach", source.commit, repository=folder)
        git("clean", "-ffdxq", repository=folder)
    return Checkout(str(folder), source.commit, before != source.commit)


def known(folder: Path, lock: Path) -> list[str]:
    """The commits whose files are all here: the one that is checked out, and those that a ref names.

    ``lock`` is the builder's, which need not be held.
    """
    if not current_commit(folder):
        return []
    return whole(folder, lambda: _known(folder), lock=lock)


def _known(folder: Path) -> list[str]:
    named = git("for-each-ref", "--format=%(objecttype) %(objectname) %(*objectname)", repository=folder)
    rows = [line.split() for line in named.splitlines()]
    # An annotated tag names its commit third.
    return sorted({current_commit(folder), *(row[-1] for row in rows if row[0] in ("commit", "tag"))})


def receive(folder: Path, commit: str, pack: Path) -> bool:
    """Add a commit from a pack that lacks the objects of the ``known`` commits; False if it was here already.

    Raises PipelineError, and leaves the checkout as it was, if the commit is not complete afterwards. The builder's
    lock is held.
    """
    return whole(folder, lambda: _receive(folder, commit, pack))


def _receive(folder: Path, commit: str, pack: Path) -> bool:
    if has(folder, commit) and _whole(folder, commit):
        return False
    try:
        git("index-pack", "--stdin", repository=folder, stdin=pack.read_bytes())
    except (OSError, CommandFailed) as error:
        raise PipelineError(f"the pack of commit {commit} cannot be read: {error}", str(pack), "Run again") from error
    if not _whole(folder, commit):
        raise PipelineError(
            f"the pack does not complete commit {commit}",
            where=str(folder),
            remedy="The checkout changed during this run: run again",
        )
    # The pack may hold the commit's parent too, which makes the next pack small.
    base = next((c for c in parents_and_time(folder, commit)[0] if has(folder, c) and _whole(folder, c)), commit)
    shallow = folder / ".git" / "shallow"
    ends = set(shallow.read_text().split() if shallow.is_file() else [])
    ends |= {c for c in (commit, base) if not all(has(folder, p) for p in parents_and_time(folder, c)[0])}
    if ends:
        partial = shallow.with_name("shallow.new")
        partial.write_text("".join(f"{end}\n" for end in sorted(ends)))
        partial.replace(shallow)
    for name, brought in (("commit", commit), ("base", base)):
        git("update-ref", f"refs/brought/{name}", brought, repository=folder)
    return True


def seed(folder: Path, origin: Path) -> None:
    """Make a checkout's files those of ``origin``, with their modification times. Its own commits stay.

    The two never share a git folder: objects, which never change, are hard links. The builder's lock is held.
    """
    commit = current_commit(origin)
    if commit and (origin / ".git/index").is_file():
        with suppress(CommandFailed):  # origin is damaged: the next move fetches what is missing
            whole(folder, lambda: _seed(folder, origin, commit))


def _seed(folder: Path, origin: Path, commit: str) -> None:
    share_objects(folder, origin)
    for path in folder.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    files = [path for path in origin.iterdir() if path.name != ".git"]
    run(["cp", "--archive", "--reflink=auto", "--target-directory", folder, "--", *files])
    # With its times, which tell git that the files did not change since.
    shutil.copy2(origin / ".git" / "index", folder / ".git" / "index")
    git("update-ref", "--no-deref", "HEAD", commit, repository=folder)


def share_objects(folder: Path, origin: Path) -> None:
    """Give a checkout all objects of ``origin``, as hard links."""
    objects, own = origin / ".git" / "objects", folder / ".git" / "objects"
    for path in objects.rglob("*"):
        place = own / path.relative_to(objects)
        if path.is_file() and not place.exists() and path.parent != objects / "info":
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(path)
    shallow = origin / ".git" / "shallow"
    if shallow.is_file() and not (folder / ".git" / "shallow").exists():
        shutil.copyfile(shallow, folder / ".git" / "shallow")


def bring(folder: Path, source: Source, lock: Path, read: Callable[[], T]) -> T:
    """What ``read`` finds in the checkout's git folder, which has ``source``'s commit then; no file moves.

    ``read`` may be called again: the folder is made anew where it is damaged. ``lock`` is the builder's, which need not
    be held.
    """

    def work() -> T:
        _bring(folder, source)
        return read()

    return whole(folder, work, lock=lock)


def _bring(folder: Path, source: Source) -> None:
    if has(folder, source.commit):
        return
    stored = _fetch(folder, source)
    if not has(folder, source.commit):
        if not stored:
            raise shallow(source.url)
        raise PipelineError(
            f"{source.ref} no longer contains commit {source.commit}",
            where=source.url,
            remedy="Upstream moved during this run: run again",
        )


def _fetch(folder: Path, source: Source) -> bool:
    if source.kind != "commit":
        ref = f"refs/{'tags' if source.kind == 'tag' else 'heads'}/{source.ref}"
        return _fetch_refs(folder, source, f"+{ref}:refs/upstream/{source.ref}")
    try:
        return _fetch_refs(folder, source, f"+{source.commit}:refs/upstream/{source.commit}")
    except CommandFailed:
        # A server may serve its branches, but no commit by its id. Pruning drops references that conflict.
        return _fetch_refs(folder, source, "+refs/heads/*:refs/upstream/*", "--prune")


def _fetch_refs(folder: Path, source: Source, refspec: str, *options: str) -> bool:
    drop_conflicting(folder, [refspec.partition(":")[2]])
    return fetch(folder, source.url, "--no-tags", *options, "--", source.url, refspec)


def _whole(folder: Path, commit: str) -> bool:
    try:
        git("rev-list", "--objects", "--quiet", f"{commit}^{{tree}}", repository=folder)
    except CommandFailed:
        return False
    return True
