"""Mirrors of git repositories and crates, and the dependencies that a build without a network needs beforehand.

Rules:

1. Records, Cargo.lock and manifests keep the real addresses. Only git rewrites them: ``url.<mirror>.insteadOf`` in its
   environment (git-config(1), GIT_CONFIG_COUNT), where the longest matching prefix wins. Tasks that reach upstream set
   it for all their processes; cargo and build scripts get it, and no other setting of git.
2. Crates come from the mirror by source replacement in CARGO_HOME/config.toml (The Cargo Book, "Source
   Replacement"): Cargo.lock still says crates.io, and its checksums still hold. Never by a CARGO_ variable: those are
   part of the keys of the compile cache.
3. cargo 1.95 unpacks crates to ``registry/src/<host of the replacing registry>-<hash>/``, those of a local registry
   to ``registry/src/-<hash>/``, and compiles vendored crates where they lie (tried). Those paths are in the keys of
   the compile cache and in a binary's panic messages: builders that share a cache need the same mirror.
4. cudaforge (0.1.4, src/dependency.rs) needs no network for CUTLASS where ``include/`` is in
   ``$CUDAFORGE_HOME/git/checkouts/cutlass-<first 16 hex>`` and HEAD there is the commit. It is placed there whole or
   not at all, and kept.
5. The build scripts name the commits of CUTLASS. Those that only another GPU or feature uses are left out as far as
   a script's text shows that (build_script).
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..base.errors import PipelineError
from ..base.git import configured, fatal, git, mirrored, remote_remedy
from ..base.lock import held
from ..base.run import CommandFailed
from ..base.text import last_words
from .build_script import used_commits

CUTLASS = "https://github.com/NVIDIA/cutlass.git"
# The folders that cudaforge itself checks out and passes to nvcc.
_CUTLASS_FOLDERS = ("include", "tools/util/include")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DEFAULT = re.compile(r"CUTLASS_DEFAULT_COMMIT[^=]*=\s*\"([0-9a-f]{40})\"")

_HEADER = "# Written from cargo_registry_mirror, and removed when that is empty.\n"


@dataclass(frozen=True)
class Mirrors:
    """``git``: prefixes of addresses, each with its replacement. ``registry``: a sparse index, or a folder.

    ``cutlass_commits`` replaces the commits that the build scripts name. Raises PipelineError for an invalid value.
    """

    git: Mapping[str, str] = field(default_factory=dict)
    registry: str = ""
    cutlass_commits: Sequence[str] = ()

    def __post_init__(self) -> None:
        for prefix, mirror in self.git.items():
            for text in (prefix, mirror):
                _address(text, f"git_mirrors, {prefix}")
        if self.registry:
            _address(self.registry.removeprefix("sparse+"), "cargo_registry_mirror")
        for commit in self.cutlass_commits:
            if not _COMMIT.fullmatch(commit):
                raise PipelineError(f"{commit!r} is no commit", "cutlass_commits", "Name all of its 40 hex digits")

    @property
    def environment(self) -> dict[str, str]:
        """git's configuration as environment variables; empty without a mirror."""
        pairs = [(f"url.{mirror}.insteadOf", prefix) for prefix, mirror in self.git.items()]
        return configured(pairs) if pairs else {}

    def sent(self, address: str) -> str:
        """The address that git uses for this one."""
        return mirrored(address, self.git)

    def blamed(self, output: str) -> str:
        """The remedy if a repository of another account or a git mirror occurs in a failed download's output, or ""."""
        return remote_remedy("", output) or "; ".join(
            f"git_mirrors sends {prefix} to {mirror}: check that it answers and holds the commits that upstream needs"
            for prefix, mirror in self.git.items()
            if prefix in output or mirror in output
        )

    def registry_blamed(self, output: str) -> str:
        """The remedy if the crate mirror may be at fault, or "". cargo does not always name its registry."""
        if not self.registry or "fatal: " in output:
            return ""
        return f"cargo_registry_mirror is {self.registry}: check that it answers and holds these crates"


def _address(text: str, where: str) -> None:
    if re.search(r"[\x00-\x20\x7f]", text) or not re.match(r"[\w.+-]+://|[\w.-]+@[\w.-]+:|/", text):
        raise PipelineError(
            f"{text!r} is neither a URL nor an absolute path",
            where,
            "Write it like https://host/path/ or file:///folder",
        )
    if urlsplit(text).password is not None:
        raise PipelineError(
            "a mirror's address holds a password, which logs would show",
            where=where,
            remedy="Put it into home/.netrc below builder_root, mode 0600, and leave it out here",
        )


def source_replacement(source: Mapping[str, str]) -> str:
    """cargo's configuration that replaces crates.io with ``source``, a kind and an address."""
    lines = [f"{key} = {json.dumps(str(value))}" for key, value in source.items()]
    return _HEADER + "\n".join(['[source.crates-io]\nreplace-with = "mirror"\n\n[source.mirror]', *lines, ""])


def registry_source(registry: str) -> dict[str, str]:
    """The kind and the address of a registry, in cargo's words: ``registry``, ``local-registry`` or ``directory``."""
    if not registry.startswith("/"):
        index = registry if registry.startswith("sparse+") else f"sparse+{registry}"
        # cargo refuses a sparse index whose address does not end so.
        return {"registry": index.rstrip("/") + "/"}
    folder = Path(registry)
    if (folder / "index").is_dir():
        return {"local-registry": registry}
    if next(folder.glob("*/.cargo-checksum.json"), None):
        return {"directory": registry}
    raise PipelineError(
        "this is neither a local registry (a folder index/ beside the crates) nor a folder of vendored crates",
        where=f"cargo_registry_mirror, {registry}",
        remedy="Make one with cargo local-registry or cargo vendor on the builder, or give the URL of a sparse index",
    )


