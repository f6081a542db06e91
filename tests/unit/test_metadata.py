"""Metadata: a splice is byte for byte what createrepo_c writes of the same packages."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

import createrepo_c
import pytest
from pipeline.base.errors import PipelineError
from pipeline.channel import metadata
from pipeline.channel.metadata import TYPES, Entry, Identity

WRITERS = {
    "primary": createrepo_c.PrimaryXmlFile,
    "filelists": createrepo_c.FilelistsXmlFile,
    "other": createrepo_c.OtherXmlFile,
}


def made(version: str) -> createrepo_c.Package:
    package = createrepo_c.Package()
    package.name, package.version, package.release, package.arch = "mistralrs-ada", version, "1.fc43", "x86_64"
    package.epoch, package.checksum_type = "0", "sha256"
    package.pkgId = hashlib.sha256(version.encode()).hexdigest()
    package.summary, package.description = '<package type="rpm"> & </package>\n', "ä\n" * 50
    package.location_href = f"Packages/{package.nvra()}.rpm"
    package.size_package = len(version)
    package.provides = [("mistralrs(commit)", "EQ", "0", hashlib.sha256(version.encode()).hexdigest(), None, False)]
    package.files = [("", f"/usr/share/{version}/", f"{number}") for number in range(9)]
    return package


def entry(version: str) -> Entry:
    package = made(version)
    texts = (text.encode() for text in createrepo_c.xml_dump(package))
    return Entry(f"{package.nvra()}.rpm", package.pkgId, dict(zip(TYPES, texts, strict=True)))


def by_createrepo(folder: Path, versions: Iterable[str]) -> dict[str, bytes]:
    """The gzip files that createrepo_c writes of these versions, in the order of their file names."""
    folder.mkdir()
    packages = sorted((made(version) for version in versions), key=createrepo_c.Package.nvra)
    for kind, writer in WRITERS.items():
        file = writer(str(folder / kind), createrepo_c.GZ_COMPRESSION)
        file.set_num_of_pkgs(len(packages))
        for package in packages:
            file.add_pkg(package)
        file.close()
    return {kind: (folder / kind).read_bytes() for kind in TYPES}


def spliced(packed: dict[str, bytes], drop: Iterable[str], add: Iterable[str]) -> dict[str, bytes]:
    old = metadata.read_identities(packed["other"]) if packed["other"] else ()
    names = {entry(version).filename for version in drop}
    edits = metadata.edits_of(old, names, [entry(version) for version in add])
    return {kind: b"".join(metadata.splice(kind, packed[kind], old, edits)) for kind in TYPES}


def test_a_splice_equals_the_output_of_createrepo_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random packages are added and dropped, at the ends too; blocks end anywhere."""
    chance = random.Random(43)  # noqa: S311  only trials
    versions = [f"0.{number}" for number in range(60)]
    for trial in range(40):
        monkeypatch.setattr(metadata, "_SLICE", chance.choice([1, 7, 50, 8192]))
        old = set(chance.sample(versions, chance.choice([0, 1, 30])))
        add = set(chance.sample(sorted(set(versions) - old), chance.choice([0, 1, 2, 20])))
        drop = set(chance.sample(sorted(old), chance.choice([0, len(old) // 2, len(old)])))
        packed = by_createrepo(tmp_path / f"{trial}-old", old)
        wanted = by_createrepo(tmp_path / f"{trial}-new", old - drop | add)
        for kind, text in spliced(packed, drop, add).items():
            assert text == gzip.decompress(wanted[kind]), (trial, kind)


def test_a_first_snapshot_has_nothing_to_splice_into(tmp_path: Path) -> None:
    wanted = by_createrepo(tmp_path / "new", ["0.2", "0.1"])
    for kind, text in spliced(dict.fromkeys(TYPES, b""), [], ["0.1", "0.2"]).items():
        assert text == gzip.decompress(wanted[kind])


def test_packages_are_read_as_createrepo_c_reads_them(tmp_path: Path) -> None:
    packed = by_createrepo(tmp_path / "old", [f"0.{number}^git" for number in range(30)])
    read = list(metadata.read_packages(packed["primary"]))
    (plain := tmp_path / "primary.xml").write_bytes(gzip.decompress(packed["primary"]))
    parsed: list[createrepo_c.Package] = []
    createrepo_c.xml_parse_primary(str(plain), pkgcb=parsed.append, do_files=False)
    assert [(p.nevra, p.sha256, p.size, p.path, p.commit) for p in read] == [
        (p.nvra(), p.pkgId, p.size_package, p.location_href.removeprefix("Packages/"), p.provides[0][3]) for p in parsed
    ]
    identities = metadata.read_identities(packed["other"])
    assert [(i.nevra, i.sha256, i.filename) for i in identities] == [(p.nevra, p.sha256, p.path) for p in read]
    for kind in ("filelists", "other"):
        assert metadata.read_pkgids(kind, packed[kind]) == [p.sha256 for p in read]


def test_repomd_is_that_of_createrepo_c(tmp_path: Path) -> None:
    texts = {kind: [metadata.head(kind, 1), entry("0.1").texts[kind], metadata.foot(kind)] for kind in TYPES}
    text = metadata.write_repodata(texts, tmp_path / "repodata", 17).decode()
    repomd = createrepo_c.Repomd()
    repomd.set_revision("17")
    for kind in TYPES:
        (path,) = (tmp_path / "repodata").glob(f"*-{kind}.xml.gz")
        record = createrepo_c.RepomdRecord(kind, str(path))
        record.fill(createrepo_c.SHA256)
        record.set_timestamp(17)
        record.rename_file()
        repomd.set_record(record)
    assert text == repomd.xml_dump()
    assert (tmp_path / "repodata/repomd.xml").read_text() == text


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        ("primary", 'packages="3"', 'packages="4"', "it has 3 packages instead of 4"),
        ("primary", "</metadata>", "", "or text after them"),
        ("filelists", "<?xml ", "<?html ", "it starts with"),
        ("other", "<package pkgid", "<package id", "it has a package without a name"),
        ("primary", "<size package", "<size", "this text describes no package"),
    ],
)
def test_metadata_of_another_shape_is_refused(tmp_path: Path, kind: str, old: str, new: str, message: str) -> None:
    packed = by_createrepo(tmp_path / "old", ["0.1", "0.2", "0.3"])[kind]
    text = gzip.decompress(packed).decode()
    assert old in text
    data = gzip.compress(text.replace(old, new).encode())
    with pytest.raises(PipelineError, match=message):
        metadata.read_identities(data) if kind == "other" else list(
            metadata.read_packages(data) if kind == "primary" else metadata.read_pkgids(kind, data)
        )


@pytest.mark.parametrize(
    "data",
    [b"", b"text", gzip.compress(b"")[:-1], gzip.compress(b"") * 2],
    ids=["nothing", "text", "cut off", "two"],
)
def test_an_incomplete_gzip_file_is_refused(data: bytes) -> None:
    with pytest.raises(
        PipelineError, match="the snapshot's primary metadata has another form than this project writes"
    ):
        list(metadata.read_packages(data))


def test_files_that_do_not_fit_together_are_not_spliced(tmp_path: Path) -> None:
    one, two = (by_createrepo(tmp_path / name, versions) for name, versions in (("a", ["1", "2"]), ("b", ["1", "3"])))
    with pytest.raises(
        PipelineError, match="mistralrs-ada-2-1.fc43.x86_64.rpm is not at the position that it has in other.xml"
    ):
        spliced(one | {"primary": two["primary"]}, ["2"], [])
    three = by_createrepo(tmp_path / "c", ["1", "2", "3"])
    with pytest.raises(PipelineError, match="it has 3 packages, other.xml has 2"):
        spliced(one | {"primary": three["primary"]}, ["1"], [])


def test_packages_out_of_order_are_not_spliced() -> None:
    old = [Identity("0" * 64, "mistralrs-ada", "x86_64", version, "1") for version in ("2", "1")]
    with pytest.raises(PipelineError, match="not in the order of their file names"):
        metadata.edits_of(old, set(), [])
