"""The hand-over of an artifact: from the builder, where upstream's code ran, to the signer, which trusts none of it.

    builder: pack -> <builder_root>/handover/<name>.tar -> signer: a copy in the inbox (or that file) -> take

Rules:

1. The file is a plain tar (ustar): ``manifest.json``, ``mistralrs`` (the binary), and where upstream has them
   ``LICENSE`` and ``chat_templates/``. The same artifact gives the same bytes.
2. ``take`` reads a regular file through no link, and from it only regular files whose names, sizes and number fit
   ``LIMITS`` and the names above; anything else is an error. It writes into a folder of the signer's own.
3. The manifest must be of the commit and flavour that the signer asked for. The signer computes the binary's digest;
   the binary must be an ELF program for x86-64.
4. A hand-over is transport: what it leaves on the builder is deleted when it is old.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..base.companions import (
    LARGEST_BINARY,
    LARGEST_COMPANION,
    LICENCE,
    MIB,
    MOST_TEMPLATES,
    TEMPLATE_NAME,
    TEMPLATES,
)
from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Artifact, Flavour, Source

MANIFEST, BINARY, UNITS = "manifest.json", "mistralrs", "units.json"
LIMITS = {MANIFEST: MIB, BINARY: LARGEST_BINARY, LICENCE: LARGEST_COMPANION, UNITS: 16 * MIB}
LARGEST = sum(LIMITS.values()) + MOST_TEMPLATES * LARGEST_COMPANION + 4 * MIB
"""Bytes of the whole file; the last ones are for headers and padding."""

NAME = re.compile(r"[a-z0-9][A-Za-z0-9._+~^-]{0,250}")
"""The name of a hand-over, which the signer chooses."""

_BLOCK = 512
_ELF = (b"\x7fELF\x02\x01\x01", (2, 3), 62)  # 64 bits, little-endian; ET_EXEC or ET_DYN; EM_X86_64
_AGAIN = "Nothing was packaged or signed. Find out what ran on that builder; delete the artifact there and build again"


@dataclass(frozen=True)
class Handed:
    """What a builder handed over, in the signer's ``folder``; ``files`` maps each for the package to its SHA-256."""

    builder: str
    folder: Path
    artifact: Artifact
    files: dict[str, str]

    @property
    def binary(self) -> Path:
        return self.folder / BINARY


# ---------------------------------------------------------------- the builder


def place(root: Path, name: str) -> Path:
    """Where a builder lays a hand-over."""
    if not NAME.fullmatch(name):
        raise PipelineError(f"a hand-over cannot be named {name!r}", "package.yml", "Check package_release and dist")
    return root / "handover" / f"{name}.tar"


@contextmanager
def in_use(root: Path, flavour: str) -> Iterator[None]:
    """While an artifact of the flavour is read, pruning removes none."""
    with held(root / "handover" / f"{flavour}.lock"):
        yield


