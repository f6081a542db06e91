"""Many publishers at once, each a process of its own that comes by ssh: everybody's packages are published."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from support.signer_site import Site
from support.sizes import Sizes
from support.sshd import sshd
from support.twins import publisher


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.make(tmp_path / "site")


def test_none_loses_a_package(site: Site, sizes: Sizes, tmp_path: Path) -> None:
    packages = [site.package(f"0.9.{number}") for number in range(sizes.publishers)]
    places = [tmp_path / package.version for package in packages]
    with sshd(tmp_path / "sshd", site, "stable") as ssh:
        begun = time.monotonic()
        publishers = []
        for package, place in zip(packages, places, strict=True):
            place.mkdir()
            argv = publisher(site, [package], ssh.publisher(), place / "order.json")
            with (place / "said").open("wb") as said:
                publishers.append(subprocess.Popen(argv, stdout=said, stderr=subprocess.STDOUT))
        try:
            statuses = [process.wait(timeout=900) for process in publishers]
        finally:
            for process in publishers:
                process.kill()
        took = time.monotonic() - begun
        verdict = site.engine.verify()
    heads = [(place / "said").read_text().strip() for place in places]
    print(f"{len(packages)} publishers at once took {took:.1f} s, {took / len(packages):.2f} s each")
    assert statuses == [0] * len(packages), "\n".join(heads)
    published = site.channel.read()
    assert {package.sha256 for package in published.packages} == {package.sha256 for package in packages}
    assert verdict.findings == ()
    # Each has seen its own snapshot published, and the last of them is the head.
    assert published.head in heads
    assert len(set(heads)) == len(packages)
