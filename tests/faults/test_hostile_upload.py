"""Hostile uploads by an attacker with the publishing key and without the signing key, over ssh and a real rsync.

Served files stay unchanged, the agent's error has a reason, and the next legitimate transaction succeeds. Single files
of an upload are tested in tests/integration/test_publisher.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package, Snapshot, Transaction
from pipeline.channel.agent_client import AgentClient
from pipeline.channel.engine import Engine
from support.channel_maker import Key, Maker
from support.scenarios import Scenario, consistent
from support.signer_site import STABLE, Site
from support.site_copies import copy_site
from support.sshd import sshd

TX = "tx-hostile-01"
CHANNELS = {"stable": {"path": STABLE}, "unstable": {"path": f"{STABLE}/unstable"}}
SPEC = "Name: mistralrs-arm\nVersion: 1.0\nRelease: 1\nSummary: x\nLicense: MIT\n%description\nx\n%files\n"


@dataclass(frozen=True)
class Attack:
    """A host, the attacker's connection to it, and the package of a legitimate publisher."""

    site: Site
    publisher: AgentClient
    honest: Package

    @property
    def engine(self) -> Engine:
        return replace(self.site.engine, agent=self.publisher)

    @property
    def head(self) -> Snapshot:
        return Snapshot.read(self.site.root / STABLE / "snapshots" / self.site.channel.head() / "snapshot.json")

    @property
    def held(self) -> list[Path]:
        """The head's packages, in the pool."""
        return [self.site.root / STABLE / "Packages" / package.path for package in self.site.channel.read().packages]

    @property
    def first(self) -> str:
        return min(path.name for path in (self.site.root / STABLE / "snapshots").iterdir())

    def public(self, snapshot: str, folder: Path) -> Transaction:
        """The public files of a published snapshot as an upload."""
        source = self.site.root / STABLE / "snapshots" / snapshot
        shutil.copytree(source, folder / "snapshot", ignore=shutil.ignore_patterns("Packages"))
        repodata = folder / "snapshot/repodata"
        for path in repodata.glob("*.gz"):  # repodata/ also keeps older metadata, for clients by baseurl
            if path.name not in (repodata / "repomd.xml").read_text():
                path.unlink()
        return Transaction(TX, Snapshot.read(folder / "snapshot/snapshot.json"), str(folder))

    def raw(self, folder: Path, transaction: str = TX) -> str:
        """Upload a folder as it is; returns rsync's stderr. Sending all names first is fastest."""
        return subprocess.run(
            ["rsync", "-rt", "--no-inc-recursive", "-e", " ".join(self.publisher.rsh), f"{folder}/",
             f"{self.publisher.host}:stable/{transaction}/"],
            env=os.environ | {"RSYNC_PROTECT_ARGS": "0", "RSYNC_OLD_ARGS": "0"},
            capture_output=True, text=True, errors="replace", check=False,
        ).stderr  # fmt: skip

    def command(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.publisher.rsh, self.publisher.host, text], capture_output=True, text=True, check=False
        )

    def refuses(self, transaction: Transaction, message: str, *, parent: str | None = None) -> None:
        """Assert that stage and publish refuse it; ``parent`` is the parent that the attacker claims."""
        self.publisher.upload(transaction)
        record = transaction.snapshot
        claimed = replace(transaction, snapshot=replace(record, parent=record.parent if parent is None else parent))
        for verb in (self.publisher.stage, self.publisher.publish):
            with pytest.raises(PipelineError, match=message) as error:
                verb(claimed)
            assert error.value.remedy


