"""Rust on a builder: one pinned release from its own archives, the system's, or whichever cargo is on PATH.

Rules:

1. A release from archives lies at ``<root>/toolchain/rust-<version>``, complete or absent (layout).
2. rustc, cargo and the standard library come from one release, each archive by its pinned SHA-256. No upstream
   installer runs: the components of an archive are merged into one tree, as its install.sh does.
3. The stamp holds the digest of the pins and of the layout's version. While it matches, nothing runs.
4. The system's Rust is accepted from the requested release on.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Record, digest_of
from ..base.run import ProgramMissing, run
from ..base.versions import dotted
from .layout import download, laid_out, parse_pins
from .verified import LIST, verify

TARGET = "x86_64-unknown-linux-gnu"
"""The triple that everything is compiled for, and whose dependencies are fetched."""

LAYOUT = 2
"""Raise it when the layout changes: every release from archives is then laid out again."""

STAMP = "toolchain.json"
SYSTEM = Path("/usr/bin")
SPACE = 1500 << 20
"""The archives (0.1 GB), the unpacked tree (0.6 GB) and a margin."""


@dataclass(frozen=True)
class Toolchain(Record):
    """A provided Rust: ``cargo`` is the program's path.

    ``source`` is "dist" or "system"; ``inputs`` is the digest of the pins and the layout (empty for the system's).
    """

    version: str
    cargo: str
    source: str
    inputs: str = ""


@dataclass(frozen=True)
class Rust:
    """The Rust that a build uses: the folder of cargo and rustc, and the output of ``rustc -vV``."""

    bin: Path
    version: str
    description: str


def release(text: str) -> str:
    """The release in the output of ``rustc -vV`` or ``cargo -vV``: "1.95.0"; empty when there is none."""
    found = re.search(r"^release: (\d+\.\d+\.\d+)", text, re.MULTILINE)
    return found.group(1) if found else ""


@dataclass(frozen=True)
class Dist:
    """The release that a builder needs, from archives.

    ``pins`` lists their SHA-256 and names in the format of sha256sum; ``url`` is the folder that holds them.
    """

    version: str
    root: Path
    url: str
    pins: str

    @property
    def folder(self) -> Path:
        return self.root / "toolchain" / f"rust-{self.version}"

    @property
    def archives(self) -> dict[str, str]:
        found = parse_pins(self.pins)
        if not found:
            raise PipelineError(
                f"there are no pins for Rust {self.version}",
                "roles/rust_toolchain/files",
                "Use a version that has a file there, or add it to scripts/lock and run make lock",
            )
        return found

    @property
    def inputs(self) -> str:
        """The digest that decides the tree's content; the URL is not part of it."""
        return digest_of([LAYOUT, self.archives])

    def toolchain(self) -> Toolchain:
        return Toolchain(self.version, str(self.folder / "bin" / "cargo"), "dist", self.inputs)

    def installed(self) -> Toolchain | None:
        """The toolchain, if it is made from these pins. PipelineError if it changed since its installation."""
        wanted = self.toolchain()
        try:
            found = Toolchain.read(self.folder / STAMP)
        except (OSError, PipelineError):
            return None
        if found != wanted:
            return None
        verify(self.folder)
        return found

    def install(self) -> Toolchain:
        """Install the release. Killed at any point, this leaves the old tree, none, or the new one."""
        with held(self.folder.parent / ".lock"):
            return self.installed() or self._install()

    def _install(self) -> Toolchain:
        with laid_out(self.folder, f"Rust {self.version}", space=SPACE) as partial:
            tree = partial / "tree"
            for name, sha256 in self.archives.items():
                archive = partial / name
                download(f"{self.url.rstrip('/')}/{name}", archive, sha256)
                merge(archive, tree)
                archive.unlink()
            self._verify(tree)
            toolchain = self.toolchain()
            toolchain.write(tree / STAMP)
        return toolchain

    def _verify(self, tree: Path) -> None:
        for program in ("rustc", "cargo"):
            try:
                found = release(run([tree / "bin" / program, "-vV"]).stdout)
            except ProgramMissing:
                found = ""
            if found != self.version:
                raise PipelineError(
                    f"the pins for Rust {self.version} contain {program} {found or 'of unknown version'}",
                    f"rust-{self.version}.txt",
                    "Correct the versions in scripts/lock and run make lock",
                )


def merge(archive: Path, tree: Path) -> None:
    """Unpack the components of an archive into one tree, without the installer's own files."""
    try:
        with tarfile.open(archive) as members:
            for member in members:
                # rustc-1.95.0-x86_64-unknown-linux-gnu / rustc / bin/rustc
                _, _, inside = member.name.partition("/")
                _, _, path = inside.partition("/")
                if not path or path == "manifest.in" or ".." in Path(path).parts:
                    continue
                target = tree / path
                content = members.extractfile(member) if member.isfile() else None
                if content:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as stream:
                        shutil.copyfileobj(content, stream, 1 << 20)
                    target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError) as error:
        raise PipelineError(f"the archive cannot be unpacked: {error}", archive.name) from error


def find_system(version: str) -> Toolchain:
    """The system's Rust, if it is at least ``version``."""
    try:
        found = release(run([SYSTEM / "rustc", "-vV"]).stdout)
    except ProgramMissing:
        found = ""
    if not found or dotted(found) < dotted(version) or not os.access(SYSTEM / "cargo", os.X_OK):
        raise PipelineError(
            f"the system's Rust is {found or 'missing'}, and {version} or later is needed",
            str(SYSTEM / "rustc"),
            "Set rust_source=dist, or lower rust_version to the one that upstream requires",
        )
    return Toolchain(found, str(SYSTEM / "cargo"), "system")


def provide(dist: Dist, source: str, *, check: bool = False) -> tuple[Toolchain, bool]:
    """The toolchain, and whether it was (with ``check``: would be) installed.

    ``source`` is "dist" or "system". With ``check`` a missing system Rust is no error: its package may not be
    installed yet.
    """
    if source == "system":
        try:
            return find_system(dist.version), False
        except PipelineError:
            if not check:
                raise
            return Toolchain(dist.version, str(SYSTEM / "cargo"), "system"), False
    installed = dist.installed()
    if installed:
        return installed, False
    return (dist.toolchain() if check else dist.install()), True


def find_rust(cargo: str = "") -> Rust:
    """The Rust of this cargo; empty: of the one on PATH or in ~/.cargo/bin.

    For rustup's proxy it is the toolchain behind it, so that builds need no rustup variable. PipelineError for a
    release from archives that changed since its installation: nothing of it runs.
    """
    path = ":".join([os.environ.get("PATH", ""), str(Path.home() / ".cargo" / "bin")])
    found = shutil.which(cargo or "cargo", path=path)
    if found is None:
        raise PipelineError(
            f"{cargo or 'cargo'} is not installed on the builder",
            where=f"PATH={path}",
            remedy="Install Rust with playbooks/builders.yml, rustup or a recent enough package of the distribution, "
            "or set rust_cargo",
        )
    rustup = Path(found).with_name("rustup")
    if rustup.exists():
        # Not the toolchain that a file of the working directory names.
        found = run([rustup, "which", "cargo"], cwd=Path("/"), keep=("HOME", "RUSTUP_HOME")).stdout.strip()
    folder = Path(found).parent
    if (folder.parent / LIST).is_file():
        verify(folder.parent)
    description = run([folder / "rustc", "-vV"]).stdout
    fields = dict(line.split(": ", 1) for line in description.splitlines() if ": " in line)
    return Rust(folder, fields.get("release", ""), description)
