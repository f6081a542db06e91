"""The builder's one persistent checkout of upstream.

Cargo judges freshness by modification times (The Cargo Book, "Build Scripts", rerun-if-changed), so a
fresh clone would run every build script, and so every nvcc, again. The checkout therefore stays where it
is and is moved between commits by git, which touches only the files that differ.

A commit that upstream has not is brought here as a pack. It may come without its history: git then knows it as
the end of a shallow clone, and fetches from upstream go on as before.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.git import git, has, initialise, parents_and_time
from ..base.records import Record, Source
from ..base.run import CommandFailed


@dataclass(frozen=True)
class Checkout(Record):
    """What the tree at a commit says of itself.

    ``crate_version`` is the workspace's own version, which `--version` prints and which differs from
    some tags; ``rust_version`` the lowest rustc it names ("" if none); ``moved`` whether files changed.
    """

    folder: str
    commit: str
    crate_version: str
    rust_version: str
    moved: bool


def current_commit(folder: Path) -> str:
    """The commit that is checked out, or "" where there is none."""
    if not (folder / ".git" / "HEAD").is_file():
        return ""
    try:
        return git("rev-parse", "--verify", "--quiet", "HEAD", repository=folder).strip()
    except CommandFailed:
        return ""


def move(folder: Path, source: Source, package: str) -> Checkout:
    """Bring the checkout to ``source``'s commit, exactly: local changes and stray files go.

    Fetches only what is missing. ``package`` is the cargo package whose version counts.
    """
    bring(folder, source)
    before = current_commit(folder)
    dirty = before == source.commit and git("status", "--porcelain", repository=folder).strip()
    if before != source.commit or dirty:
        git("checkout", "--quiet", "--force", "--detach", source.commit, repository=folder)
        git("clean", "-ffdxq", repository=folder)
    return describe(folder, source.commit, package, moved=before != source.commit)


def known(folder: Path) -> list[str]:
    """The commits whose files are all here: the one that is checked out, and all that a ref names."""
    if not current_commit(folder):
        return []
    named = git("for-each-ref", "--format=%(objecttype) %(objectname) %(*objectname)", repository=folder)
    rows = [line.split() for line in named.splitlines()]
    # An annotated tag names its commit third.
    return sorted({current_commit(folder), *(row[-1] for row in rows if row[0] in ("commit", "tag"))})


def receive(folder: Path, commit: str, pack: Path) -> bool:
    """Take in a commit from a pack of what ``known`` did not name; True unless it was here.

    Raises PipelineError when the two together are not the whole commit, and then leaves the checkout as it was.
    """
    initialise(folder, bare=False)
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
            remedy="The checkout was changed while this run was under way: run again",
        )
    # What it is based on may have come with it, and makes the next pack small.
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


def bring(folder: Path, source: Source) -> None:
    """Have ``source``'s commit in the repository, fetched if it is missing; the work tree stays as it is."""
    initialise(folder, bare=False)
    if not has(folder, source.commit):
        _fetch(folder, source)
    if not has(folder, source.commit):
        raise PipelineError(
            f"{source.ref} no longer contains commit {source.commit}",
            where=source.url,
            remedy="Upstream moved while this run was under way: run again",
        )


def describe(folder: Path, commit: str, package: str, *, moved: bool) -> Checkout:
    """What the manifests in the checkout say of ``package``."""
    workspace = _manifest(folder / "Cargo.toml").get("workspace", {})
    shared = workspace.get("package", {})
    for member in workspace.get("members", []):
        for manifest in sorted(folder.glob(f"{member}/Cargo.toml")):
            own = _manifest(manifest).get("package", {})
            if own.get("name") == package:
                version = inherited(own, shared, "version")
                return Checkout(str(folder), commit, version, inherited(own, shared, "rust-version"), moved)
    raise PipelineError(
        f"the workspace has no package {package}",
        where=str(folder / "Cargo.toml"),
        remedy="Set upstream_package to the package that builds the binary",
    )


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PipelineError(f"not a readable cargo manifest: {error}", str(path)) from error


def inherited(own: dict[str, Any], shared: dict[str, Any], key: str) -> str:
    value = own.get(key, "")
    if isinstance(value, dict):
        value = shared.get(key, "")
    return re.sub(r"\s", "", str(value))


def _fetch(folder: Path, source: Source) -> None:
    if source.kind != "commit":
        ref = f"refs/{'tags' if source.kind == 'tag' else 'heads'}/{source.ref}"
        _fetch_refs(folder, source, f"+{ref}:refs/upstream/{source.ref}")
        return
    try:
        _fetch_refs(folder, source, f"+{source.commit}:refs/upstream/{source.commit}")
    except CommandFailed:
        # A server may give what its branches name, and no commit by its id.
        _fetch_refs(folder, source, "+refs/heads/*:refs/upstream/*")


def _fetch_refs(folder: Path, source: Source, refspec: str) -> None:
    git("fetch", "--quiet", "--no-tags", "--", source.url, refspec, repository=folder, timeout=3600)


def _whole(folder: Path, commit: str) -> bool:
    try:
        git("rev-list", "--objects", "--quiet", f"{commit}^{{tree}}", repository=folder)
    except CommandFailed:
        return False
    return True
