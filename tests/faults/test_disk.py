"""A disk that is full or read-only, and a line that breaks: nothing published changes, and it goes on afterwards."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package, Transaction, sha256_file
from pipeline.channel.agent_client import AgentClient
from pipeline.sign.rpm_signature import sign_package
from support.disks import fill, make_disk, mounted
from support.kills import Point, points, spread, traced
from support.line import Line
from support.plots import NAMES, Plot, consistent, each, upload_only
from support.signer_site import Site
from support.sizes import Sizes
from support.sshd import sshd
from support.twins import twin

TAKING_SPACE = (
    *("write", "pwrite64", "writev", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("mkdir", "mkdirat", "fsync", "fdatasync"),
)
# What is lost when a line breaks, at most: 2 MiB that sshd had not handed on, and rsync's buffers. And what both
# say beside the files.
UNDER_WAY = 3 << 20

SPEC = """
Name: mistralrs-large
Version: {version}
Release: 1.fc43
Summary: A package that does not compress
License: MIT
%description
Large.
%install
install -Dm 0644 {payload} %{{buildroot}}/usr/share/mistralrs-large/payload
%files
/usr/share/mistralrs-large
"""


def large(site: Site, size: int, version: str = "1.0") -> Package:
    """A signed package of about ``size`` bytes."""
    folder = site.folder / f"large-{version}"
    folder.mkdir()
    with (payload := folder / "payload").open("wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(os.urandom(min(size, 1 << 20)))
    (folder / "spec").write_text(SPEC.format(version=version, payload=payload))
    macros = {"_topdir": folder, "_rpmdir": folder, "_rpmfilename": "out.rpm", "_binary_payload": "w0.gzdio"}
    defines = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
    subprocess.run(
        ["rpmbuild", "-bb", "--quiet", "--target", "x86_64", *defines, folder / "spec"], check=True, capture_output=True
    )
    payload.unlink()
    path = (folder / "out.rpm").rename(folder / f"mistralrs-large-{version}-1.fc43.x86_64.rpm")
    unsigned = Package(
        "mistralrs-large", version, "1.fc43", "x86_64", "", str(path), sha256_file(path), path.stat().st_size
    )
    return sign_package(unsigned, site.signer).package


def unchanged(site: Site, before: dict[str, str]) -> bool:
    """Whether all is there that was served; what is staged may have come, which nobody is told of."""
    served = site.served()
    return {name: served.get(name) for name in before} == before


@pytest.mark.parametrize("name", NAMES)
def test_no_space_at_each_step_of_the_agent(plots: dict[str, Plot], sizes: Sizes, tmp_path: Path, name: str) -> None:
    plot = plots[name]
    every = points(plot.argv(twin(plot.site, tmp_path / "whole")), tmp_path / "calls", TAKING_SPACE)

    def trial(number: int, point: Point) -> None:
        site = twin(plot.site, tmp_path / str(number))
        before = site.served()
        inject = f"{point.name}:error=ENOSPC:when={point.nth}"
        done = traced(plot.argv(site), tmp_path / f"{number}.calls", [point.name], inject=inject)
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        if done.returncode and done.stderr:  # else it was the error's own line that found no space
            said = json.loads(done.stderr.splitlines()[-1])
            assert "No space left on device" in said["error"]
            assert said["remedy"]
        consistent(site)
        if site.channel.head() == plot.old != plot.new:
            assert unchanged(site, before)
        plot.survived(site, repeat=True)

    tried = spread(every, sizes.spaces)
    print(f"{name}: no space at {len(tried)} of {len(every)} system calls")
    each(tried, trial)


@pytest.fixture
def small(plots: dict[str, Plot], tmp_path: Path) -> tuple[Site, Path]:
    """A host whose root will be mounted from a small disk, on which all may be used."""
    start = plots["prune"].site
    channels = json.loads((start.folder / "publisher.json").read_text())["channels"]
    site = twin(start, tmp_path / "site", reserve_mib=0, channels=channels)
    make_disk(image := tmp_path / "disk", 16, site.root)
    subprocess.run(["rm", "-r", site.root], check=True)
    return site, image


def test_a_disk_that_is_full(small: tuple[Site, Path], plots: dict[str, Plot]) -> None:
    """Each step in turn finds no space: the signer sees that there is no room, rsync breaks off, the agent does."""
    site, image = small
    package = large(site, 300 << 10)
    with mounted(image, site.root):
        for left in (4, 250, 310):
            with short_of_space(site, left), pytest.raises(PipelineError, match="room for|No space left") as error:
                site.engine.publish([package], reason="too much")
            assert error.value.where
            assert error.value.remedy
        transaction = upload_only(site, lambda engine: engine.publish([package], reason="uploaded"))
        refusals = []
        for left in range(0, 100, 2):
            with short_of_space(site, left):
                refusal = refusal_of(lambda: site.agent.publish(transaction))
            if refusal is None:
                break
            refusals.append(refusal)
        assert len(refusals) > 2
        for error in refusals:
            assert "No space left on device" in error.what
            assert error.where
            assert "then repeat" in error.remedy
        assert site.agent.publish(transaction) == transaction.snapshot.id == site.agent.head("stable")
        consistent(site)
        assert site.engine.verify().findings == ()


def refusal_of(act: Callable[[], object]) -> PipelineError | None:
    try:
        act()
    except PipelineError as error:
        return error
    return None


@contextmanager
def short_of_space(site: Site, kib: int) -> Iterator[None]:
    """Leave the disk so much; nothing published may change unless it is all published."""
    head, before = site.channel.head(), site.served()
    filler = fill(site.root, kib << 10)
    try:
        yield
    finally:
        consistent(site)
        filler.unlink()
        if site.channel.head() == head:
            assert unchanged(site, before)


def test_space_that_is_kept_for_others(small: tuple[Site, Path]) -> None:
    """The signer does not begin to send what the host's reserve has no room for."""
    site, image = small
    file = site.folder / "publisher.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"reserve_mib": 1024}))
    package = large(site, 300 << 10)
    with mounted(image, site.root):
        before = site.served()
        with pytest.raises(PipelineError, match="room|space"):
            site.engine.publish([package], reason="too much")
        assert site.served() == before
        assert not [path for path in site.root.glob(".publisher/stable/incoming/*/Packages/*") if path.stat().st_size]


