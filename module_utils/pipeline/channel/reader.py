"""Reading a repository: the published packages, from its signed metadata alone.

Rules:

1. A repository is a folder or an http(s) URL of the same tree: mirrorlist, snapshots/ and the pool Packages/.
2. The mirrorlist names the head. No mirrorlist means an empty repository. Every other failure is an error: a repository
   that is mistaken for an empty one would be built and published again.
3. The signer reads a head with its memory (``heads``): a head that contradicts it is refused.
4. Verification precedes parsing: repomd.xml needs a trusted signature and a digest that ends the snapshot's id; any
   other metadata file the digest that repomd.xml gives; snapshot.json a trusted signature and the snapshot's id.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..base.environment import proxy_of
from ..base.errors import PipelineError
from ..base.records import Package, Record, Snapshot
from ..base.text import SNAPSHOT_ID
from ..sign.trust import MEND, verify_detached
from .heads import NONE, HeadRefused, Memory
from .metadata import TYPES, Identity, listed_identities, packages_txt, read_identities, read_packages, read_pkgids

if TYPE_CHECKING:
    import requests

_REPO = "{http://linux.duke.edu/metadata/repo}"


@dataclass(frozen=True)
class Published(Record):
    """The contents of a snapshot; of an empty repository ``head`` is "" and ``revision`` 0.

    ``yanked`` are all file names that were ever yanked from the repository, those that its head owes included.
    """

    head: str
    revision: int
    packages: tuple[Package, ...]
    yanked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    """A verified repomd.xml: its revision, href and SHA-256 of each metadata file by type, and its own SHA-256."""

    revision: int
    files: dict[str, tuple[str, str]]
    sha256: str = ""


@dataclass(frozen=True)
class State:
    """A verified snapshot, from which the next one is composed: its record, its packages in their order.

    ``owed`` are names that were yanked, and that the record lacks since the operator accepted an older head.
    """

    record: Snapshot
    index: Index
    packages: tuple[Identity, ...]
    owed: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The snapshot's id, "" for an empty repository."""
        return self.record.id

    @property
    def yanked(self) -> tuple[str, ...]:
        """All names that were ever yanked from the repository."""
        return tuple(sorted({*self.record.yanked, *self.owed}))

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """The packages' SHA-256 by file name, in the order of ``packages``."""
        return {package.filename: package.sha256 for package in self.packages}


EMPTY = State(NONE, Index(0, {}), ())


