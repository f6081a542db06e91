"""Rust for a builder: one pinned release from its own archives, or the distribution's.

Rules:

1. A release from archives lies at ``<root>/toolchain/rust-<version>``, complete or not there (see toolchain).
2. rustc, cargo and the standard library come from one release, each archive by its pinned SHA-256. No installer of
   theirs is run: an archive's components are merged into one tree, as its install.sh would do.
3. The stamp holds the digest of the pins and of the rules of the layout; while that fits, nothing is run.
4. A system's Rust counts when it is at least the release that is asked for.
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

LAYOUT = 1
"""Raise it when the layout changes: every release from archives is then laid out again."""

STAMP = "toolchain.json"
SYSTEM = Path("/usr/bin")
SPACE = 1500 << 20
"""The archives (0.1 GB), what is unpacked (0.6 GB), and some room."""


@dataclass(frozen=True)
class Toolchain(Record):
    """A Rust that can be used: ``cargo`` is the program that the pipeline is told of.

    ``source`` is "dist" or "system"; ``inputs`` is the digest of the pins and the layout (empty for the system's).
    """

    version: str
    cargo: str
    source: str
    inputs: str = ""


def release(text: str) -> str:
    """The release that ``rustc -vV`` or ``cargo -vV`` tells: "1.95.0"; empty when it tells none."""
    found = re.search(r"^release: (\d+\.\d+\.\d+)", text, re.MULTILINE)
    return found.group(1) if found else ""


@dataclass(frozen=True)
class Dist:
    """The release that a builder should have from archives.

    ``pins`` is the text that names them as sha256sum does, ``url`` the folder that they are in.
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
                "Take a version that has a file there, or add it to scripts/lock and run make lock",
            )
        return found

    @property
    def inputs(self) -> str:
        """The digest of what decides the tree. Where it comes from is not in it."""
        return digest_of([LAYOUT, self.archives])

    def toolchain(self) -> Toolchain:
        return Toolchain(self.version, str(self.folder / "bin" / "cargo"), "dist", self.inputs)

    def installed(self) -> Toolchain | None:
        """The toolchain, if it is in place and made from these very pins."""
        wanted = self.toolchain()
        try:
            found = Toolchain.read(self.folder / STAMP)
        except (OSError, PipelineError):
            return None
        return found if found == wanted and os.access(found.cargo, os.X_OK) else None

    def install(self) -> Toolchain:
        """Lay the release out. Killed at any point it leaves the old tree, none, or the new one."""
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
            self._try(tree)
            toolchain = self.toolchain()
            toolchain.write(tree / STAMP)
        return toolchain

    def _try(self, tree: Path) -> None:
        for program in ("rustc", "cargo"):
            try:
                said = release(run([tree / "bin" / program, "-vV"]).stdout)
            except ProgramMissing:
                said = ""
            if said != self.version:
                raise PipelineError(
                    f"the pins for Rust {self.version} hold {program} {said or 'of no version'}",
                    f"rust-{self.version}.txt",
                    "Correct the versions in scripts/lock and run make lock",
                )


def merge(archive: Path, tree: Path) -> None:
    """Unpack the components of an archive into one tree, without the files that its installer is made of."""
    try:
        with tarfile.open(archive) as members:
            for member in members:
                # rustc-1.95.0-x86_64-unknown-linux-gnu / rustc / bin/rustc
                _, _, inside = member.name.partition("/")
                _, _, path = inside.partition("/")
                if not path or path == "manifest.in" or ".." in Path(path).parts:
                    continue
                target = tree / path
                source = members.extractfile(member) if member.isfile() else None
                if source:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as stream:
                        shutil.copyfileobj(source, stream, 1 << 20)
                    target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError) as error:
        raise PipelineError(f"the archive cannot be unpacked: {error}", archive.name) from error


def find_system(version: str) -> Toolchain:
    """The distribution's Rust, if it is at least ``version``."""
    try:
        found = release(run([SYSTEM / "rustc", "-vV"]).stdout)
    except ProgramMissing:
        found = ""
    if not found or dotted(found) < dotted(version) or not os.access(SYSTEM / "cargo", os.X_OK):
        raise PipelineError(
            f"the system's Rust is {found or 'missing'}, and {version} or later is needed",
            str(SYSTEM / "rustc"),
            "Set rust_source=dist, or lower rust_version to what upstream needs",
        )
    return Toolchain(found, str(SYSTEM / "cargo"), "system")


def provide(dist: Dist, source: str, *, check: bool = False) -> tuple[Toolchain, bool]:
    """The toolchain, and whether something was (with ``check``: would be) installed.

    ``source`` is "dist" or "system"; with ``check`` the system's may be still to come.
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
