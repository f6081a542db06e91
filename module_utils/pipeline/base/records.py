"""The records that pass between the steps.

    upstream --resolve--> Source
    Source + Flavour --build--> Artifact --package--> Package --sign--> Package
    Packages --stage--> Transaction --publish--> Snapshot

Rules:

1. A record is frozen; a step takes one and returns the next.
2. The same JSON passes between playbook tasks and is the manifest on disk: ``to_dict`` and ``from_dict`` are inverse,
   and an unknown or missing key is an error, never ignored.
3. Times are whole seconds since 1970 UTC, sizes are bytes, digests are lower-case SHA-256 hex.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import PipelineError


@dataclass(frozen=True)
class Record:
    """The base of all records: to and from JSON, checked by the types of its fields."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> typing.Self:
        """The record that ``data`` describes; PipelineError names unknown, missing and wrong fields."""
        hints = typing.get_type_hints(cls)
        unknown = sorted(set(data) - set(hints))
        required = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
        missing = sorted(required - set(data))
        if unknown or missing:
            wrong = [f"lacks {', '.join(missing)}"] if missing else []
            wrong += [f"has the unknown keys {', '.join(unknown)}"] if unknown else []
            raise PipelineError(
                f"{cls.__name__} record {' and '.join(wrong)}",
                where=json.dumps(dict(data), default=str)[:200],
                remedy="Delete the manifest if another version of this project wrote it; it comes back",
            )
        return cls(**{key: _typed(hints[key], value, f"{cls.__name__}.{key}") for key, value in data.items()})

    def digest(self) -> str:
        """SHA-256 of the record's canonical JSON."""
        return digest_of(self.to_dict())

    def write(self, path: Path) -> None:
        """Write the record as JSON to ``path``, whole or not at all."""
        text = json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n"
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(text)
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> typing.Self:
        """The record that ``write`` wrote to ``path``."""
        try:
            return cls.from_dict(json.loads(path.read_text()))
        except ValueError as error:
            raise PipelineError(f"not JSON: {error}", str(path), "Delete it; it comes back") from error


