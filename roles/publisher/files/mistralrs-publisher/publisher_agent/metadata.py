"""The files of a snapshot: parsers, and the rules that a snapshot keeps towards its parent.

Functions take a file or values and return values; they change nothing. A file that breaks a rule raises Refused.
"""

from __future__ import annotations

import calendar
import gzip
import json
import re
import time
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .host import Channel
from .refusal import Refused

PACKAGE = r"[A-Za-z0-9][A-Za-z0-9._+~^-]{0,199}\.(?:x86_64|noarch)\.rpm"
METADATA = r"([0-9a-f]{64})-[a-z_]{1,32}\.xml\.gz"
MAX_METADATA = 256 << 20  # bytes of all files of a snapshot, and of its unpacked primary metadata
MAX_LISTED = 100_000  # packages of a channel
MAX_RECORD = 32 << 20  # bytes of snapshot.json, which names packages
MAX_REPOMD = 1 << 20
CLOCK_SKEW = 600  # seconds that the signer's clock may be ahead

SNAPSHOT_FILES = ("packages.txt", "snapshot.json", "snapshot.json.asc")
SIGNED = ("repodata/repomd.xml", "snapshot.json")
REPO = "{http://linux.duke.edu/metadata/repo}"
COMMON = "{http://linux.duke.edu/metadata/common}"
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n'  # in another encoding, an XML reader sees other text than a pattern
# primary.xml is this head, one text for each package, and the foot, byte for byte as createrepo_c writes it.
PRIMARY = (
    XML + b'<metadata xmlns="http://linux.duke.edu/metadata/common"'
    b' xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="%d">\n'
)
BEGIN, END, FOOT = b'<package type="rpm">', b"</package>\n", b"</metadata>"


class ListedFile(NamedTuple):
    """A file that signed metadata names; ``size`` in bytes."""

    sha256: str
    size: int


class ParentSnapshot(NamedTuple):
    """The snapshot that another is composed on. It was verified when it was staged.

    One whose files were damaged since can be left: without ``whole``, its time is that of its id, its yanks are those
    of the journal, and nothing is taken over from it. So all packages of the next snapshot are examined anew.
    """

    id: str
    time: int = -1
    revision: int = -1
    packages: Mapping[str, str] = MappingProxyType({})  # file name to sha256
    texts: frozenset[bytes] = frozenset()  # its packages in primary.xml
    yanked: Sequence[str] = ()
    whole: bool = True

    @classmethod
    def read(cls, channel: Channel, snapshot: str) -> ParentSnapshot:
        if not snapshot:
            return cls("")
        folder = channel.snapshot(snapshot)
        try:
            record = parse_snapshot(folder / "snapshot.json")
            revision, _, primary = parse_repomd(folder / "repodata/repomd.xml")
            packages, texts = parse_packages(folder / "packages.txt"), parse_primary(folder / "repodata" / primary)
        except (Refused, OSError):
            moment = time_of(snapshot)
            return cls(snapshot, moment, moment, yanked=yanked_ever(channel), whole=False)
        return cls(snapshot, record["time"], revision, packages, texts, record["yanked"])


def time_of(snapshot: str) -> int:
    """The time in a snapshot's id."""
    return calendar.timegm(time.strptime(snapshot.partition("-")[0], "%Y%m%dT%H%M%SZ"))


def yanked_ever(channel: Channel) -> list[str]:
    """All yanks of the channel, by its journal."""
    return sorted({name for line in channel.journal() for name in line["yanked"]})


def attribute(node: ET.Element, tag: str, key: str = "") -> str:
    """The attribute ``key`` of a child element, or its text without a key; ValueError if it is absent."""
    child = node.find(tag)
    value = None if child is None else child.get(key) if key else child.text
    if value is None:
        raise ValueError(f"there is no {tag.rpartition('}')[2]} {key}".rstrip())
    return value


