"""The cargo manifests of a commit, read from the repository: the checkout of a running build stays as it is.

The workspace's version differs from some tags, and a member may inherit its version from the workspace.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.git import git
from ..base.records import Record


@dataclass(frozen=True)
class Tree(Record):
    """The manifest of one package at a commit.

    ``crate_version`` is the version that ``--version`` prints; ``rust_version`` the lowest rustc ("" if none is named).
    ``features`` are the package's own; ``lock`` is the id of Cargo.lock's blob ("" if there is none).
    """

    commit: str
    crate_version: str
    rust_version: str
    features: tuple[str, ...]
    lock: str


def look(repository: Path, commit: str, package: str) -> Tree:
    """Read the manifest of ``package`` at a commit that the repository has; PipelineError if there is none."""
    rows = [line.split(None, 3)[2:] for line in git("ls-tree", "-r", commit, repository=repository).splitlines()]
    files = {name: blob for blob, name in rows}
    workspace = _manifest(repository, commit, "Cargo.toml").get("workspace", {})
    shared = workspace.get("package", {})
    folders = [name.rpartition("/")[0] for name in files if name.endswith("/Cargo.toml")]
    members = [
        folder for folder in folders if any(fnmatch.fnmatch(folder, row) for row in workspace.get("members", []))
    ]
    # Packages mostly lie in a folder of their name.
    for folder in sorted(members, key=lambda folder: not folder.endswith(package)):
        manifest = _manifest(repository, commit, f"{folder}/Cargo.toml")
        own = manifest.get("package", {})
        if own.get("name") == package:
            version, rust = (_inherited(own, shared, key) for key in ("version", "rust-version"))
            return Tree(commit, version, rust, tuple(manifest.get("features", {})), files.get("Cargo.lock", ""))
    raise PipelineError(
        f"the workspace has no package {package}",
        where=f"Cargo.toml of {commit[:12]}",
        remedy="Set upstream_package to the package that builds the binary",
    )


def _inherited(own: dict[str, Any], shared: dict[str, Any], key: str) -> str:
    """A key of the package; ``key.workspace = true`` takes the workspace's."""
    value = own.get(key, "")
    if isinstance(value, dict):
        value = shared.get(key, "")
    return re.sub(r"\s", "", str(value))


def _manifest(repository: Path, commit: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(git("show", f"{commit}:{name}", repository=repository))
    except tomllib.TOMLDecodeError as error:
        raise PipelineError(f"not a readable cargo manifest: {error}", f"{name} of {commit[:12]}") from error
