"""A repository's metadata: primary.xml, filelists.xml and other.xml, composed without reading published packages.

Rules:

1. A package's records stay the XML text that createrepo_c wrote. A new snapshot joins the texts of an older one with
   those of the new packages; the text of a published package never changes.
2. The packages and the revision alone decide the output: texts in the order of file names, a package's time from its
   header, the revision as timestamp, a gzip header without name and time.
3. Input is verified (``reader``), so its shape is taken for granted: a head with the number of packages, one text for
   each, a foot; the same packages in the same order in all three files. Any other shape is an error.
4. Texts are processed in blocks: memory holds one block, whatever the number of packages.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import createrepo_c
from zlib_ng import zlib_ng

from ..base.errors import PipelineError
from ..base.records import COMMIT_CAPABILITY, Package, nevra

TYPES = ("primary", "filelists", "other")

_FRAMES = {
    "primary": (
        "metadata",
        'xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm"',
    ),
    "filelists": ("filelists", 'xmlns="http://linux.duke.edu/metadata/filelists"'),
    "other": ("otherdata", 'xmlns="http://linux.duke.edu/metadata/other"'),
}
_COUNT = re.compile(rb' packages="(\d+)">\n')
_END = b"</package>\n"
_SLICE = 8192  # bytes of gzip at a time; the text is about 40 times as long
# other.xml is the shortest file that identifies packages.
_IDENTITY = re.compile(
    r'<package pkgid="([0-9a-f]{64})" name="([^"]+)" arch="([^"]+)">\n'
    r'  <version epoch="\d+" ver="([^"]+)" rel="([^"]+)"/>\n'
)
_PKGID = re.compile(rb'<package pkgid="([0-9a-f]{64})"')
_PACKAGE = re.compile(
    r"<name>([^<]+)</name>\n  <arch>([^<]+)</arch>\n"
    r'  <version epoch="\d+" ver="([^"]+)" rel="([^"]+)"/>\n'
    r'  <checksum type="sha256" pkgid="YES">([0-9a-f]{64})</checksum>\n'
    r'.*?\n  <size package="(\d+)"[^>]*/>\n  <location href="Packages/([^"/]+)"/>\n',
    re.DOTALL,
)
_COMMIT = re.compile(rf'<rpm:entry name="{re.escape(COMMIT_CAPABILITY)}" flags="EQ" [^>]*?ver="([^"]*)"')


class Identity(NamedTuple):
    """A package of a snapshot: its digest and the parts of its file name."""

    sha256: str
    name: str
    arch: str
    version: str
    release: str

    @property
    def nevra(self) -> str:
        return nevra(self.name, self.version, self.release, self.arch)

    @property
    def filename(self) -> str:
        return f"{self.nevra}.rpm"


@dataclass(frozen=True)
class Entry:
    """A new package: its file name, its SHA-256 and its text in each of the three files."""

    filename: str
    sha256: str
    texts: Mapping[str, bytes]


def entry_of(package: Package) -> Entry:
    """The entry of a new RPM, from its header and the digest and size of its record.

    createrepo_c would read the whole file for its digest; it gets only the part before the payload.
    """
    path = Path(package.path)
    try:
        if path.stat().st_size != package.size:
            raise PipelineError(
                "the package was changed after it was signed", package.path, "Delete its folder and sign it again"
            )
        with tempfile.NamedTemporaryFile(suffix=".rpm") as file:
            file.write(read_header(path))
            file.flush()
            found = createrepo_c.package_from_rpm(file.name, location_href=f"Packages/{package.filename}")
    except (createrepo_c.CreaterepoCError, OSError, ValueError, struct.error) as error:
        raise PipelineError(f"not a readable RPM package: {error}", package.path, "Sign it again") from error
    found.pkgId, found.size_package, found.time_file = package.sha256, package.size, found.time_build
    texts = (text.encode() for text in createrepo_c.xml_dump(found))
    return Entry(package.filename, package.sha256, dict(zip(TYPES, texts, strict=True)))


def read_header(path: Path) -> bytes:
    """The part of an RPM before its payload: lead, signatures (padded to 8 bytes) and header."""
    with path.open("rb") as file:
        data = file.read(96)
        for padding in (8, 1):
            intro = file.read(16)
            if not intro.startswith(b"\x8e\xad\xe8\x01"):
                raise ValueError("it has no RPM header")
            entries, size = struct.unpack(">8x2I", intro)
            size += 16 * entries
            data += intro + file.read(size + -size % padding)
    return data


# Reading


def read_identities(packed: bytes) -> tuple[Identity, ...]:
    """The packages of a snapshot in their order, from its other.xml.gz."""
    found: list[Identity] = []
    for block, count in texts("other", packed):
        identities = [Identity(*match) for match in _IDENTITY.findall(block.decode())]
        if len(identities) != count:
            raise _unfit("other", "it has a package without a name, a version or a digest")
        found += identities
    return tuple(found)


def read_packages(packed: bytes) -> Iterator[Package]:
    """The packages of a snapshot in their order, from its primary.xml.gz."""
    for block, _ in texts("primary", packed):
        for text in block.split(_END)[:-1]:
            yield _package(text.decode())


def read_pkgids(kind: str, packed: bytes) -> list[str]:
    """The packages' digests in their order, from filelists.xml.gz or other.xml.gz."""
    return [pkgid.decode() for block, _ in texts(kind, packed) for pkgid in _PKGID.findall(block)]