def parse_repomd(path: Path) -> tuple[int, dict[str, ListedFile], str]:
    """repomd.xml: its revision, the files of repodata/ by name, and the name of the primary metadata."""
    files: dict[str, ListedFile] = {}
    primary = ""
    try:
        if path.stat().st_size > MAX_REPOMD or b"<!" in (text := path.read_bytes()):
            raise ValueError(f"it has more than {MAX_REPOMD} bytes, or declares entities")
        if not text.startswith(XML):
            raise ValueError("it is not what createrepo_c writes")
        root = ET.fromstring(text)  # noqa: S314  it declares no entities
        revision = int(attribute(root, f"{REPO}revision"))
        for data in root.iter(f"{REPO}data"):
            folder, _, name = attribute(data, f"{REPO}location", "href").rpartition("/")
            digest = attribute(data, f"{REPO}checksum")
            matched = re.fullmatch(METADATA, name)
            if folder != "repodata" or not matched or matched[1] != digest:
                raise ValueError(f"{name} is not at repodata/<its sha256>-<type>.xml.gz")
            files[name] = ListedFile(digest, int(attribute(data, f"{REPO}size")))
            primary = name if data.get("type") == "primary" else primary
    except (ET.ParseError, ValueError) as error:
        raise Refused(f"repomd.xml is not fit for this channel: {error}", path) from error
    if not primary:
        raise Refused("repomd.xml names no primary metadata", path)
    return revision, files, primary


def parse_primary(path: Path) -> frozenset[bytes]:
    """The texts of the packages in primary.xml.gz.

    It is cut at the end of each package, and ``parse_package`` accepts a text only if it is one whole element.
    So a text of a verified snapshot needs no second look, and an XML reader sees the same packages in the file.
    """
    try:
        with gzip.open(path) as stream:
            text = stream.read(MAX_METADATA + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f"the primary metadata is not fit for this channel: {error}", path) from error
    *texts, foot = text.split(END)
    head = PRIMARY % len(texts)
    whole = text.startswith(head) and (foot if texts else foot.removeprefix(head)).rstrip(b"\n") == FOOT
    if texts:
        texts[0] = texts[0].removeprefix(head)
    found = frozenset(texts)
    if not whole or len(text) > MAX_METADATA or len(texts) > MAX_LISTED:
        problem = f"it is not what createrepo_c writes, or has more than {MAX_LISTED} packages"
    elif len(found) < len(texts):
        problem = "a package is named twice"
    else:
        return found
    raise Refused(f"the primary metadata is not fit for this channel: {problem}", path)


def parse_package(text: bytes) -> tuple[str, ListedFile]:
    """One package of the primary metadata: file name, digest and size."""
    try:
        root = ET.fromstring(PRIMARY % 1 + text + END + FOOT)  # noqa: S314  its digest is in the signed repomd.xml
        (node,) = root
        version, release = (attribute(node, f"{COMMON}version", key) for key in ("ver", "rel"))
        name = f"{attribute(node, f'{COMMON}name')}-{version}-{release}.{attribute(node, f'{COMMON}arch')}.rpm"
        location, checksum = node.find(f"{COMMON}location"), node.find(f"{COMMON}checksum")
        if not text.startswith(BEGIN) or not re.fullmatch(PACKAGE, name):
            raise ValueError(f"{name} is not the name of a package for x86_64")
        if location is None or location.attrib != {"href": f"Packages/{name}"}:
            raise ValueError(f"{name} is not at Packages/{name}")
        if checksum is None or checksum.get("type") != "sha256":
            raise ValueError(f"{name} has no sha256")
        return name, ListedFile(checksum.text or "", int(attribute(node, f"{COMMON}size", "package")))
    except (ET.ParseError, ValueError) as error:
        raise Refused(f"the primary metadata is not fit for this channel: {error}", "primary.xml.gz") from error