@pytest.fixture(scope="module")
def place(scenarios: dict[str, Scenario], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    """One host for all failing attacks; a legitimate transaction succeeds on it at the end."""
    scenario, folder = scenarios["prune"], tmp_path_factory.mktemp("hostile")
    site = copy_site(scenario.site, folder / "site", channels=CHANNELS)
    with sshd(folder / "sshd", site) as ssh, ssh.shared() as publisher:
        place = Attack(site, publisher, scenario.other)
        yield place
        assert place.engine.publish([scenario.other], reason="honest").changed
        consistent(site)
        assert site.engine.verify().findings == ()
        assert "Traceback" not in ssh.log


@pytest.fixture
def attack(place: Attack) -> Iterator[Attack]:
    before = place.site.served()
    yield place
    assert place.site.served() == before
    assert json.loads(place.command("head stable").stdout)["snapshot"] == place.site.channel.head()
    assert place.command(f"drop stable {TX}").returncode == 0
    assert not list((place.site.root / ".publisher/stable/incoming").iterdir())


@pytest.fixture
def maker(attack: Attack, tmp_path: Path) -> Maker:
    """Signs with the signer's key, for uploads that must be refused for another reason than their signature."""
    return Maker(tmp_path, Key(attack.site.signer.home, attack.site.signer.trusted_keys))


# Replays: signed snapshots are public


@pytest.mark.parametrize("which", ["first", "parent", "head"])
def test_a_replay_of_a_published_snapshot_is_refused(attack: Attack, tmp_path: Path, which: str) -> None:
    head = attack.head
    old = attack.public({"first": attack.first, "parent": head.parent, "head": head.id}[which], tmp_path)
    attack.refuses(old, "the head is")
    attack.refuses(old, "the snapshot's parent is", parent=head.id)
    attack.refuses(old, "the head is", parent="")


def test_the_first_snapshot_of_another_channel_is_refused(attack: Attack, tmp_path: Path) -> None:
    old = attack.public(attack.first, tmp_path)
    assert old.snapshot.parent == ""
    moved = replace(old, snapshot=replace(old.snapshot, channel="unstable"))
    attack.refuses(moved, "the snapshot is of the channel stable, not unstable")
    assert attack.command(f"drop unstable {TX}").returncode == 0


def test_a_mix_of_two_signed_snapshots_is_refused(attack: Attack, maker: Maker) -> None:
    held = attack.held
    one, other = (maker.compose(packages, parent=attack.head, before=held) for packages in (held[:1], held[1:]))
    shutil.copytree(Path(one.folder, "snapshot/repodata"), Path(other.folder, "snapshot/repodata"), dirs_exist_ok=True)
    attack.refuses(replace(other, id=TX), "the snapshot's id is not its time and the digest of its repomd.xml")


# Packages


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mistralrs-arm-1.0-1.aarch64.rpm", "the upload holds a file that belongs to no snapshot"),
        ("mistralrs-arm-1.0-1.x86_64.rpm", "the primary metadata is not fit for this channel"),
    ],
)
def test_a_package_for_another_architecture_is_refused(
    attack: Attack, maker: Maker, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "spec").write_text(SPEC)
    defines = ("--define", f"_rpmdir {tmp_path}", "--define", f"_rpmfilename {name}")
    argv = ["rpmbuild", "-bb", "--quiet", "--target", "aarch64", *defines, tmp_path / "spec"]
    subprocess.run(argv, capture_output=True, check=True)
    maker.key.sign_package(tmp_path / name)
    held = attack.held
    transaction = maker.compose([*held, tmp_path / name], parent=attack.head, before=held)
    attack.refuses(replace(transaction, id=TX), message)


# Names and numbers


def many(folder: Path) -> None:
    (folder / "Packages").mkdir()
    for number in range(10_000):
        (folder / f"Packages/a-{number}-1.x86_64.rpm").touch()


def many_folders(folder: Path) -> None:
    for number in range(5_000):
        (folder / f"{number}").mkdir()


