"""What a commit of upstream says of itself, read from the repository: the checkout stays where a build has it."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.git import git
from ..base.records import Record
from .checkout import inherited


@dataclass(frozen=True)
class Tree(Record):
    """A commit's own words: ``features`` are those of the package, ``lock`` is git's name of Cargo.lock ("" for none).

    ``crate_version`` is what ``--version`` prints and differs from some tags; ``rust_version`` the lowest rustc ("" if
    none is named).
    """

    commit: str
    crate_version: str
    rust_version: str
    features: tuple[str, ...]
    lock: str


def look(repository: Path, commit: str, package: str) -> Tree:
    """Read the manifests of a commit that the repository has."""
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
            version, rust = (inherited(own, shared, key) for key in ("version", "rust-version"))
            return Tree(commit, version, rust, tuple(manifest.get("features", {})), files.get("Cargo.lock", ""))
    raise PipelineError(
        f"the workspace has no package {package}",
        where=f"Cargo.toml of {commit[:12]}",
        remedy="Set upstream_package to the package that builds the binary",
    )


def _manifest(repository: Path, commit: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(git("show", f"{commit}:{name}", repository=repository))
    except tomllib.TOMLDecodeError as error:
        raise PipelineError(f"not a readable cargo manifest: {error}", f"{name} of {commit[:12]}") from error