class Repository:
    """One channel for one Fedora release and architecture at ``location``, verified by the file ``trusted_keys``.

    With ``memory``, the signer's, each reading of the head is compared with it.
    """

    def __init__(self, location: str, trusted_keys: Path, memory: Memory | None = None) -> None:
        self.location = location.rstrip("/")
        self.trusted_keys = trusted_keys
        self.memory = memory

    def head(self) -> str:
        """The id of the published snapshot, "" for an empty repository."""
        text = self._get("mirrorlist")
        if text is None:
            return ""
        named = re.fullmatch(rf"\S+/snapshots/({SNAPSHOT_ID})/", text.decode(errors="replace").strip())
        if named is None:
            raise PipelineError(
                "the mirrorlist names no snapshot",
                f"{self.location}/mirrorlist",
                "Check the repository's URL. If the file is damaged, restore it on the repo host: one line, the URL of"
                " the last snapshot in the agent's journal",
            )
        return named[1]

    def read(self, snapshot: str | None = None) -> Published:
        """The contents of a snapshot, by default of the head."""
        state = self._head(self.head) if snapshot is None else self._verified(snapshot)
        packages = read_packages(self.packed(state, "primary")) if state.id else ()
        return Published(state.id, state.index.revision, tuple(packages), state.yanked)

    def state(self, snapshot: str) -> State:
        """A snapshot as the parent of the next one; EMPTY for ""."""
        return self._with_packages(self._verified(snapshot))

    def head_state(self, ask: Callable[[], str] | None = None) -> State:
        """The head as the parent of the next snapshot. ``ask`` returns its id, by default that of the mirrorlist."""
        return self._with_packages(self._head(ask or self.head))

    def staged(self) -> tuple[str, ...]:
        """The snapshots that the signer staged and never published, as far as it remembers."""
        known = self.memory.recall() if self.memory else None
        return known.staged if known else ()

    def left_state(self, ask: Callable[[], str]) -> tuple[State, str]:
        """The head for a rollback, which may be damaged, and the damage ("" for none).

        Nothing is taken from a damaged head but its names in packages.txt, for the list of changes: its time and yanks
        are those that the signer remembers. The error of reading is raised if the signer does not know this head.
        """
        known = self.memory.recall() if self.memory else None
        try:
            return self.head_state(ask), ""
        except HeadRefused:
            raise
        except PipelineError as error:
            head = ask()
            if known is None or known.head != head or not head:
                raise
            record = Snapshot(head, known.channel, "", known.time, "", yanked=known.yanked)
            listed = self._get(f"snapshots/{head}/packages.txt") or b""
            packages = listed_identities(listed.decode(errors="replace"))
            return State(record, Index(known.time, {}), packages, known.owed), f"{error.what} ({error.where})"

    def _head(self, ask: Callable[[], str]) -> State:
        """The verified head without its packages. Every reading of a head passes here."""
        if self.memory is None:
            return self._verified(ask())
        known = self.memory.recall()
        state = self._verified(ask())
        return replace(state, owed=self.memory.compare(known, state.record, state.index.sha256, self._ancestor))

    def _verified(self, snapshot: str) -> State:
        """A snapshot without its packages."""
        if not snapshot:
            return EMPTY
        index = self._index(snapshot)
        return State(self.record(snapshot), index, ())

    def _with_packages(self, state: State) -> State:
        return replace(state, packages=read_identities(self.packed(state, "other"))) if state.id else state

    def _ancestor(self, snapshot: str) -> Snapshot | None:
        """The record of a snapshot, None if there is no such snapshot."""
        there = self._get(f"snapshots/{snapshot}/snapshot.json", 1) is not None
        return self.record(snapshot) if there else None

    def record(self, snapshot: str) -> Snapshot:
        """The signed record of a snapshot."""
        where = f"snapshots/{snapshot}/snapshot.json"
        record = Snapshot.from_dict(json.loads(self._signed(where)))
        if record.id != snapshot:
            raise self._unfit(where, "is signed, but belongs to another snapshot")
        return record

    def packed(self, state: State, kind: str) -> bytes:
        """A metadata file of a snapshot, as gzip; b"" of EMPTY."""
        return self._metadata(state.id, state.index, kind) if state.id else b""

    def findings(self, snapshot: str) -> list[str]:
        """The faults of a snapshot as a client reads it: all of its files, no packages.

        Each finding is a sentence with its place and remedy.
        """
        try:
            state = self.state(snapshot)
            packages = list(read_packages(self.packed(state, "primary"))) if state.id else []
            found = [
                self._unfit(f"snapshots/{snapshot}", f"lists other packages in its {kind} metadata than in other.xml")
                for kind, pkgids in (
                    ("primary", [package.sha256 for package in packages]),
                    ("filelists", read_pkgids("filelists", self.packed(state, "filelists")) if state.id else []),
                )
                if pkgids != [package.sha256 for package in state.packages]
            ]
            found += [
                self._unfit(f"snapshots/{snapshot}", f"has {package.nevra} in a file of another name, {package.path}")
                for package in packages
                if package.path != package.filename
            ]
            if state.id and self.file(where := f"snapshots/{snapshot}/packages.txt") != (
                packages_txt(state.digests).encode()
            ):
                found.append(self._unfit(where, "lists other packages than the signed metadata"))
            if yanked := sorted(set(state.record.yanked) & set(state.digests)):
                found.append(self._unfit(f"snapshots/{snapshot}", f"holds yanked packages: {', '.join(yanked)}"))
        except PipelineError as error:
            found = [error]
        return [str(error) for error in found]

    def has(self, filename: str) -> bool:
        """True if the pool has a file of this name."""
        if not self._remote:
            return Path(self.location, "Packages", filename).is_file()
        return self._ask("HEAD", f"Packages/{filename}") is not None

    def file(self, relative: str, end: int = 0) -> bytes:
        """A file of the repository, not verified, or its first ``end`` bytes."""
        data = self._get(relative, end)
        if data is None:
            raise self._unfit(relative, "is missing")
        return data

    def _index(self, snapshot: str) -> Index:
        where = f"snapshots/{snapshot}/repodata/repomd.xml"
        repomd = self._signed(where)
        if not snapshot.endswith(hashlib.sha256(repomd).hexdigest()[:8]):
            raise self._unfit(where, "is signed, but belongs to another snapshot")
        index = parse_repomd(repomd)
        if missing := sorted(set(TYPES) - set(index.files)):
            raise self._unfit(where, f"is signed, but lists no {', '.join(missing)} metadata")
        return index

    def _metadata(self, snapshot: str, index: Index, kind: str) -> bytes:
        href, sha256 = index.files[kind]
        where = f"snapshots/{snapshot}/{href}"
        packed = self.file(where)
        if hashlib.sha256(packed).hexdigest() != sha256:
            raise self._unfit(where, "does not have the digest that the signed repomd.xml gives")
        return packed

    def _signed(self, relative: str) -> bytes:
        """A file whose detached signature is valid."""
        data = self.file(relative)
        verify_detached(data, self.file(f"{relative}.asc"), self.trusted_keys, f"{self.location}/{relative}")
        return data

    def _unfit(self, relative: str, what: str) -> PipelineError:
        return PipelineError(
            f"{relative.rpartition('/')[2]} {what}",
            f"{self.location}/{relative}",
            f"Run again in a minute. If it fails again, the snapshot is damaged. {MEND}",
        )

    def _get(self, relative: str, end: int = 0) -> bytes | None:
        """A file of the repository, or its first ``end`` bytes; None if it does not exist."""
        if self._remote:
            return self._ask("GET", relative, end)
        where = f"{self.location}/{relative}"
        try:
            with Path(where).open("rb") as file:
                return file.read(end or -1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PipelineError(
                f"the repository cannot be read: {error.strerror}",
                where,
                "Check the folder's owner and mode",
            ) from error

    @property
    def _remote(self) -> bool:
        return re.match(r"https?://", self.location) is not None

    @functools.cached_property
    def _session(self) -> requests.Session:
        import requests  # noqa: PLC0415  slow to import, and not needed for a folder

        return requests.Session()

    @functools.cached_property
    def _proxies(self) -> dict[str, str]:
        """requests' option: without it the library would read the environment in its own way."""
        return {urlsplit(self.location).scheme: proxy_of(self.location)}

    def _ask(self, method: str, relative: str, end: int = 0) -> bytes | None:
        """The body of the server's answer, or its first ``end`` bytes; None for status 404."""
        import requests  # noqa: PLC0415

        where = f"{self.location}/{relative}"
        part = {"Range": f"bytes=0-{end - 1}"} if end else {}
        try:
            with self._session.request(
                method, where, timeout=60, stream=bool(end), headers=part, proxies=self._proxies
            ) as answer:
                if answer.status_code == requests.codes.not_found:
                    return None
                answer.raise_for_status()
                # A server without Range support starts to send the whole file.
                return next(answer.iter_content(end), b"") if end else answer.content
        except requests.RequestException as error:
            raise PipelineError(
                f"the repository cannot be read: {error}",
                where,
                "Check channel_url, the network and the repo host's web server, then run again",
            ) from error


def parse_repomd(text: bytes) -> Index:
    """Parse a verified repomd.xml."""
    root = ET.fromstring(text)  # noqa: S314  its signature was checked
    files: dict[str, tuple[str, str]] = {}
    for data in root.iter(f"{_REPO}data"):
        location, checksum = data.find(f"{_REPO}location"), data.find(f"{_REPO}checksum")
        if location is not None and checksum is not None:
            files[data.get("type", "")] = (location.get("href", ""), checksum.text or "")
    return Index(int(root.findtext(f"{_REPO}revision", "0")), files, hashlib.sha256(text).hexdigest())