def test_a_disk_that_is_read_only(small: tuple[Site, Path], plots: dict[str, Plot]) -> None:
    site, image = small
    package = plots["publish"].other
    with mounted(image, site.root):
        before, head = site.served(), site.agent.head("stable")
        subprocess.run(["mount", "-o", "remount,ro", site.root], check=True)
        assert site.agent.head("stable") == head
        with pytest.raises(PipelineError, match="Read-only file system") as error:
            site.engine.publish([package], reason="not now")
        assert error.value.where
        assert error.value.remedy
        assert site.served() == before
        subprocess.run(["mount", "-o", "remount,rw", site.root], check=True)
        assert site.engine.publish([package], reason="now").changed
        consistent(site)


# The line


def test_a_line_that_breaks_anywhere(plots: dict[str, Plot], tmp_path: Path) -> None:
    """An upload goes on where it was cut off."""
    start = plots["prune"].site
    package = large(start, 12 << 20)
    made = twin(start, tmp_path / "made")
    transaction = upload_only(made, lambda engine: engine.publish([package], reason="cut off"))
    with sshd(tmp_path / "sshd-whole", twin(start, tmp_path / "whole")) as ssh, Line(ssh.port) as line:
        ssh.publisher(line.port).upload(transaction)
        total = line.sent
    print(f"{total} bytes are sent, {package.size} of them the package")

    def trial(number: int, cut: int) -> None:
        site = twin(start, tmp_path / str(number))
        with sshd(tmp_path / f"sshd-{number}", site) as ssh:
            with Line(ssh.port, cut=cut) as line, pytest.raises(PipelineError, match="repo host failed") as error:
                ssh.publisher(line.port).upload(transaction)
            assert error.value.remedy
            assert site.served() == start.served()
            with Line(ssh.port) as line:
                ssh.publisher(line.port).upload(transaction)
        print(f"cut at {cut}: {line.sent} bytes the second time")
        assert line.sent < total - cut + UNDER_WAY
        assert site.agent.publish(transaction) == transaction.snapshot.id
        consistent(site)

    chance = random.Random(20261121)  # noqa: S311  the same places each time
    each([chance.randrange(total) for _ in range(10)], trial)


def test_a_large_package_is_not_sent_again(plots: dict[str, Plot], sizes: Sizes, tmp_path: Path) -> None:
    """Neither when the line broke, nor when somebody else was first."""
    site = twin(plots["prune"].site, tmp_path / "site", reserve_mib=0)
    size = sizes.large_mib << 20
    package, others = large(site, size), plots["publish"].other
    with sshd(tmp_path / "sshd", site) as ssh:
        with Line(ssh.port, cut=size // 10 * 9) as line, pytest.raises(PipelineError, match="repo host failed"):
            replace(site.engine, agent=ssh.publisher(line.port)).publish([package], reason="cut off")
        first = line.sent
        with Line(ssh.port) as line:
            publisher = ssh.publisher(line.port)
            overtaken = Overtaken(publisher.rsh, publisher.host, lambda: site.publish(others))
            head = replace(site.engine, agent=overtaken).publish([package], reason="again").head
        print(f"{package.size} bytes: {first} sent until the line broke, then {line.sent}")
        assert site.channel.read().head == head
        assert {package.sha256, others.sha256} <= {known.sha256 for known in site.channel.read().packages}
        assert first + line.sent < size * 1.02 + UNDER_WAY


class Overtaken(AgentClient):
    """Somebody else publishes when all is uploaded, once."""

    _other: list[Callable[[], object]]

    def __init__(self, rsh: list[str], host: str, other: Callable[[], object]) -> None:
        super().__init__(rsh, host)
        object.__setattr__(self, "_other", [other])

    def stage(self, transaction: Transaction) -> str:
        self._overtake()
        return super().stage(transaction)

    def publish(self, transaction: Transaction) -> str:
        self._overtake()
        return super().publish(transaction)

    def _overtake(self) -> None:
        if self._other:
            self._other.pop()()
