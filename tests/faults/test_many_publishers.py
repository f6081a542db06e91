"""Concurrent publishers over ssh, each in a process of its own: all packages are published."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from support.signer_site import Site
from support.site_copies import publish_argv
from support.sizes import Sizes
from support.sshd import sshd


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.make(tmp_path / "site")


def test_concurrent_publishers_lose_no_package(site: Site, sizes: Sizes, tmp_path: Path) -> None:
    packages = [site.package(f"0.9.{number}") for number in range(sizes.publishers)]
    places = [tmp_path / package.version for package in packages]
    with sshd(tmp_path / "sshd", site, "stable") as ssh:
        begun = time.monotonic()
        publishers = []
        for package, place in zip(packages, places, strict=True):
            place.mkdir()
            argv = publish_argv(site, [package], ssh.publisher(), place / "order.json")
            with (place / "output").open("wb") as output:
                publishers.append(subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT))
        try:
            statuses = [process.wait(timeout=900) for process in publishers]
        finally:
            for process in publishers:
                process.kill()
        took = time.monotonic() - begun
        verdict = site.engine.verify()
    heads = [(place / "output").read_text().strip() for place in places]
    print(f"{len(packages)} concurrent publishers took {took:.1f} s, {took / len(packages):.2f} s each")
    assert statuses == [0] * len(packages), "\n".join(heads)
    published = site.channel.read()
    assert {package.sha256 for package in published.packages} == {package.sha256 for package in packages}
    assert verdict.findings == ()
    # Each publisher printed its own snapshot; the last of them is the head.
    assert published.head in heads
    assert len(set(heads)) == len(packages)
