"""Verify: an intact repository has no findings, and each fault is one, with its place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.channel.reader import Repository
from support.signer_site import STABLE, Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A repository with two snapshots, the newer with two packages."""
    site = Site.make(tmp_path_factory.mktemp("site"))
    site.publish(site.package("0.9.1"))
    site.publish(site.package("0.9.2", flavour="cpu"))
    return site


@pytest.fixture
def folder(site: Site, tmp_path: Path) -> Path:
    """A copy of the repository's tree to damage."""
    shutil.copytree(site.root / STABLE, tmp_path / "channel", symlinks=True)
    return tmp_path / "channel"


def test_an_intact_repository_has_no_findings(site: Site) -> None:
    before = site.served()
    verdict = site.engine.verify()
    assert (verdict.head, verdict.snapshots, verdict.packages) == (site.channel.head(), 2, 2)
    assert verdict.findings == ()
    assert site.served() == before


def test_an_empty_repository_has_no_findings(tmp_path: Path) -> None:
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
    ("damaged", "damage", "message"),
    [
        (head_file("packages.txt"), add_line, "packages.txt lists other packages than the signed metadata"),
        (head_file("packages.txt"), Path.unlink, "packages.txt is missing"),
        (head_file("snapshot.json"), add_line, "the signature does not fit the file.*snapshot.json"),
        (head_file("snapshot.json.asc"), Path.unlink, "snapshot.json.asc is missing"),
        (head_file("repodata/repomd.xml"), add_line, "the signature does not fit the file.*repomd.xml"),
        (lambda folder: metadata(folder, "primary"), add_line, "primary.xml.gz does not have the digest"),
        (lambda folder: metadata(folder, "filelists"), Path.unlink, "filelists.xml.gz is missing"),
        (lambda folder: metadata(folder, "other"), add_line, "other.xml.gz does not have the digest"),
    ],
)
def test_each_fault_that_a_client_would_meet_is_found(
    site: Site, folder: Path, damaged: Callable[[Path], Path], damage: Callable[[Path], object], message: str
) -> None:
    channel = Repository(str(folder), site.signer.trusted_keys)
    assert channel.findings(channel.head()) == []
    damage(damaged(folder))
    found = channel.findings(channel.head())
    assert len(found) == 1
    assert re.search(message, found[0])
    assert str(folder) in found[0]


def test_a_cache_that_keeps_the_mirrorlist_is_found(site: Site, folder: Path) -> None:
    """Clients still see the older snapshot."""
    old = min(path.name for path in (folder / "snapshots").iterdir())
    (folder / "mirrorlist").write_text(f"http://repo.invalid/{STABLE}/snapshots/{old}/\n")
    cached = Repository(str(folder), site.signer.trusted_keys)
    (finding,) = replace(site.engine, repository=cached).verify().findings
    assert f"clients see the snapshot {old}, the head is {site.channel.head()}" in finding


def test_findings_of_the_agent_are_included(tmp_path: Path) -> None:
    site = Site.make(tmp_path)
    package = site.package()
    site.publish(package)
    path = site.root / STABLE / "Packages" / package.filename
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert any(package.filename in finding for finding in site.engine.verify().findings)