def _package(text: str) -> Package:
    found, commit = _PACKAGE.search(text), _COMMIT.search(text)
    if found is None:
        raise _unfit("primary", f"this text describes no package: {text[:80]!r}")
    name, arch, version, release, sha256, size, filename = found.groups()
    return Package(name, version, release, arch, commit[1] if commit else "", filename, sha256, int(size))


def texts(kind: str, packed: bytes) -> Iterator[tuple[bytes, int]]:
    """The texts of a gzip file of metadata, in blocks of whole packages, each with its number of packages."""
    wanted: int | None = None
    found, rest = 0, b""
    for raw in _inflate(kind, packed):
        rest += raw
        if wanted is None:
            if not (count := _COUNT.search(rest)):
                continue
            wanted = int(count[1])
            if not rest.startswith(head(kind, wanted)):
                raise _unfit(kind, f"it starts with {rest[:80]!r}")
            rest = rest[count.end() :]
        end = rest.rfind(_END) + len(_END)
        if end >= len(_END):
            block, rest = rest[:end], rest[end:]
            found += (count_ := block.count(_END))
            yield block, count_
    if rest != foot(kind) or found != wanted:
        raise _unfit(kind, f"it has {found} packages instead of {wanted}, or text after them")


def _inflate(kind: str, packed: bytes) -> Iterator[bytes]:
    inflate = zlib_ng.decompressobj(wbits=31)
    try:
        for start in range(0, len(packed), _SLICE):
            yield inflate.decompress(packed[start : start + _SLICE])
    except zlib_ng.error as error:  # type: ignore[misc]  # its stub declares a value
        raise _unfit(kind, str(error)) from error
    if not inflate.eof or inflate.unused_data:
        raise _unfit(kind, "it is not one complete gzip file")


def _unfit(kind: str, what: str) -> PipelineError:
    return PipelineError(
        f"the snapshot's {kind} metadata has another form than this project writes: {what}",
        remedy="Its signature is valid: find out who else publishes here with this key",
    )


def head(kind: str, count: int) -> bytes:
    """The text before the packages, as createrepo_c writes it."""
    name, spaces = _FRAMES[kind]
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} {spaces} packages="{count}">\n'.encode()


def foot(kind: str) -> bytes:
    """The text after the packages."""
    return f"</{_FRAMES[kind][0]}>".encode()


# Composing


@dataclass(frozen=True)
class Edit:
    """At one position of an older snapshot: the entries to insert before the package, and if it is dropped."""

    insert: tuple[Entry, ...]
    drop: bool


