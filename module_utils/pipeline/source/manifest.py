"""A commit's workspace as cargo itself sees it, read from the repository: no checkout moves.

    git ls-tree --> a skeleton: the manifests, and the names of Rust's files --> cargo metadata --no-deps

Rules:

1. cargo alone decides which packages a workspace has and what they inherit: globs, exclusions, members that are only
   path dependencies, a package in the top folder. It looks for targets by name, and only for *.rs: a path that a
   manifest names may be missing (cargo 1.95, tried).
2. ``cargo metadata --no-deps`` runs no program, and neither reads Cargo.lock nor needs a crate (cargo 1.95, traced). It
   reads any path that a manifest names: it runs in a sandbox that shows the skeleton and cargo alone, in the root
   folder, where no configuration of the commit applies. A link that leaves the tree is left out: it may name a device.
3. Git LFS and submodules keep files outside of the commit, and this project fetches neither. Those that a build reads
   are below the folders of the packages that it compiles (workspace), companions of the binary, or submodules that a
   build script names.
4. A file in Git LFS is recognised by its bytes, a pointer of less than 1024 bytes (git-lfs, docs/spec.md), whatever
   .gitattributes says: the bytes end in a binary.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..base.companions import LICENCE, TEMPLATES
from ..base.errors import PipelineError
from ..base.git import git
from ..base.records import Record
from ..base.run import CommandFailed
from ..base.sandbox import Sandbox, outside_the_system
from ..base.text import shown
from .workspace import Metadata, compiled, misfit

LOCK = "Cargo.lock"
LFS, SUBMODULE = "Git LFS", "submodules"

_TREE = Path("/tree-of-the-commit")
_LINK, _SUBMODULE = "120000", "160000"
_ROW = re.compile(r"(?P<mode>\d{6}) \w+ (?P<id>[0-9a-f]{40,64}) +(?P<size>\d+|-)\t(?P<path>.+)", re.DOTALL)
_POINTER = re.compile(
    r"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/v1\n(?:ext-.*\n)*"
    r"oid sha256:[0-9a-f]{64}\nsize \d+\n?"
)
# The three lines of the smallest pointer have 126 bytes.
_POINTER_SIZES = range(120, 1024)
_LARGEST = 16 << 20


class ManifestRefused(PipelineError):
    """cargo refuses the manifests; ``output`` holds its words."""

    def __init__(self, output: str, where: str, submodules: Sequence[str]) -> None:
        self.output = output
        lines = [shown(line) for line in output.splitlines() if line.strip() not in ("", "Caused by:")]
        remedy = "Report it upstream: no cargo builds this commit"
        if submodules:
            remedy = f"Its submodules are not fetched ({named(submodules)}): if it is there, {remedy_of(SUBMODULE)}"
        super().__init__("cargo refuses upstream's manifests: " + " | ".join(lines)[:600], where, remedy)


@dataclass(frozen=True)
class Tree(Record):
    """One package of a commit's workspace, with what a build of it reads.

    ``crate_version`` is the version that ``--version`` prints; ``rust_version`` the lowest rustc ("" if none is named).
    ``features`` are the package's own; ``lock`` is the id of Cargo.lock's blob ("" if there is none), and ``misfit``
    why it does not fit the manifests ("" where nothing shows that). ``lfs`` and ``submodules`` are the paths outside of
    the commit that the build reads, ``beside`` all others of both. ``scripts`` maps each build script to the active
    features of its package.
    """

    commit: str
    crate_version: str
    rust_version: str
    features: tuple[str, ...]
    lock: str
    misfit: str = ""
    lfs: tuple[str, ...] = ()
    submodules: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    scripts: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A file of a commit; ``size`` is 0 for a submodule."""

    mode: str
    id: str
    size: int
    path: str


def look(
    repository: Path, commit: str, package: str, cargo: Path, features: Sequence[str] = (), *, protected: bool = True
) -> Tree:
    """What ``cargo`` finds of ``package``, built with ``features``, at a commit that the repository has.

    PipelineError if there is no such package, ManifestRefused if cargo refuses the manifests. Without ``protected``
    there is no sandbox, and cargo runs as the account itself.
    """
    files = _entries(repository, commit)
    read = [entry for entry in files if _is_read(entry)]
    texts = dict(zip((entry.path for entry in read), _contents(repository, [entry.id for entry in read]), strict=True))
    submodules = [entry.path for entry in files if entry.mode == _SUBMODULE]
    pointers = [path for path, text in texts.items() if _POINTER.fullmatch(text)]
    try:
        metadata = _metadata(files, texts, cargo, protected=protected)
    except CommandFailed as error:
        raise ManifestRefused(error.stderr, f"{commit[:12]} in {repository}", submodules) from error
    packages, top = metadata["packages"], f"{metadata['workspace_root']}/"
    own = next((entry for entry in packages if entry["name"] == package), None)
    if own is None:
        raise _no_package(package, packages, commit)
    units = compiled(packages, package, features).values()
    folders = [f"{unit.folder}/".removeprefix(top) for unit in units]
    # A script may lie in another package's folder; one that is not there fails the compile.
    blobs = {entry.path: entry.id for entry in files if entry.mode != _SUBMODULE}
    scripts = {
        path: sorted(unit.features)
        for unit in units
        for target in unit.package["targets"]
        if "custom-build" in target["kind"]
        and (path := os.path.normpath(target["src_path"].removeprefix(top))) in blobs
    }
    code = "\n".join(_contents(repository, [blobs[path] for path in scripts]))
    lfs = [path for path in pointers if _is_built(path, folders)]
    modules = [path for path in submodules if _is_built(path, folders) or _is_named(path, code)]
    return Tree(
        commit,
        own["version"],
        re.sub(r"\s", "", own["rust_version"] or ""),
        tuple(own["features"]),
        blobs.get(LOCK, ""),
        misfit(packages, texts.get(LOCK, "")),
        tuple(lfs),
        tuple(modules),
        tuple(path for path in [*pointers, *submodules] if path not in (*lfs, *modules)),
        scripts,
    )


