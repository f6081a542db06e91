"""Mirrors: where git repositories and crates come from instead, and what a build without a network needs beforehand.

Rules:

1. Records, Cargo.lock and manifests keep the real addresses. git itself goes elsewhere: ``url.<mirror>.insteadOf`` in
   its environment (git-config(1), GIT_CONFIG_COUNT), where the longest prefix that fits wins. Tasks that reach upstream
   set it, so that it holds for all they start; cargo and build scripts get it, and nothing else of git's settings.
2. Crates come from the mirror by source replacement in CARGO_HOME/config.toml (The Cargo Book, "Source
   Replacement"): Cargo.lock still says crates.io, and its checksums still hold. Never by a CARGO_ variable: those are
   in the keys of the compile cache.
3. cargo 1.95 unpacks crates to ``registry/src/<host of the replacing registry>-<hash>/``, those of a local registry
   to ``registry/src/-<hash>/``, and compiles vendored crates where they lie (tried). Those paths are in the keys of
   the compile cache and in a binary's panic messages: builders that share a cache have the same mirror.
4. cudaforge (0.1.4, src/dependency.rs) needs no network for CUTLASS where ``include/`` is in
   ``$CUDAFORGE_HOME/git/checkouts/cutlass-<first 16 hex>`` and HEAD there is the commit. It is laid there whole or not
   at all, and kept.
5. Which commit of CUTLASS that is stands in the build scripts themselves. What is read there may be more than is
   used (a branch for another GPU), never less.
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
from ..base.git import git
from ..base.lock import held
from ..base.run import CommandFailed

CUTLASS = "https://github.com/NVIDIA/cutlass.git"
# What cudaforge itself checks out of it, and hands to nvcc.
_CUTLASS_FOLDERS = ("include", "tools/util/include")
_COMMIT = re.compile(r"\"([0-9a-f]{40})\"")
_DEFAULT = re.compile(r"CUTLASS_DEFAULT_COMMIT[^=]*=\s*\"([0-9a-f]{40})\"")

_HEADER = "# Written from cargo_registry_mirror, and removed when that is empty.\n"


@dataclass(frozen=True)
class Mirrors:
    """``git``: the beginning of an address, and what to put in its place. ``registry``: a sparse index, or a folder.

    ``cutlass_commits`` replaces what is read in the build scripts. Raises PipelineError for what cannot be meant.
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
            if not _COMMIT.fullmatch(f'"{commit}"'):
                raise PipelineError(f"{commit!r} is no commit", "cutlass_commits", "Name all of its 40 hex digits")

    @property
    def environment(self) -> dict[str, str]:
        """git's configuration, as variables; none where there is no mirror."""
        pairs = {}
        for number, (prefix, mirror) in enumerate(self.git.items()):
            pairs[f"GIT_CONFIG_KEY_{number}"] = f"url.{mirror}.insteadOf"
            pairs[f"GIT_CONFIG_VALUE_{number}"] = str(prefix)
        return {"GIT_CONFIG_COUNT": str(len(self.git)), **pairs} if pairs else {}

    def sent(self, address: str) -> str:
        """The address that git asks in the place of this one."""
        fitting = [prefix for prefix in self.git if address.startswith(prefix)]
        if not fitting:
            return address
        prefix = max(fitting, key=len)
        return self.git[prefix] + address.removeprefix(prefix)

    def blamed(self, said: str) -> str:
        """What a failed download by git has to do with its mirrors, for the operator; "" if nothing."""
        return "; ".join(
            f"git_mirrors sends {prefix} to {mirror}: see that it answers and holds what upstream asks for"
            for prefix, mirror in self.git.items()
            if prefix in said or mirror in said
        )

    def registry_blamed(self, said: str) -> str:
        """The same of crates, whose registry cargo does not always name: where git has nothing to do with it."""
        if not self.registry or "fatal: " in said:
            return ""
        return f"cargo_registry_mirror is {self.registry}: see that it answers and holds these crates"


def git_mirrors(environ: Mapping[str, str]) -> dict[str, str]:
    """The mirrors of git in a process's environment, as ``Mirrors.environment`` put them there."""
    found = {}
    for number in range(int(environ.get("GIT_CONFIG_COUNT") or 0)):
        key = environ.get(f"GIT_CONFIG_KEY_{number}", "")
        match = re.fullmatch(r"url\.(.+)\.insteadof", key, re.IGNORECASE)
        if match:
            found[environ.get(f"GIT_CONFIG_VALUE_{number}", "")] = match[1]
    return found


