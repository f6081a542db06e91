"""Reading a channel: what is published, told by its signed metadata and by nothing else.

Rules:

1. A channel is a folder or an http(s) URL of the same tree (design: "The channel on disk and on the wire").
2. The mirrorlist names the head. No mirrorlist means an empty channel; every other failure is an error,
   because a channel that is taken for empty is built and published all over again.
3. repomd.xml counts if the trusted key signed it and the snapshot's id ends in its digest; any other
   metadata file if repomd.xml gives its digest. Nothing is looked into before that.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import createrepo_c

from .errors import PipelineError
from .metadata import TYPES, Entry, parse_entries
from .records import Package, Record
from .trust import verify_detached

SNAPSHOT_ID = r"\d{8}T\d{6}Z-[0-9a-f]{8}"
COMMIT_CAPABILITY = "mistralrs(commit)"
_REPO = "{http://linux.duke.edu/metadata/repo}"


@dataclass(frozen=True)
class Published(Record):
    """What a snapshot of a channel holds; of an empty channel ``head`` is "" and ``revision`` 0."""

    head: str
    revision: int
    packages: tuple[Package, ...]


@dataclass(frozen=True)
class Index:
    """A verified repomd.xml: its revision, and place and digest of each metadata file by type."""

    revision: int
    files: dict[str, tuple[str, str]]


class Channel:
    """A channel at ``location``, trusted by the armored public key in the file ``key``."""

    def __init__(self, location: str, key: Path) -> None:
        self.location = location.rstrip("/")
        self.key = key

    def head(self) -> str:
        """The id of the published snapshot, "" for an empty channel."""
        text = self._get("mirrorlist")
        if text is None:
            return ""
        named = re.fullmatch(rf"\S+/snapshots/({SNAPSHOT_ID})/", text.decode(errors="replace").strip())
        if named is None:
            raise PipelineError(
                "the mirrorlist names no snapshot",
                f"{self.location}/mirrorlist",
                "Check the channel's URL; the publisher agent writes this file, the next commit restores it",
            )
        return named[1]

    def read(self, snapshot: str | None = None) -> Published:
        """The packages of a snapshot, by default of the head."""
        head = self.head() if snapshot is None else snapshot
        if not head:
            return Published("", 0, ())
        index = self._index(head)
        return Published(head, index.revision, tuple(parse_packages(self._metadata(head, index, "primary"))))

    def entries(self, snapshot: str) -> tuple[int, list[Entry]]:
        """Revision and metadata of a snapshot, to compose the next one from; (0, []) for ""."""
        if not snapshot:
            return 0, []
        index = self._index(snapshot)
        texts = {kind: self._metadata(snapshot, index, kind).decode() for kind in TYPES}
        return index.revision, parse_entries(texts)

    def _index(self, snapshot: str) -> Index:
        where = f"snapshots/{snapshot}/repodata/repomd.xml"
        repomd = self._require(where)
        verify_detached(repomd, self._require(f"{where}.asc"), self.key, f"{self.location}/{where}")
        if not snapshot.endswith(hashlib.sha256(repomd).hexdigest()[:8]):
            raise self._unfit(where, "is signed, but it is not that of this snapshot")
        return parse_repomd(repomd)

    def _metadata(self, snapshot: str, index: Index, kind: str) -> bytes:
        href, sha256 = index.files[kind]
        where = f"snapshots/{snapshot}/{href}"
        packed = self._require(where)
        if hashlib.sha256(packed).hexdigest() != sha256:
            raise self._unfit(where, "does not have the digest that the signed repomd.xml gives")
        return zlib.decompress(packed, wbits=31)

    def _require(self, relative: str) -> bytes:
        data = self._get(relative)
        if data is None:
            raise self._unfit(relative, "is missing")
        return data

    def _unfit(self, relative: str, what: str) -> PipelineError:
        return PipelineError(
            f"{relative.rpartition('/')[2]} {what}",
            f"{self.location}/{relative}",
            "Run again in a minute; if it stays so, somebody changed the tree by hand",
        )

    def _get(self, relative: str) -> bytes | None:
        """A file of the channel; None where there is none."""
        where = f"{self.location}/{relative}"
        if not re.match(r"https?://", self.location):
            try:
                return Path(where).read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise PipelineError(
                    f"the channel cannot be read: {error.strerror}",
                    where,
                    "Check the folder's owner and mode",
                ) from error
        import requests  # noqa: PLC0415  a channel in a folder need not pay for it

        try:
            answer = requests.get(where, timeout=60)
            if answer.status_code == requests.codes.not_found:
                return None
            answer.raise_for_status()
        except requests.RequestException as error:
            raise PipelineError(
                f"the channel cannot be read: {error}",
                where,
                "Check channel_url, the network and that the repository host serves, then run again",
            ) from error
        return answer.content


def parse_repomd(text: bytes) -> Index:
    """What a verified repomd.xml says."""
    root = ET.fromstring(text)  # noqa: S314  its signature was checked
    files: dict[str, tuple[str, str]] = {}
    for data in root.iter(f"{_REPO}data"):
        location, checksum = data.find(f"{_REPO}location"), data.find(f"{_REPO}checksum")
        if location is not None and checksum is not None:
            files[data.get("type", "")] = (location.get("href", ""), checksum.text or "")
    return Index(int(root.findtext(f"{_REPO}revision", "0")), files)


def parse_packages(primary: bytes) -> list[Package]:
    """The packages of a primary.xml, in its order."""
    packages: list[Package] = []

    def keep(package: createrepo_c.Package) -> None:
        packages.append(
            Package(
                name=package.name,
                version=package.version,
                release=package.release,
                arch=package.arch,
                commit=commit_of(package.provides),
                path=Path(package.location_href).name,
                sha256=package.pkgId,
                size=package.size_package,
            )
        )

    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        file.write(primary)
        file.flush()
        createrepo_c.xml_parse_primary(file.name, pkgcb=keep, do_files=False)
    return packages


def commit_of(provides: Sequence[Sequence[str | None]]) -> str:
    """Upstream's commit among a package's provides (name, flag, epoch, version, ...), or ""."""
    for name, flag, _, version, *_ in provides:
        if name == COMMIT_CAPABILITY and flag == "EQ":
            return version or ""
    return ""
