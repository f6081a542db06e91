"""The builder's one persistent checkout of upstream.

Cargo judges freshness by modification times (The Cargo Book, "Build Scripts", rerun-if-changed), so a
fresh clone would run every build script, and so every nvcc, again. The checkout therefore stays where it
is and is moved between commits by git, which touches only the files that differ.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import PipelineError
from .git import git, initialise
from .records import Record, Source
from .run import CommandFailed


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
    initialise(folder, bare=False)
    before = current_commit(folder)
    dirty = before == source.commit and git("status", "--porcelain", repository=folder).strip()
    if before != source.commit or dirty:
        if not _has(folder, source.commit):
            ref = f"refs/{'tags' if source.kind == 'tag' else 'heads'}/{source.ref}"
            git("fetch", "--quiet", "--no-tags", "--", source.url, f"+{ref}:refs/upstream/{source.ref}",
                repository=folder, timeout=3600)  # fmt: skip
        if not _has(folder, source.commit):
            raise PipelineError(
                f"{source.ref} no longer contains commit {source.commit}",
                where=source.url,
                remedy="Upstream moved while this run was under way: run again",
            )
        git("checkout", "--quiet", "--force", "--detach", source.commit, repository=folder)
        git("clean", "-ffdxq", repository=folder)
    return describe(folder, source.commit, package, moved=before != source.commit)


def describe(folder: Path, commit: str, package: str, *, moved: bool) -> Checkout:
    """What the manifests in the checkout say of ``package``."""
    workspace = _manifest(folder / "Cargo.toml").get("workspace", {})
    shared = workspace.get("package", {})
    for member in workspace.get("members", []):
        for manifest in sorted(folder.glob(f"{member}/Cargo.toml")):
            own = _manifest(manifest).get("package", {})
            if own.get("name") == package:
                version = _inherited(own, shared, "version")
                return Checkout(str(folder), commit, version, _inherited(own, shared, "rust-version"), moved)
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


def _inherited(own: dict[str, Any], shared: dict[str, Any], key: str) -> str:
    value = own.get(key, "")
    if isinstance(value, dict):
        value = shared.get(key, "")
    return re.sub(r"\s", "", str(value))


def _has(folder: Path, commit: str) -> bool:
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}", repository=folder)
    except CommandFailed:
        return False
    return True
