"""The Rust that a build uses: the one that is named, or the one that is found."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.run import run


@dataclass(frozen=True)
class Rust:
    """A toolchain on the builder: the folder of cargo and rustc, and what ``rustc -vV`` says."""

    bin: Path
    version: str
    description: str


def find_rust(cargo: str = "") -> Rust:
    """The cargo to use: the one named, else the one on PATH or in ~/.cargo/bin.

    Where that is rustup's proxy, the toolchain behind it, so that no rustup variable is needed later.
    """
    path = ":".join([os.environ.get("PATH", ""), str(Path.home() / ".cargo" / "bin")])
    found = shutil.which(cargo or "cargo", path=path)
    if found is None:
        raise PipelineError(
            f"{cargo or 'cargo'} is not installed on the builder",
            where=f"PATH={path}",
            remedy="Install Rust (playbooks/builders.yml does on a builder; else rustup, or the distribution's cargo "
            "where it is new enough), or set rust_cargo",
        )
    rustup = Path(found).with_name("rustup")
    if rustup.exists():
        found = run([rustup, "which", "cargo"]).stdout.strip()
    folder = Path(found).parent
    description = run([folder / "rustc", "-vV"]).stdout
    fields = dict(line.split(": ", 1) for line in description.splitlines() if ": " in line)
    return Rust(folder, fields.get("release", ""), description)
