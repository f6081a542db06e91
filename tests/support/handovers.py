"""Artifacts as builds leave them, and what the signer takes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.base.records import Artifact, Flavour, Package, Source, sha256_file
from pipeline.package.handover import BINARY, Handed, pack, take
from pipeline.package.rpm import Packaging, alone

COMMIT = "9e92262a" * 5
SOURCE = Source("https://example.org/mistral.rs.git", "v0.9.2", "tag", COMMIT, 1_787_000_000, "0.9.2", "0.9.2")
ADA = Flavour("ada", "RTX 40 and L40", "8.9", "13.0", ("cuda",), 580)
NAME = "ada-0.9.2-1.fc43"


def elf(text: bytes = b"binary") -> bytes:
    """The header of an ELF program for x86-64, and ``text``."""
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x03\0\x3e\0".ljust(48, b"\0") + text


def make_artifact(folder: Path, program: bytes | None = None, **change: Any) -> Artifact:
    """An artifact in ``folder`` with a licence and a template; ``change`` replaces fields of its record."""
    (folder / "chat_templates").mkdir(parents=True, exist_ok=True)
    binary = folder / "mistralrs"
    binary.write_bytes(elf() if program is None else program)
    (folder / "LICENSE").write_text("MIT License\n")
    (folder / "chat_templates/chatml.json").write_text('{"chat_template": "x"}\n')
    record = {
        "source": SOURCE, "flavour": ADA, "inputs": "0" * 64, "folder": str(folder), "binary": BINARY,
        "crate_version": "0.9.2", "sha256": sha256_file(binary), "size": binary.stat().st_size, "rustc": "", "cuda": "",
        "rustflags": "", "locked": True, "seconds": 1.0, "compiled": 1, "fresh": 0, "log": "",
    }  # fmt: skip
    return Artifact(**record | change)


def hand_over(artifact: Artifact, folder: Path, builder: str = "forge") -> Handed:
    """Pack the artifact below ``folder`` and take it there."""
    file = pack(artifact, folder / "handed", "a-1-1")
    return take(file, folder / "taken" / artifact.flavour.name, builder, artifact.source, artifact.flavour)


def build(packaging: Packaging) -> Package:
    """Run rpmbuild as the module does."""
    with alone(packaging.root / "rpmbuild" / packaging.handed.artifact.flavour.name) as topdir:
        return packaging.build(topdir)