def deep(folder: Path) -> None:
    """Create a tree whose longest path is close to PATH_MAX."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def odd(*names: bytes) -> Callable[[Path], None]:
    def place(folder: Path) -> None:
        for name in names:
            path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")

    return place


SHAPES: dict[str, Callable[[Path], None]] = {
    "ten thousand files": many,
    "thousands of folders": many_folders,
    "very deep folders": deep,
    "names that are not UTF-8": odd(b"Packages/\xff\xfe-1-1.x86_64.rpm", b"\x80"),
    "names with control characters": odd(b"Packages/a\nb-1-1.x86_64.rpm", b"Packages/\x1b[2J-1-1.x86_64.rpm", b"\r"),
    "names like options": odd(b"-rf", b"--delete", b"Packages/--root=x-1.x86_64.rpm"),
    "names like paths": odd(b"Packages/..x86_64.rpm", b"Packages/...", b"Packages/~", b"Packages/%2e%2e"),
    "the longest name": odd(b"Packages/" + b"a" * 239 + b"-1.x86_64.rpm"),
    "hidden files": odd(b".htaccess", b"Packages/.hidden.rpm", b"snapshot/.x"),
    "the agent's own files": odd(b"lock", b"journal", b"staged/x"),
}

STOPPED = {
    "ten thousand files": "the upload has more than 250 files",
    "thousands of folders": "the upload has more than 250 files",
    "very deep folders": "the upload has more than 250 files|not a plain file of a snapshot",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_upload_of_another_shape_is_refused(attack: Attack, tmp_path: Path, shape: str) -> None:
    SHAPES[shape](tmp_path)
    attack.raw(tmp_path)
    again = attack.raw(tmp_path)
    upload = attack.site.root / ".publisher/stable/incoming" / TX
    assert any(upload.iterdir())
    assert re.search(STOPPED.get(shape, ""), again)
    # Other commands still succeed.
    for text in ("head stable", "status stable", "prune stable --dry-run"):
        assert attack.command(text).returncode == 0
    for verb in ("stage", "publish"):
        done = attack.command(f"{verb} stable {TX} --parent {attack.head.id}")
        assert done.returncode == 1
        assert json.loads(done.stderr)["error"]


# Timing


@pytest.fixture
def own(scenarios: dict[str, Scenario], tmp_path: Path) -> Iterator[Attack]:
    """A host for one attack during legitimate publications."""
    site = copy_site(scenarios["prune"].site, tmp_path / "site", channels=CHANNELS)
    with sshd(tmp_path / "sshd", site) as ssh, ssh.shared() as publisher:
        yield Attack(site, publisher, scenarios["prune"].other)
        consistent(site)
        assert site.engine.verify().findings == ()


def test_an_upload_changed_after_staging_is_published_as_staged(own: Attack, tmp_path: Path) -> None:
    """rsync writes into no file of the pool."""
    package = own.honest
    transaction = own.engine.stage([package], reason="to be proven").transaction
    assert transaction
    pool = own.site.root / STABLE / "Packages" / package.filename
    before, status = pool.read_bytes(), pool.stat()

    (packages := tmp_path / "changed/Packages").mkdir(parents=True)
    for data in (b"x" * package.size, before[:-1] + b"x", before + b"x", before[:100], before):
        (packages / package.filename).write_bytes(data)
        os.utime(packages / package.filename, (1, 1))
        own.raw(tmp_path / "changed", transaction.id)
        assert pool.read_bytes() == before
        assert pool.stat().st_mtime == status.st_mtime
    published = own.engine.publish_staged(transaction, [package])
    assert published.snapshot == transaction.snapshot
    assert pool.read_bytes() == before


def test_an_upload_that_never_ends_blocks_only_itself(own: Attack) -> None:
    receive = f"rsync --server -tre.iLsfxCIvu --timeout=9999 . stable/{TX}/"
    silent = subprocess.Popen(
        [*own.publisher.rsh, own.publisher.host, receive],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert silent.stdin
    assert silent.stdout
    with silent:
        try:
            assert silent.stdout.read(1)
            assert own.engine.publish([own.honest], reason="meanwhile").changed
            assert own.command(f"publish stable {TX} --parent {own.head.id}").returncode == 4
            for text in ("prune stable", "verify stable", "status stable"):
                assert own.command(text).returncode == 0
        finally:
            silent.kill()