def place_registry(cargo_home: Path, registry: str) -> None:
    """Configure cargo to take crates from the mirror, or from crates.io without one."""
    file = cargo_home / "config.toml"
    there = file.read_text() if file.is_file() else ""
    wanted = source_replacement(registry_source(registry)) if registry else ""
    if there == wanted:
        return
    if there and not there.startswith(_HEADER):
        if wanted:
            raise PipelineError(
                "cargo has a configuration here that this project did not write",
                where=str(file),
                remedy="Remove it, or leave cargo_registry_mirror empty and replace the source there yourself",
            )
        return
    if wanted:
        partial = file.with_name(".config.toml.new")
        partial.write_text(wanted)
        partial.replace(file)
    else:
        file.unlink()


@dataclass(frozen=True)
class Script:
    """A build script, and the features of its package."""

    path: Path
    features: tuple[str, ...]


def build_scripts(metadata: Mapping[str, Any], package: str) -> dict[str, Script]:
    """The build scripts of ``package`` and its dependencies, by package, from ``cargo metadata``.

    Without development dependencies. The name cudaforge maps to its own folder.
    """
    packages = {entry["id"]: entry for entry in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    waiting = deque(key for key in metadata["workspace_members"] if packages[key]["name"] == package)
    reached = set(waiting)
    while waiting:
        for edge in nodes[waiting.popleft()]["deps"]:
            if edge["pkg"] not in reached and any(kind["kind"] != "dev" for kind in edge["dep_kinds"]):
                reached.add(edge["pkg"])
                waiting.append(edge["pkg"])
    found = {}
    for key, entry in ((key, packages[key]) for key in reached):
        features = tuple(nodes[key].get("features", ()))
        if entry["name"] == "cudaforge":
            found["cudaforge"] = Script(Path(entry["manifest_path"]).parent, features)
        for target in entry["targets"]:
            if "custom-build" in target["kind"]:
                found[f"{entry['name']} {entry['version']}"] = Script(Path(target["src_path"]), features)
    return found


def cutlass_wanted(metadata: Mapping[str, Any], package: str, compute_cap: str = "") -> dict[str, str]:
    """The commits of CUTLASS that the build scripts of ``package`` use, each with the package that uses it.

    ``compute_cap`` is the GPU's ("89"); without it those of every GPU.
    """
    scripts = build_scripts(metadata, package)
    home = scripts.pop("cudaforge", None)
    own = home.path / "src" / "dependency.rs" if home else None
    match = _DEFAULT.search(own.read_text(errors="replace")) if own and own.is_file() else None
    default = match[1] if match else ""
    wanted: dict[str, str] = {}
    for name, script in sorted(scripts.items()):
        text = script.path.read_text(errors="replace")
        commits = used_commits(text, default, compute_cap, script.features)
        if "" in commits:
            raise PipelineError(
                f"the build script of {name} uses CUTLASS, but names no readable commit",
                where=str(script.path),
                remedy="Set cutlass_commits to the commits that it uses",
            )
        for commit in commits:
            wanted.setdefault(commit, name)
    return wanted


def has_cutlass(home: Path, commit: str) -> bool:
    """Whether cudaforge with this CUDAFORGE_HOME finds the commit without a network."""
    folder = cutlass_folder(home, commit)
    if not (folder / "include").is_dir():
        return False
    try:
        return git("rev-parse", "HEAD", repository=folder).strip() == commit
    except CommandFailed:
        return False


def cutlass_folder(home: Path, commit: str) -> Path:
    return home / "git" / "checkouts" / f"cutlass-{commit[:16]}"


def seed_cutlass(home: Path, commit: str, asked_by: str, mirrors: Mirrors, environment: Mapping[str, str]) -> bool:
    """Place CUTLASS where cudaforge looks for it; True if it was not there yet.

    Fetches one commit, and only the folders that cudaforge uses: 4 MB of a tree of 139 MB.
    """
    folder = cutlass_folder(home, commit)
    # The lock is cudaforge's own, so that none of its processes sees an incomplete checkout.
    with held(folder.with_name(f"{folder.name}.lock")):
        if has_cutlass(home, commit):
            return False
        # The checkout fetches the files; git calls that lazy.
        variables = {**environment, **mirrors.environment, "GIT_NO_LAZY_FETCH": "0"}
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as name:
            tree = Path(name) / "cutlass"
            try:
                git("init", "--quiet", tree)
                for words in (
                    ("remote", "add", "origin", CUTLASS),
                    ("fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", commit),
                    ("sparse-checkout", "set", *_CUTLASS_FOLDERS),
                    ("checkout", "--quiet", "--detach", commit),
                ):
                    git(*words, repository=tree, env=variables, timeout=1800)
            except CommandFailed as error:
                raise PipelineError(
                    f"CUTLASS {commit}, which {asked_by} needs, could not be fetched: "
                    f"{fatal(error.stderr) or last_words(error.stderr)}",
                    where=mirrors.sent(CUTLASS),
                    remedy=mirrors.blamed(CUTLASS + error.stderr)
                    or f"Check the network, or name a mirror of {CUTLASS} in git_mirrors; then run again",
                ) from error
            if not (tree / "include").is_dir():
                raise PipelineError(
                    f"CUTLASS {commit} has no folder include", mirrors.sent(CUTLASS), "Check the mirror"
                )
            shutil.rmtree(folder, ignore_errors=True)
            tree.rename(folder)
        return True