# ---------------------------------------------------------------- decisions


def remedy_of(kind: str) -> str:
    """What an operator can do about files outside of the commit."""
    if kind == LFS:
        return (
            "set upstream_url to a mirror whose history holds the files themselves (git lfs migrate export "
            "--everything --include='*' makes one)"
        )
    return "set upstream_url to a mirror that holds those files as its own (git subtree add makes such a commit)"


def named(paths: Sequence[str], most: int = 3) -> str:
    """The first paths, fit for a terminal, and how many more there are."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(map(shown, paths[:most])) + more


def _is_read(entry: Entry) -> bool:
    """Whether the file's text counts: a manifest, the lock, a link, or possibly a pointer."""
    manifest = entry.path == LOCK or PurePosixPath(entry.path).name == "Cargo.toml"
    if entry.mode == _SUBMODULE or entry.size > _LARGEST:
        return False
    return manifest or entry.mode == _LINK or entry.size in _POINTER_SIZES


def _is_seen(entry: Entry) -> bool:
    """Whether cargo's answer depends on the name."""
    return entry.mode in (_LINK, _SUBMODULE) or entry.path.endswith((".rs", "Cargo.toml"))


def _is_built(path: str, folders: Sequence[str]) -> bool:
    """Whether a build reads the path: below a folder of a compiled package, or a companion of the binary."""
    if path == LICENCE or path.startswith((f"{TEMPLATES}/", *folders)):
        return True
    # A submodule may hold whole packages.
    return any(folder.startswith(f"{path}/") for folder in folders)


def _is_named(submodule: str, code: str) -> bool:
    """Whether a build script has the folder's name in a path: "../third_party/flash-attention/src"."""
    return bool(re.search(rf'["/]{re.escape(PurePosixPath(submodule).name)}["/]', code))


def _no_package(package: str, packages: Sequence[Metadata], commit: str) -> PipelineError:
    binaries = sorted(entry["name"] for entry in packages if any("bin" in row["kind"] for row in entry["targets"]))
    return PipelineError(
        f"the workspace has no package {package}",
        where=f"Cargo.toml of {commit[:12]}",
        remedy="Set upstream_package to the package that builds the binary"
        + (f": {', '.join(binaries)}" if binaries else ""),
    )


# ---------------------------------------------------------------- the edge: git and cargo


def _entries(repository: Path, commit: str) -> list[Entry]:
    """All files of a commit. PipelineError for a name that git would not check out either."""
    listed = git("ls-tree", "-r", "-l", "-z", "--full-tree", commit, repository=repository)
    found = [match for row in listed.split("\0") if (match := _ROW.fullmatch(row))]
    files = [Entry(m["mode"], m["id"], 0 if m["size"] == "-" else int(m["size"]), m["path"]) for m in found]
    links = {PurePosixPath(entry.path) for entry in files if entry.mode == _LINK}
    for entry in files:
        path = PurePosixPath(entry.path)
        if set(entry.path.split("/")) & {"", ".", "..", ".git"} or links & set(path.parents):
            raise PipelineError(f"the commit's tree is damaged at {entry.path!r}", commit, "Report it upstream")
    return files


def _contents(repository: Path, ids: Sequence[str]) -> list[str]:
    """The texts of blobs, in their order."""
    mark = secrets.token_hex(16)
    asked = "".join(f"{name}\n" for name in ids)
    output = git("cat-file", f"--batch={mark}", repository=repository, stdin=asked)
    # git adds a line feed before and after each.
    texts = [text[1:-1] for text in output.split(mark)[1:]]
    if len(texts) != len(ids):
        raise PipelineError("files of the commit are missing", str(repository), "Delete it: it is fetched again")
    return texts


def _metadata(files: Sequence[Entry], texts: Mapping[str, str], cargo: Path, *, protected: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="workspace-") as name:
        skeleton = Path(name, "tree")
        skeleton.mkdir()
        # Links last, so that no file is written through one; those that leave the tree are left out.
        for entry in sorted(filter(_is_seen, files), key=lambda entry: entry.mode == _LINK):
            _place(skeleton / entry.path, entry.mode, texts.get(entry.path, ""))
        for link in (skeleton / entry.path for entry in files if entry.mode == _LINK):
            if link.is_symlink() and not Path(os.path.realpath(link)).is_relative_to(os.path.realpath(skeleton)):
                link.unlink()
        tree = _TREE if protected else skeleton
        sandbox = Sandbox(
            readable=outside_the_system([cargo.parent, cargo.parent.with_name("lib")]), places={_TREE: skeleton},
            environment={"CARGO_HOME": str(tree / ".cargo-home"), "HOME": "/dev/null"}, protected=protected,
        )  # fmt: skip
        words = ["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"]
        try:
            done = sandbox.run([cargo, *words, tree / "Cargo.toml"], timeout=120)
        except CommandFailed as error:
            # Some messages of cargo name paths from the root folder, its working directory.
            for prefix in (f"{tree}/", f"{tree}/"[1:]):
                error.stderr = error.stderr.replace(prefix, "")
            raise
        return dict(json.loads(done.stdout))


def _place(path: Path, mode: str, text: str) -> None:
    """One name of the skeleton. A tree that holds a name twice is damaged; the first one counts."""
    with suppress(FileExistsError, NotADirectoryError):
        if mode == _SUBMODULE:
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == _LINK:
            path.symlink_to(text)
        elif not path.exists():
            path.write_text(text)
