"""Verify: nothing is wrong with a channel, or each thing that is is told with its place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.channel.reader import Channel
from support.signer_site import STABLE, Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A channel with two snapshots, the newer of two packages."""
    site = Site.make(tmp_path_factory.mktemp("site"))
    site.publish(site.package("0.9.1"))
    site.publish(site.package("0.9.2", flavour="cpu"))
    return site


@pytest.fixture
def folder(site: Site, tmp_path: Path) -> Path:
    """A copy of the channel's tree to spoil."""
    shutil.copytree(site.root / STABLE, tmp_path / "channel", symlinks=True)
    return tmp_path / "channel"


def test_a_channel_that_is_as_it_must_be(site: Site) -> None:
    before = site.served()
    verdict = site.engine.verify()
    assert (verdict.head, verdict.snapshots, verdict.packages) == (site.channel.head(), 2, 2)
    assert verdict.findings == ()
    assert site.served() == before


def test_an_empty_channel_is_as_it_must_be(tmp_path: Path) -> None:
    site = Site.make(tmp_path)
    assert (site.engine.verify().head, site.engine.verify().findings) == ("", ())


def metadata(folder: Path, kind: str) -> Path:
    """A file of the head's own metadata."""
    head = max((folder / "snapshots").iterdir())
    text = (head / "repodata/repomd.xml").read_text()
    (path,) = (path for path in (head / "repodata").glob(f"*-{kind}.xml.gz") if path.name in text)
    return path


def head_file(name: str) -> Callable[[Path], Path]:
    return lambda folder: max((folder / "snapshots").iterdir()) / name


def add_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("spoilt", "spoil", "message"),
    [
        (head_file("packages.txt"), add_line, "packages.txt names other packages than the signed metadata"),
        (head_file("packages.txt"), Path.unlink, "packages.txt is missing"),
        (head_file("snapshot.json"), add_line, "the signature does not fit the file.*snapshot.json"),
        (head_file("snapshot.json.asc"), Path.unlink, "snapshot.json.asc is missing"),
        (head_file("repodata/repomd.xml"), add_line, "the signature does not fit the file.*repomd.xml"),
        (lambda folder: metadata(folder, "primary"), add_line, "primary.xml.gz does not have the digest"),
        (lambda folder: metadata(folder, "filelists"), Path.unlink, "filelists.xml.gz is missing"),
        (lambda folder: metadata(folder, "other"), add_line, "other.xml.gz does not have the digest"),
    ],
)
def test_what_a_client_would_stumble_over_is_found(
    site: Site, folder: Path, spoilt: Callable[[Path], Path], spoil: Callable[[Path], object], message: str
) -> None:
    channel = Channel(str(folder), site.signer.trusted_keys)
    assert channel.findings(channel.head()) == []
    spoil(spoilt(folder))
    found = channel.findings(channel.head())
    assert len(found) == 1
    assert re.search(message, found[0])
    assert str(folder) in found[0]


def test_a_cache_that_keeps_the_mirrorlist_is_found(site: Site, folder: Path) -> None:
    """Clients are told the older snapshot still."""
    old = min(path.name for path in (folder / "snapshots").iterdir())
    (folder / "mirrorlist").write_text(f"http://repo.invalid/{STABLE}/snapshots/{old}/\n")
    cached = Channel(str(folder), site.signer.trusted_keys)
    (finding,) = replace(site.engine, channel=cached).verify().findings
    assert f"clients are told the snapshot {old}, the head is {site.channel.head()}" in finding


def test_what_the_agent_finds_is_told_too(tmp_path: Path) -> None:
    site = Site.make(tmp_path)
    package = site.package()
    site.publish(package)
    path = site.root / STABLE / "Packages" / package.filename
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert any(package.filename in finding for finding in site.engine.verify().findings)