def _address(text: str, where: str) -> None:
    if re.search(r"[\x00-\x20\x7f]", text) or not re.match(r"[\w.+-]+://|[\w.-]+@[\w.-]+:|/", text):
        raise PipelineError(
            f"{text!r} is neither a URL nor an absolute path",
            where,
            "Write it like https://host/path/ or file:///folder",
        )
    if urlsplit(text).password is not None:
        raise PipelineError(
            "a mirror's address holds a password, which would end in logs",
            where=where,
            remedy="Put it into home/.netrc below builder_root, mode 0600, and leave it out here",
        )


def source_replacement(source: Mapping[str, str]) -> str:
    """cargo's configuration that replaces crates.io by ``source``: its kind and its address."""
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
        remedy="Make one with cargo local-registry or cargo vendor, on the builder; or name the URL of a sparse index",
    )


def place_registry(cargo_home: Path, registry: str) -> None:
    """Let cargo take crates from the mirror, or from crates.io where none is named."""
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
                remedy="Take it away, or leave cargo_registry_mirror empty and replace the source there yourself",
            )
        return
    if wanted:
        partial = file.with_name(".config.toml.new")
        partial.write_text(wanted)
        partial.replace(file)
    else:
        file.unlink()


def build_scripts(metadata: Mapping[str, Any], package: str) -> dict[str, Path]:
    """The build scripts of all that ``package`` is made of, by package, from ``cargo metadata``.

    Development dependencies are no part of it. cudaforge is among the names, with its own folder.
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
    for entry in (packages[key] for key in reached):
        if entry["name"] == "cudaforge":
            found["cudaforge"] = Path(entry["manifest_path"]).parent
        for target in entry["targets"]:
            if "custom-build" in target["kind"]:
                found[f"{entry['name']} {entry['version']}"] = Path(target["src_path"])
    return found


def cutlass_commits(script: str, default: str = "") -> tuple[str, ...]:
    """The commits of CUTLASS that a build script names; ``default`` is cudaforge's own, for a script with none."""
    if "with_cutlass(" not in script:
        return ()
    named = dict.fromkeys(_COMMIT.findall(script))
    if default and (not named or "with_cutlass(None)" in script):
        named[default] = None
    return tuple(named)


def cutlass_wanted(metadata: Mapping[str, Any], package: str) -> dict[str, str]:
    """The commits of CUTLASS that the build scripts of ``package`` ask for, and the package that asks."""
    scripts = build_scripts(metadata, package)
    home = scripts.pop("cudaforge", None)
    own = home / "src" / "dependency.rs" if home else None
    match = _DEFAULT.search(own.read_text(errors="replace")) if own and own.is_file() else None
    wanted: dict[str, str] = {}
    for name, path in sorted(scripts.items()):
        text = path.read_text(errors="replace")
        commits = cutlass_commits(text, match[1] if match else "")
        if "with_cutlass(" in text and not commits:
            raise PipelineError(
                f"the build script of {name} takes CUTLASS, and its commit cannot be read there",
                where=str(path),
                remedy="Set cutlass_commits to the commits that it uses",
            )
        for commit in commits:
            wanted.setdefault(commit, name)
    return wanted


def has_cutlass(home: Path, commit: str) -> bool:
    """Whether cudaforge, with this CUDAFORGE_HOME, finds the commit without a network."""
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
    """Lay CUTLASS where cudaforge looks for it; True if it was not there yet.

    The one commit, and of its files only those that cudaforge takes: 4 MB are fetched of a tree of 139.
    """
    folder = cutlass_folder(home, commit)
    # The lock is cudaforge's own, so that none of its processes sees a half of it.
    with held(folder.with_name(f"{folder.name}.lock")):
        if has_cutlass(home, commit):
            return False
        # The files come when they are checked out: git calls that lazy.
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
                said = error.stderr.strip().splitlines()
                raise PipelineError(
                    f"CUTLASS {commit}, which {asked_by} asks for, could not be fetched: {' | '.join(said[-3:])}",
                    where=mirrors.sent(CUTLASS),
                    remedy=mirrors.blamed(CUTLASS)
                    or f"Check the network, or send {CUTLASS} to a mirror with git_mirrors; then run again",
                ) from error
            if not (tree / "include").is_dir():
                raise PipelineError(
                    f"CUTLASS {commit} has no folder include", mirrors.sent(CUTLASS), "Check the mirror"
                )
            shutil.rmtree(folder, ignore_errors=True)
            tree.rename(folder)
        return True