def pack(artifact: Artifact, root: Path, name: str, units: str = "") -> Path:
    """Lay the artifact ready below the builder's ``root``. ``units`` is the text of ``UNITS``, or ""."""
    target, folder = place(root, name), Path(artifact.folder)
    with in_use(root, artifact.flavour.name):
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
                manifest = json.dumps(artifact.to_dict(), sort_keys=True).encode()
                _add(archive, MANIFEST, len(manifest), io.BytesIO(manifest))
                if units:
                    _add(archive, UNITS, len(units.encode()), io.BytesIO(units.encode()))
                for member, path in _files(folder, artifact.binary):
                    with path.open("rb") as stream:
                        _add(archive, member, os.fstat(stream.fileno()).st_size, stream)
            # The account that Ansible logs in as reads it.
            partial.chmod(0o644)
            partial.replace(target)
        except (OSError, ValueError) as error:
            raise PipelineError(
                f"the artifact cannot be handed over: {error}", str(folder), "Free space, or build again"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return target


def _files(folder: Path, binary: str) -> list[tuple[str, Path]]:
    """The members and their files, in a fixed order."""
    found = [(BINARY, folder / binary)]
    if (folder / LICENCE).is_file():
        found.append((LICENCE, folder / LICENCE))
    templates = sorted(path for path in (folder / TEMPLATES).rglob("*") if path.is_file())
    return found + [(str(path.relative_to(folder)), path) for path in templates]


def _add(archive: tarfile.TarFile, name: str, size: int, stream: IO[bytes]) -> None:
    """Add a member without owner, time or link."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    archive.addfile(info, stream)


# ---------------------------------------------------------------- the signer


def take(path: Path, folder: Path, builder: str, source: Source, flavour: Flavour) -> Handed:
    """Take a hand-over of ``builder`` into the new ``folder``. PipelineError: it does not fit."""
    folder.mkdir(parents=True)
    try:
        with _opened(path, builder) as stream:
            files = dict(_members(stream, folder))
        data = json.loads((folder / MANIFEST).read_bytes()) if MANIFEST in files else None
        if not isinstance(data, dict):
            raise PipelineError("it has no manifest")
        artifact = Artifact.from_dict(data)
        _require(artifact, files, folder, source, flavour)
    except (PipelineError, OSError, ValueError, TypeError, RecursionError, tarfile.TarError) as error:
        what = error.what if isinstance(error, PipelineError) else str(error)
        raise PipelineError(
            f"what {builder} handed over for {flavour.name} is refused: {what}", str(path), _AGAIN
        ) from error
    return Handed(builder, folder, artifact, {name: files[name] for name in files if name not in (MANIFEST, UNITS)})


def _require(artifact: Artifact, files: dict[str, str], folder: Path, source: Source, flavour: Flavour) -> None:
    """PipelineError unless the manifest is of this source and flavour, and the binary is the one that it names."""
    for what, found, wanted in (("source", artifact.source, source), ("flavour", artifact.flavour, flavour)):
        if found != wanted:
            ours, theirs = wanted.to_dict(), found.to_dict()
            wrong = [f"{key} {theirs[key]!r:.80}, not {ours[key]!r:.80}" for key in ours if ours[key] != theirs[key]]
            raise PipelineError(f"its {what} has {', '.join(wrong)}")
    if files.get(BINARY) != artifact.sha256:
        raise PipelineError(
            f"the binary is not the one that was built and audited: its SHA-256 is {files.get(BINARY, 'none')}, the "
            f"manifest has {artifact.sha256}"
        )
    _require_program(folder / BINARY)


def _require_program(path: Path) -> None:
    """PipelineError unless the file starts as an ELF program for x86-64 does (elf(5))."""
    with path.open("rb") as stream:
        head = stream.read(64)
    start, kinds, machine = _ELF
    kind, found = int.from_bytes(head[16:18], "little"), int.from_bytes(head[18:20], "little")
    if len(head) < 64 or not head.startswith(start) or kind not in kinds or found != machine:
        raise PipelineError("the binary is no ELF program for x86-64")


@contextmanager
def _opened(path: Path, builder: str) -> Iterator[IO[bytes]]:
    """A regular file of bounded size, opened through no link; a fifo does not block."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise PipelineError(f"{builder} left no file") from error
    with os.fdopen(number, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PipelineError("it is no regular file")
        if status.st_size > LARGEST:
            raise PipelineError(f"it has {status.st_size:,} bytes, more than {LARGEST:,}")
        yield stream


def _members(stream: IO[bytes], folder: Path) -> Iterator[tuple[str, str]]:
    """Write each member below ``folder``; its name and SHA-256."""
    seen: set[str] = set()
    while (block := stream.read(_BLOCK)) and block.strip(b"\0"):
        # The header of one member. Extensions (long names, pax, sparse) are types that are refused.
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        if info.type != tarfile.REGTYPE:
            raise PipelineError(f"{info.name[:80]!r} is no regular file")
        if not (info.name in LIMITS or TEMPLATE_NAME.fullmatch(info.name)):
            raise PipelineError(f"it has a file {info.name[:80]!r}")
        if info.name in seen:
            raise PipelineError(f"it has {info.name} twice")
        if not 0 <= info.size <= (limit := LIMITS.get(info.name, LARGEST_COMPANION)):
            raise PipelineError(f"{info.name} has {info.size:,} bytes, more than {limit:,}")
        seen.add(info.name)
        if len(seen) > MOST_TEMPLATES + len(LIMITS):
            raise PipelineError(f"it has more than {MOST_TEMPLATES} templates")
        yield info.name, _written(stream, folder / info.name, info.size)


def _written(stream: IO[bytes], path: Path, size: int) -> str:
    """Copy ``size`` bytes and the padding after them; the SHA-256 of what was written."""
    digest, left = hashlib.sha256(), size
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        while left:
            data = stream.read(min(left, MIB))
            if not data:
                raise PipelineError(f"it ends within {path.name}")
            digest.update(data)
            left -= file.write(data)
    stream.read(-size % _BLOCK)
    return digest.hexdigest()


def templates_archive(folder: Path, target: Path) -> None:
    """The templates as one tar, as rpmbuild takes them."""
    with tarfile.open(target, "w") as archive:
        archive.add(folder / TEMPLATES, arcname=TEMPLATES)
