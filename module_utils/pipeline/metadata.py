"""A channel's metadata: what dnf reads of each package, composed without reading published packages.

Rules:

1. A package's records are kept as the XML text that createrepo_c wrote. A new snapshot is the parent's
   texts and those of the new packages; the text of a package never changes again.
2. The output is decided by the packages and the revision alone: entries in the order of their file
   names, a package's time from its own header, the timestamps the revision.
3. Only what a signature covers is read (``channel`` sees to that), so this trusts the shape of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import createrepo_c

from .errors import PipelineError

TYPES = ("primary", "filelists", "other")
_CHUNK = re.compile(r"<package .*?</package>\n", re.DOTALL)
_IDENTITY = re.compile(r'pkgid="(?:YES">)?([0-9a-f]{64})')
_LOCATION = re.compile(r'<location href="Packages/([^"/]+)"/>')


@dataclass(frozen=True)
class Entry:
    """One package of a snapshot: its file name, its SHA-256 and its text in each of the three files."""

    filename: str
    sha256: str
    primary: str
    filelists: str
    other: str


def entry_of(path: Path, filename: str) -> Entry:
    """The entry of an RPM, which is read once, whole."""
    try:
        package = createrepo_c.package_from_rpm(
            str(path), checksum_type=createrepo_c.SHA256, location_href=f"Packages/{filename}"
        )
    except (createrepo_c.CreaterepoCError, OSError) as error:
        raise PipelineError(f"not a package that can be read: {error}", str(path), "Sign it again") from error
    package.time_file = package.time_build
    return Entry(filename, str(package.pkgId), *createrepo_c.xml_dump(package))


def parse_entries(texts: Mapping[str, str]) -> list[Entry]:
    """The entries of a snapshot, from the text of its primary, filelists and other metadata."""
    chunks = {
        kind: {found[1]: chunk for chunk in _CHUNK.findall(texts[kind]) if (found := _IDENTITY.search(chunk))}
        for kind in TYPES
    }
    entries = []
    for sha256, primary in chunks["primary"].items():
        location = _LOCATION.search(primary)
        if location is None or not all(sha256 in chunks[kind] for kind in TYPES):
            raise PipelineError("the metadata files of the parent do not fit together", sha256)
        entries.append(Entry(location[1], sha256, primary, chunks["filelists"][sha256], chunks["other"][sha256]))
    return entries


def write_repodata(entries: Iterable[Entry], folder: Path, revision: int) -> bytes:
    """Write the metadata of ``entries`` into the new folder ``folder``; returns repomd.xml's bytes."""
    folder.mkdir(parents=True)
    ordered = sorted(entries, key=lambda entry: entry.filename)
    files = (createrepo_c.PrimaryXmlFile, createrepo_c.FilelistsXmlFile, createrepo_c.OtherXmlFile)
    repomd = createrepo_c.Repomd()
    repomd.set_revision(str(revision))
    for kind, writer in zip(TYPES, files, strict=True):
        path = folder / f"{kind}.xml.gz"
        content = createrepo_c.ContentStat(createrepo_c.SHA256)
        with closing(writer(str(path), createrepo_c.GZ_COMPRESSION, content)) as stream:
            stream.set_num_of_pkgs(len(ordered))
            for entry in ordered:
                stream.add_chunk(getattr(entry, kind))
        record = createrepo_c.RepomdRecord(kind, str(path))
        record.load_contentstat(content)
        record.fill(createrepo_c.SHA256)
        record.set_timestamp(revision)
        record.rename_file()  # to <digest>-primary.xml.gz
        repomd.set_record(record)
    text: bytes = repomd.xml_dump().encode()
    (folder / "repomd.xml").write_bytes(text)
    return text


def packages_txt(entries: Iterable[Entry]) -> str:
    """packages.txt: "<sha256>  <file name>" a line, as sha256sum writes it, sorted by name."""
    return "".join(f"{e.sha256}  {e.filename}\n" for e in sorted(entries, key=lambda entry: entry.filename))