def edits_of(old: Sequence[Identity], drop: AbstractSet[str], new: Iterable[Entry]) -> dict[int, Edit]:
    """The edits, by position, that drop the file names ``drop`` and insert each new entry in the order of names.

    The position after the last package is ``len(old)``.
    """
    names = [identity.filename for identity in old]
    if names != sorted(set(names)):
        raise _unfit("other", "its packages are not in the order of their file names")
    inserts: dict[int, list[Entry]] = {}
    for entry in sorted(new, key=lambda entry: entry.filename):
        inserts.setdefault(bisect_left(names, entry.filename), []).append(entry)
    drops = {place for place, name in enumerate(names) if name in drop}
    return {place: Edit(tuple(inserts.get(place, ())), place in drops) for place in sorted(drops | set(inserts))}


def splice(kind: str, packed: bytes, old: Sequence[Identity], edits: Mapping[int, Edit]) -> Iterator[bytes]:
    """The text of a new metadata file: that of an older one with ``edits``, in blocks."""
    changes = [len(edit.insert) - edit.drop for edit in edits.values()]
    yield head(kind, len(old) + sum(changes))
    places, place = sorted(edits), 0
    for block, count in texts(kind, packed) if packed else ():
        here = places[bisect_left(places, place) : bisect_left(places, place + count)]
        if here:
            pieces = [text + _END for text in block.split(_END)[:-1]]
            for at in here:
                if old[at].sha256.encode() not in pieces[at - place]:
                    raise _unfit(kind, f"{old[at].filename} is not at the position that it has in other.xml")
                kept = b"" if edits[at].drop else pieces[at - place]
                pieces[at - place] = b"".join(entry.texts[kind] for entry in edits[at].insert) + kept
            block = b"".join(pieces)  # noqa: PLW2901  the same block, edited
        yield block
        place += count
    if place != len(old):
        raise _unfit(kind, f"it has {place} packages, other.xml has {len(old)}")
    if place in edits:
        yield b"".join(entry.texts[kind] for entry in edits[place].insert)
    yield foot(kind)


def write_repodata(files: Mapping[str, Iterable[bytes]], folder: Path, revision: int) -> bytes:
    """Write the metadata ``files`` (text in blocks, by type) into the new ``folder``; the bytes of repomd.xml."""
    folder.mkdir(parents=True)
    repomd = createrepo_c.Repomd()
    repomd.set_revision(str(revision))
    for kind in TYPES:
        record = write_gzip(files[kind], folder / f"{kind}.xml.gz")
        record.type, record.timestamp = kind, revision
        repomd.set_record(record)
    text: bytes = repomd.xml_dump().encode()
    (folder / "repomd.xml").write_bytes(text)
    return text


def write_gzip(blocks: Iterable[bytes], path: Path) -> createrepo_c.RepomdRecord:
    """Write ``blocks`` as the gzip file <digest>-<name> beside ``path``; its record for repomd.xml."""
    text_digest, digest = hashlib.sha256(), hashlib.sha256()
    text_size = size = 0
    deflate = zlib_ng.compressobj(wbits=31)  # half of zlib's time for 10% more bytes
    with path.open("wb") as file:

        def write(data: bytes) -> None:
            nonlocal size
            digest.update(data)
            size += file.write(data)

        for block in blocks:
            text_digest.update(block)
            text_size += len(block)
            write(deflate.compress(block))
        write(deflate.flush())
    named = path.rename(path.with_name(f"{digest.hexdigest()}-{path.name}"))
    record = createrepo_c.RepomdRecord("", None)
    record.location_href = f"repodata/{named.name}"
    record.checksum_type, record.checksum, record.size = "sha256", digest.hexdigest(), size
    record.checksum_open_type, record.checksum_open, record.size_open = "sha256", text_digest.hexdigest(), text_size
    return record


def listed_identities(text: str) -> tuple[Identity, ...]:
    """The packages of a packages.txt, which nobody verified: other lines are ignored."""
    word = r"[A-Za-z0-9._+~^]+"
    row = rf"^([0-9a-f]{{64}})  ([A-Za-z0-9][A-Za-z0-9._+~^-]{{0,127}})-({word})-({word})\.([a-z0-9_]{{1,16}})\.rpm$"
    rows = re.findall(row, text, re.MULTILINE | re.ASCII)
    return tuple(Identity(digest, name, arch, version, release) for digest, name, version, release, arch in rows)


def packages_txt(digests: Mapping[str, str]) -> str:
    """packages.txt: a line "<sha256>  <file name>" for each package, in sha256sum's format, sorted by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
