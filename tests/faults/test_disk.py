"""Full disk, read-only disk, broken connection: published files stay, and the next transaction succeeds."""

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
from support.faulty_proxy import FaultyProxy
from support.scenarios import NAMES, Scenario, consistent, each, upload_only
from support.signer_site import Site
from support.site_copies import copy_site
from support.sizes import Sizes
from support.sshd import sshd
from support.syscalls import Point, points, spread, traced

ALLOCATING = (
    *("write", "pwrite64", "writev", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("mkdir", "mkdirat", "fsync", "fdatasync"),
)
# Bytes that a broken connection may lose (2 MiB in sshd, rsync's buffers), plus the overhead of both protocols.
IN_FLIGHT = 3 << 20

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
    """A signed package of about ``size`` bytes, which do not compress."""
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
    """Whether every file served before is served still. Staged files may be added: no client reads them."""
    served = site.served()
    return {name: served.get(name) for name in before} == before


@pytest.mark.parametrize("name", NAMES)
def test_no_space_at_each_step_of_the_agent(
    scenarios: dict[str, Scenario], sizes: Sizes, tmp_path: Path, name: str
) -> None:
    scenario = scenarios[name]
    every = points(scenario.argv(copy_site(scenario.site, tmp_path / "whole")), tmp_path / "calls", ALLOCATING)

    def trial(number: int, point: Point) -> None:
        site = copy_site(scenario.site, tmp_path / str(number))
        before = site.served()
        inject = f"{point.name}:error=ENOSPC:when={point.nth}"
        done = traced(scenario.argv(site), tmp_path / f"{number}.calls", [point.name], inject=inject)
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        if done.returncode and done.stderr:  # empty if the write of the error itself failed
            answer = json.loads(done.stderr.splitlines()[-1])
            assert "No space left on device" in answer["error"]
            assert answer["remedy"]
        consistent(site)
        if site.channel.head() == scenario.old != scenario.new:
            assert unchanged(site, before)
        scenario.check_recovery(site, repeat=True)

    tried = spread(every, sizes.spaces)
    print(f"{name}: no space at {len(tried)} of {len(every)} system calls")
    each(tried, trial)


@pytest.fixture
def small(scenarios: dict[str, Scenario], tmp_path: Path) -> tuple[Site, Path]:
    """A host whose root is to be mounted from a small disk, without reserved space."""
    start = scenarios["prune"].site
    channels = json.loads((start.folder / "publisher.json").read_text())["channels"]
    site = copy_site(start, tmp_path / "site", reserve_mib=0, channels=channels)
    make_disk(image := tmp_path / "disk", 16, site.root)
    subprocess.run(["rm", "-r", site.root], check=True)
    return site, image


def test_a_disk_that_is_full(small: tuple[Site, Path], scenarios: dict[str, Scenario]) -> None:
    """Space runs out at each step in turn: at the signer's check, during rsync, in the agent."""
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
    """Leave ``kib`` KiB free. Published files must not change unless the whole transaction is published."""
    head, before = site.channel.head(), site.served()
    filler = fill(site.root, kib << 10)
    try:
        yield
    finally:
        consistent(site)
        filler.unlink()
        if site.channel.head() == head:
            assert unchanged(site, before)


def test_an_upload_into_reserved_space_is_refused(small: tuple[Site, Path]) -> None:
    """The signer checks the host's reserve before it sends anything."""
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


def test_a_disk_that_is_read_only(small: tuple[Site, Path], scenarios: dict[str, Scenario]) -> None:
    site, image = small
    package = scenarios["publish"].other
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


# The connection


def test_an_upload_is_resumed_after_a_broken_connection(scenarios: dict[str, Scenario], tmp_path: Path) -> None:
    """The connection breaks at ten random offsets."""
    start = scenarios["prune"].site
    package = large(start, 12 << 20)
    composed = copy_site(start, tmp_path / "composed")
    transaction = upload_only(composed, lambda engine: engine.publish([package], reason="cut off"))
    with sshd(tmp_path / "sshd-whole", copy_site(start, tmp_path / "whole")) as ssh, FaultyProxy(ssh.port) as proxy:
        ssh.publisher(proxy.port).upload(transaction)
        total = proxy.sent
    print(f"{total} bytes are sent, {package.size} of them the package")

    def trial(number: int, cut: int) -> None:
        site = copy_site(start, tmp_path / str(number))
        with sshd(tmp_path / f"sshd-{number}", site) as ssh:
            with (
                FaultyProxy(ssh.port, cut=cut) as proxy,
                pytest.raises(PipelineError, match="repo host failed") as error,
            ):
                ssh.publisher(proxy.port).upload(transaction)
            assert error.value.remedy
            assert site.served() == start.served()
            with FaultyProxy(ssh.port) as proxy:
                ssh.publisher(proxy.port).upload(transaction)
        print(f"cut at {cut}: {proxy.sent} bytes the second time")
        assert proxy.sent < total - cut + IN_FLIGHT
        assert site.agent.publish(transaction) == transaction.snapshot.id
        consistent(site)

    chance = random.Random(20261121)  # noqa: S311  the same offsets each time
    each([chance.randrange(total) for _ in range(10)], trial)


def test_a_large_package_is_sent_once(scenarios: dict[str, Scenario], sizes: Sizes, tmp_path: Path) -> None:
    """It is not sent again after a broken connection, nor after another publisher's transaction."""
    site = copy_site(scenarios["prune"].site, tmp_path / "site", reserve_mib=0)
    size = sizes.large_mib << 20
    package, other = large(site, size), scenarios["publish"].other
    with sshd(tmp_path / "sshd", site) as ssh:
        with FaultyProxy(ssh.port, cut=size // 10 * 9) as proxy, pytest.raises(PipelineError, match="repo host failed"):
            replace(site.engine, agent=ssh.publisher(proxy.port)).publish([package], reason="cut off")
        first = proxy.sent
        with FaultyProxy(ssh.port) as proxy:
            publisher = ssh.publisher(proxy.port)
            overtaken = Overtaken(publisher.rsh, publisher.host, lambda: site.publish(other))
            head = replace(site.engine, agent=overtaken).publish([package], reason="again").head
        print(f"{package.size} bytes: {first} sent until the connection broke, then {proxy.sent}")
        assert site.channel.read().head == head
        assert {package.sha256, other.sha256} <= {known.sha256 for known in site.channel.read().packages}
        assert first + proxy.sent < size * 1.02 + IN_FLIGHT


class Overtaken(AgentClient):
    """An agent client that another publisher overtakes once, after its upload."""

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