def _typed(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _typed(next(a for a in arguments if a is not type(None)), value, name)
    if origin is tuple:
        return tuple(_typed(arguments[0], item, name) for item in value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return value if isinstance(value, hint) else hint.from_dict(value)
    # Ansible passes tagged subclasses of str and int: make them plain.
    if hint in (str, int, float) and isinstance(value, hint) and not isinstance(value, bool):
        return hint(value)
    if hint is bool and isinstance(value, bool):
        return value
    raise PipelineError(f"{name} must be {getattr(hint, '__name__', hint)}, not {value!r}")


def digest_of(value: object) -> str:
    """SHA-256 of a value's canonical JSON: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Flavour(Record):
    """A GPU generation, one row of inventory/group_vars/all/flavours.yml.

    ``compute_capability`` is NVIDIA's "8.9"; ``cuda`` the toolkit's version "13.0"; both are empty
    for the flavour without a GPU. ``driver`` is the lowest driver's major version (CUDA 13.0
    PTX needs r580). ``published``: ``-e flavour=all`` includes it.
    """

    name: str
    summary: str
    compute_capability: str = ""
    cuda: str = ""
    features: tuple[str, ...] = ()
    driver: int = 0
    published: bool = True

    @property
    def compute_cap(self) -> str:
        """The value of CUDA_COMPUTE_CAP: "8.9" gives "89"."""
        return self.compute_capability.replace(".", "")

    @property
    def arch(self) -> str:
        """The architecture in PTX and SASS. Upstream adds ``a`` from 90 on: "12.0" gives "sm_120a"."""
        if not self.compute_cap:
            return ""
        return f"sm_{self.compute_cap}{'a' if int(self.compute_cap) >= 90 else ''}"

    @property
    def package_name(self) -> str:
        return f"mistralrs-{self.name}"


@dataclass(frozen=True)
class Source(Record):
    """One commit of upstream. ``kind`` is "tag", "branch" or "commit", ``ref`` the name that led to it.

    ``version`` is upstream's ("0.8.4-rc4"), ``rpm_version`` the package's ("0.8.4~rc4").
    """

    url: str
    ref: str
    kind: str
    commit: str
    commit_time: int
    version: str
    rpm_version: str


@dataclass(frozen=True)
class CacheCount(Record):
    """Cache hits and misses of one kind of compile ("Rust", "C/C++", "PTX", …: sccache's names)."""

    kind: str
    hits: int
    misses: int


@dataclass(frozen=True)
class Parallel(Record):
    """``jobs`` of cargo, ``nvcc`` processes beside them (0 without CUDA), and their peak ``memory`` in bytes."""

    jobs: int
    nvcc: int
    memory: int


@dataclass(frozen=True)
class Artifact(Record):
    """The binary of a build, and how it was built.

    ``inputs`` is the digest of everything that decides its bytes. ``folder`` holds the binary under ``binary``, the
    licence, the chat templates and this record as manifest.json. ``crate_version`` is the version that the binary
    prints; it differs from some tags. ``rustflags`` are those in effect. ``locked`` is False where the build fell back
    to cargo without --locked. ``seconds`` is cargo's time; ``compiled`` and ``fresh`` count its units, ``cache`` the
    requests to the compile cache. ``peak_memory`` and ``planned_memory`` are in bytes. ``report`` is the path of the
    report's page. ``incremental``: not as
    releases are compiled, see ``inputs.Build``.
    """

    source: Source
    flavour: Flavour
    inputs: str
    folder: str
    binary: str
    crate_version: str
    sha256: str
    size: int
    rustc: str
    cuda: str
    rustflags: str
    locked: bool
    seconds: float
    compiled: int
    fresh: int
    log: str
    cache: tuple[CacheCount, ...] = ()
    peak_memory: int = 0
    planned_memory: int = 0
    report: str = ""
    incremental: bool = False

    @property
    def cache_hits(self) -> int:
        return sum(count.hits for count in self.cache)

    @property
    def cache_misses(self) -> int:
        return sum(count.misses for count in self.cache)


COMMIT_CAPABILITY = "mistralrs(commit)"
"""What a package Provides, with upstream's commit as its version."""


def nevra(name: str, version: str, release: str, arch: str) -> str:
    """A package's name-version-release.arch; its file name is this with ".rpm"."""
    return f"{name}-{version}-{release}.{arch}"


@dataclass(frozen=True)
class Package(Record):
    """An RPM: one that a step made (``path`` is a file), or a published one (``path`` is its file name).

    ``commit`` is upstream's commit, from the package's own ``Provides: mistralrs(commit)``; empty for a package
    that was not built from upstream.
    """

    name: str
    version: str
    release: str
    arch: str
    commit: str
    path: str
    sha256: str
    size: int

    @property
    def nevra(self) -> str:
        return nevra(self.name, self.version, self.release, self.arch)

    @property
    def filename(self) -> str:
        return f"{self.nevra}.rpm"


@dataclass(frozen=True)
class Snapshot(Record):
    """One immutable, signed state of a repository; snapshot.json holds it.

    ``id`` is "<UTC time>-<8 hex of the metadata's digest>", ``parent`` the snapshot it was composed on (empty for the
    first); ``added`` and ``removed`` are package file names. ``yanked`` are the names of all packages that were ever
    yanked from this repository: none of them is published again.
    """

    id: str
    channel: str
    parent: str
    time: int
    reason: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    yanked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transaction(Record):
    """An upload: a folder with ``snapshot/`` (the complete snapshot) and ``Packages/`` (new packages only).

    ``repomd`` is the SHA-256 of its repomd.xml.
    """

    id: str
    snapshot: Snapshot
    folder: str
    repomd: str = ""