def parse_packages(path: Path) -> dict[str, str]:
    """packages.txt: file name to sha256. Lines are "<sha256>  <file name>", sorted by name, without duplicates."""
    text = path.read_text(errors="replace")
    found = {name: digest for digest, name in re.findall(rf"^([0-9a-f]{{64}})  ({PACKAGE})$", text, re.MULTILINE)}
    if text != "".join(f"{found[name]}  {name}\n" for name in sorted(found)):
        raise Refused('packages.txt has a line that is not "<sha256>  <file name>", or is not sorted', path)
    return found


def parse_snapshot(path: Path) -> dict[str, Any]:
    """The record of a snapshot on disk."""
    if path.stat().st_size > MAX_RECORD:
        raise Refused("snapshot.json is not a snapshot's record", path)
    return parse_record(path.read_bytes(), path)


def parse_record(text: bytes, path: Path) -> dict[str, Any]:
    """snapshot.json: a record with exactly these keys and types. ``path`` is for the message."""
    types: dict[str, type] = dict.fromkeys(("id", "channel", "parent", "reason"), str)
    types |= {"time": int, "added": list, "removed": list, "yanked": list}
    try:
        data = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        data = {}
    if {key: type(value) for key, value in data.items()} != types:
        raise Refused("snapshot.json is not a snapshot's record", path)
    return data


def package_lines(snapshot: Path) -> list[str]:
    """The lines of packages.txt of a verified snapshot: digest in [:64], file name in [66:]."""
    return (snapshot / "packages.txt").read_text(errors="replace").splitlines()


def named_packages(snapshots: Iterable[Path]) -> set[str]:
    """Every package that one of these snapshots names."""
    lines: set[str] = set()
    for folder in snapshots:
        lines.update(package_lines(folder))
    return {line[66:] for line in lines}


def check_record(record: Mapping[str, Any], channel: str, repomd: str) -> None:
    """Refuse a snapshot of another channel or with other metadata; ``repomd`` is the sha256 of its repomd.xml."""
    if record["channel"] != channel:
        raise Refused(f"the snapshot is of the channel {record['channel']}, not {channel}", record["id"])
    if record["id"] != f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(record['time']))}-{repomd[:8]}":
        raise Refused("the snapshot's id is not its time and the digest of its repomd.xml", record["id"])


def check_parent(record: Mapping[str, Any], revision: int, parent: ParentSnapshot) -> None:
    """Refuse a snapshot with another parent, a revision or time before its parent's, or a time in the future."""
    now = int(time.time())
    if record["parent"] != parent.id:
        raise Refused(f"the snapshot's parent is {record['parent'] or '-'}, not {parent.id or '-'}", record["id"])
    if revision <= parent.revision:
        raise Refused(f"the metadata's revision {revision} is not above its parent's, {parent.revision}", "repomd.xml")
    if not parent.time <= record["time"] <= now + CLOCK_SKEW:
        raise Refused(
            f"the snapshot's time {record['time']} is before its parent's or in the future (it is {now})",
            record["id"],
            "Set the clocks of the signer and the repo host, then compose again",
        )


def newly_yanked(
    record: Mapping[str, Any], before: Sequence[str], known: set[str], packages: Iterable[str]
) -> list[str]:
    """The packages that a snapshot yanks. Its list extends the parent's, ``before``, by ``known`` names alone."""
    yanked = {str(name) for name in record["yanked"]}
    new = sorted(yanked - set(before))
    if record["yanked"] != sorted(yanked) or not set(before) <= yanked:
        raise Refused("snapshot.json does not extend its parent's list of yanked packages", record["id"])
    if strange := sorted(set(new) - known):
        raise Refused("snapshot.json yanks a package that this channel never had", ", ".join(strange))
    if back := sorted(set(packages) & yanked):
        raise Refused(
            "a package was yanked, and its name is never published again",
            ", ".join(back),
            "Leave it out, or raise its release and build it again",
        )
    return new
