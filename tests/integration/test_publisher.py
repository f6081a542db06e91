"""The publisher agent with real rsync, gpg and rpm: what it publishes, what it refuses, what a kill leaves.

A refusal is always shown with its message and with a tree that is as it was.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from channel_maker import Key, Maker, make_package
from pipeline.errors import PipelineError
from pipeline.publisher import ParentMoved, Publisher
from pipeline.records import Snapshot, Transaction

PROGRAM = Path(__file__).parents[2] / "roles/publisher/files/mistralrs-publisher"
CHANNELS = {"stable": "fedora/43/x86_64", "unstable": "fedora/43/x86_64/unstable"}


@dataclass(frozen=True)
class Host:
    """A repo host on this machine."""

    folder: Path
    key: Path

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        config = {
            "root": str(self.root),
            "base_url": "http://repo/",
            "key": str(self.key),
            "channels": CHANNELS,
        }
        self.config.write_text(json.dumps(config))

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def config(self) -> Path:
        return self.folder / "publisher.json"

    @property
    def stable(self) -> Path:
        return self.root / CHANNELS["stable"]

    @property
    def state(self) -> Path:
        return self.root / ".publisher/stable"

    @property
    def publisher(self) -> Publisher:
        return Publisher([str(PROGRAM), "--config", str(self.config), "--rsh"], "local")

    def publish(self, transaction: Transaction) -> Snapshot:
        self.publisher.upload(transaction)
        assert self.publisher.commit(transaction) == transaction.snapshot.id
        return transaction.snapshot

    def incoming(self, transaction: Transaction) -> Path:
        return self.state / "incoming" / transaction.id

    def tree(self) -> dict[str, str]:
        """All that is served, and the journal: mode, and link target or digest, by path."""
        found = {}
        for path in [*self.root.rglob("*"), self.state / "journal"]:
            name = str(path.relative_to(self.root))
            if not path.is_symlink() and not path.exists():
                continue
            if name.startswith(".publisher") and path.name != "journal":
                continue
            if path.is_symlink():
                content = str(path.readlink())
            else:
                content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            found[name] = f"{path.lstat().st_mode:o} {content}"
        return found


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return {
        "trusted": Key.make(folder / "trusted"),
        "other": Key.make(folder / "other"),
        "expired": Key.make(folder / "expired", clock="20200101T000000!", expire="1d"),
    }


@pytest.fixture(scope="session")
def rpms(keys: dict[str, Key], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rpms")
    trusted = keys["trusted"]
    return {
        "1.0": make_package(folder, "1.0", arch="x86_64", key=trusted),
        "1.1": make_package(folder, "1.1", key=trusted),
        "1.2": make_package(folder, "1.2", key=trusted),
        "1.0 again": make_package(folder / "again", "1.0", arch="x86_64", text="other bytes", key=trusted),
        "unsigned": make_package(folder / "unsigned", "1.1"),
        "other key": make_package(folder / "other", "1.1", key=keys["other"]),
    }


@pytest.fixture(scope="session")
def published(
    keys: dict[str, Key], rpms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Host, Snapshot]:
    """A host whose channel stable holds 1.0. Tests work on copies."""
    folder = tmp_path_factory.mktemp("published")
    host = Host(folder / "host", keys["trusted"].public)
    return host, host.publish(Maker(folder / "uploads", keys["trusted"]).compose([rpms["1.0"]]))


@pytest.fixture
def host(published: tuple[Host, Snapshot], tmp_path: Path) -> Host:
    return copy_of(published[0], tmp_path / "host")


def copy_of(host: Host, folder: Path) -> Host:
    shutil.copytree(host.folder, folder, symlinks=True)
    return Host(folder, host.key)


@pytest.fixture
def first(published: tuple[Host, Snapshot]) -> Snapshot:
    return published[1]


@pytest.fixture
def maker(keys: dict[str, Key], tmp_path: Path) -> Maker:
    return Maker(tmp_path / "uploads", keys["trusted"])


@pytest.fixture
def second(maker: Maker, rpms: dict[str, Path], first: Snapshot) -> Transaction:
    """1.1 is added to 1.0."""
    return maker.compose([rpms["1.0"], rpms["1.1"]], parent=first, before=[rpms["1.0"]])


@pytest.fixture(scope="session")
def agent() -> ModuleType:
    sys.dont_write_bytecode = True
    loader = SourceFileLoader("mistralrs_publisher", str(PROGRAM))
    module = ModuleType(loader.name)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


# What it publishes


def test_the_first_snapshot_of_a_channel(keys: dict[str, Key], rpms: dict[str, Path], tmp_path: Path) -> None:
    host = Host(tmp_path / "host", keys["trusted"].public)
    os.umask(0o077)
    try:
        assert host.publisher.head("stable") == ""
        snapshot = host.publish(Maker(tmp_path / "uploads", keys["trusted"]).compose([rpms["1.0"]]))
    finally:
        os.umask(0o022)
    assert host.publisher.head("stable") == snapshot.id
    folder = host.stable / "snapshots" / snapshot.id
    assert (host.stable / "mirrorlist").read_text() == f"http://repo/fedora/43/x86_64/snapshots/{snapshot.id}/\n"
    assert (host.stable / "repodata").readlink() == Path(f"snapshots/{snapshot.id}/repodata")
    assert (folder / "Packages" / rpms["1.0"].name).read_bytes() == rpms["1.0"].read_bytes()
    assert Snapshot.read(folder / "snapshot.json") == snapshot
    assert {line.split()[0] for name, line in host.tree().items() if name.startswith("fedora/")} == {
        "40755", "100644", "120777"
    }  # fmt: skip
    assert (host.root / ".publisher").stat().st_mode & 0o777 == 0o700
    assert list((host.state / "incoming").iterdir()) == []


def test_the_next_snapshot_keeps_what_was(
    host: Host, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    before = host.tree()
    snapshot = host.publish(second)
    after = host.tree()
    changed = {"mirrorlist", "repodata"}
    assert {Path(name).name for name in before if before[name] != after.get(name)} == {*changed, "journal"}
    assert sorted(path.name for path in (host.stable / "Packages").iterdir()) == sorted(
        [rpms["1.0"].name, rpms["1.1"].name]
    )
    # A client of the plain repodata/ that read the old repomd.xml still finds what that names.
    old = {path.name for path in (host.stable / "snapshots" / first.id / "repodata").glob("*.gz")}
    assert old < {path.name for path in (host.stable / "repodata").iterdir()}
    journal = [json.loads(line) for line in (host.state / "journal").read_text().splitlines()]
    assert [entry["snapshot"] for entry in journal] == [first.id, snapshot.id]
    assert journal[1]["parent"] == first.id
    assert (journal[1]["added"], journal[1]["transaction"]) == ([rpms["1.1"].name], second.id)


def test_a_commit_that_is_asked_again_answers_the_same(host: Host, second: Transaction) -> None:
    snapshot, tree = host.publish(second), host.tree()
    assert host.publisher.commit(second) == snapshot.id
    assert host.tree() == tree


def test_two_transactions_of_one_id_are_told_apart(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    other = maker.compose([rpms["1.0"], rpms["1.2"]], parent=first, before=[rpms["1.0"]])
    host.publish(second)
    tree = host.tree()
    with pytest.raises(ParentMoved, match="was published by a transaction of the same id"):
        host.publisher.commit(replace(other, id=second.id))
    assert host.tree() == tree


def test_a_package_leaves_and_comes_back_from_the_pool(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    old, both = [rpms["1.0"]], [rpms["1.0"], rpms["1.1"]]
    snapshot = host.publish(second)
    snapshot = host.publish(maker.compose(old, parent=snapshot, before=both))
    assert snapshot.removed == (rpms["1.1"].name,)
    assert (host.stable / "Packages" / rpms["1.1"].name).is_file()
    snapshot = host.publish(maker.compose(both, parent=snapshot, before=old, new=[]))
    assert host.publisher.head("stable") == snapshot.id


def test_an_empty_snapshot(host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path]) -> None:
    host.publish(maker.compose([], parent=first, before=[rpms["1.0"]]))


def test_the_same_bytes_may_come_again(host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path]) -> None:
    both = [rpms["1.0"], rpms["1.1"]]
    host.publish(maker.compose(both, parent=first, before=[rpms["1.0"]], new=both))


def test_channels_do_not_know_each_other(host: Host, maker: Maker, rpms: dict[str, Path]) -> None:
    stable = host.publisher.head("stable")
    host.publish(replace(maker, channel="unstable").compose([rpms["1.2"]]))
    assert host.publisher.head("stable") == stable
    assert (host.stable / "unstable/mirrorlist").is_file()


def test_an_upload_that_was_cut_off_goes_on(host: Host, second: Transaction, rpms: dict[str, Path]) -> None:
    host.publisher.upload(second)
    cut = host.incoming(second) / "Packages" / rpms["1.1"].name
    os.truncate(cut, 1000)
    refused(host, second, "the file is not the one that the signed metadata names")
    (cut.parent / f".{cut.name}.Ab3dEf").write_bytes(b"left by a killed rsync")
    host.publish(second)


def test_an_upload_that_was_composed_again(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    """A composer may name a transaction by what it does: the same id, with other metadata."""
    more = [rpms["1.0"], rpms["1.1"], rpms["1.2"]]
    again = replace(maker.compose(more, parent=first, before=[rpms["1.0"]]), id=second.id)
    host.publisher.upload(second)
    host.publish(again)


def test_rotation_two_trusted_keys(keys: dict[str, Key], rpms: dict[str, Path], tmp_path: Path) -> None:
    both = tmp_path / "both.asc"
    both.write_text(keys["other"].public.read_text() + keys["trusted"].public.read_text())
    Host(tmp_path / "host", both).publish(Maker(tmp_path / "up", keys["trusted"]).compose([rpms["1.0"]]))
    host = Host(tmp_path / "host2", both)
    host.publish(Maker(tmp_path / "up2", keys["other"]).compose([rpms["other key"]]))


# What it refuses


def refused(host: Host, transaction: Transaction, message: str) -> None:
    tree = host.tree()
    with pytest.raises(PipelineError, match=message) as error:
        host.publisher.commit(transaction)
    assert error.value.remedy
    assert host.tree() == tree
    assert not (host.state / "pending").exists()


def test_the_second_of_two_publishers_composes_again(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    late = maker.compose([rpms["1.0"], rpms["1.2"]], parent=first, before=[rpms["1.0"]])
    host.publisher.upload(late)
    snapshot, tree = host.publish(second), host.tree()
    with pytest.raises(ParentMoved, match=f"the head is {snapshot.id}, no longer {first.id}"):
        host.publisher.commit(late)
    assert host.tree() == tree
    both = [rpms["1.0"], rpms["1.1"]]
    host.publish(maker.compose([*both, rpms["1.2"]], parent=snapshot, before=both))


def test_two_publishers_at_once(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    rivals = [second, maker.compose([rpms["1.0"], rpms["1.2"]], parent=first, before=[rpms["1.0"]])]
    outcomes: list[str] = []

    def publish(transaction: Transaction) -> None:
        host.publisher.upload(transaction)
        try:
            outcomes.append(host.publisher.commit(transaction))
        except ParentMoved:
            outcomes.append("moved")

    threads = [threading.Thread(target=publish, args=[rival]) for rival in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted([host.publisher.head("stable"), "moved"])


def test_an_old_transaction_is_not_played_again(
    host: Host,
    published: tuple[Host, Snapshot],
    maker: Maker,
    first: Snapshot,
    second: Transaction,
    rpms: dict[str, Path],
) -> None:
    snapshot = host.publish(second)
    tree = host.tree()
    host.publisher.upload(second)
    with pytest.raises(ParentMoved):
        host.publisher.commit(replace(second, id="another-transaction"))
    # Under a name of its own, and with the parent that the agent asks for: the signed record tells.
    replay = replace(second, id="replayed-0001")
    host.publisher.upload(replay)
    lying = replace(replay, snapshot=replace(second.snapshot, parent=snapshot.id))
    refused(host, lying, f"the snapshot's parent is {first.id}, not {snapshot.id}")
    assert host.tree() == tree


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("unsigned", "the package is not signed by the trusted key"),
        ("other key", "the package is not signed by the trusted key"),
    ],
)
def test_a_package_without_the_trusted_signature(
    host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path], which: str, message: str
) -> None:
    transaction = maker.compose([rpms["1.0"], rpms[which]], parent=first, before=[rpms["1.0"]])
    host.publisher.upload(transaction)
    refused(host, transaction, message)


def test_a_published_name_with_other_bytes(host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path]) -> None:
    transaction = maker.compose([rpms["1.0 again"]], parent=first, added=())
    host.publisher.upload(transaction)
    refused(host, transaction, "the pool has other bytes under this name")


def test_a_removed_name_with_other_bytes(host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path]) -> None:
    empty = host.publish(maker.compose([], parent=first, before=[rpms["1.0"]]))
    transaction = maker.compose([rpms["1.0 again"]], parent=empty)
    host.publisher.upload(transaction)
    refused(host, transaction, "the pool has other bytes under this name")


@pytest.mark.parametrize("text", ["nonsense", ""])
def test_a_trusted_key_that_is_none(host: Host, second: Transaction, tmp_path: Path, text: str) -> None:
    key = tmp_path / "key.asc"
    key.write_text(text)
    host = Host(host.folder, key)
    host.publisher.upload(second)
    refused(host, second, "the trusted key cannot be read: it holds no armored public key")


def test_a_trusted_key_that_has_expired(keys: dict[str, Key], rpms: dict[str, Path], tmp_path: Path) -> None:
    host = Host(tmp_path / "host", keys["expired"].public)
    transaction = Maker(tmp_path / "uploads", keys["expired"]).compose([rpms["1.0"]])
    host.publisher.upload(transaction)
    refused(host, transaction, r"this is not one good signature by the trusted key \(EXPKEYSIG")


def test_another_key_than_the_trusted(
    host: Host, keys: dict[str, Key], first: Snapshot, rpms: dict[str, Path], tmp_path: Path
) -> None:
    maker = Maker(tmp_path / "theirs", keys["other"])
    transaction = maker.compose([rpms["1.0"], rpms["1.1"]], parent=first, before=[rpms["1.0"]])
    host.publisher.upload(transaction)
    refused(host, transaction, "this is not one good signature by the trusted key")


def double_signature(maker: Maker, folder: Path) -> None:
    record = folder / "snapshot/snapshot.json"
    maker.key.gpg("--detach-sign", "--output", folder / "binary", record)
    armored = base64.encodebytes((folder / "binary").read_bytes() * 2).decode()
    (folder / "binary").unlink()
    text = f"-----BEGIN PGP SIGNATURE-----\n\n{armored}-----END PGP SIGNATURE-----\n"
    record.with_name("snapshot.json.asc").write_text(text)


def append(name: str, data: bytes = b"x") -> Callable[[Maker, Path], None]:
    def damage(_: Maker, folder: Path) -> None:
        (path,) = folder.glob(name)
        path.write_bytes(path.read_bytes() + data)

    return damage


def flip(name: str) -> Callable[[Maker, Path], None]:
    def damage(_: Maker, folder: Path) -> None:
        (path,) = folder.glob(name)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return damage


def place(name: str) -> Callable[[Maker, Path], None]:
    def damage(_: Maker, folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")

    return damage


def remove(name: str) -> Callable[[Maker, Path], None]:
    def damage(_: Maker, folder: Path) -> None:
        (path,) = folder.glob(name)
        path.unlink()

    return damage


def link_folder(_: Maker, folder: Path) -> None:
    (folder / "Packages").rename(folder.parent / "away")
    (folder / "Packages").symlink_to(folder.parent / "away")


DAMAGE: dict[str, tuple[Callable[[Maker, Path], object], str]] = {
    "package altered": (flip("Packages/*"), "the file is not the one that the signed metadata names"),
    "package missing": (remove("Packages/*"), "a package is neither in the pool nor in the upload"),
    "package extra": (
        place("Packages/evil-1-1.noarch.rpm"),
        "the metadata does not name this uploaded package",
    ),
    "primary altered": (flip("snapshot/repodata/*-primary*"), "the file is not the one"),
    "primary missing": (
        remove("snapshot/repodata/*-primary*"),
        "repodata/ does not hold just what repomd.xml names",
    ),
    "metadata extra": (
        place(f"snapshot/repodata/{'0' * 64}-group.xml.gz"),
        "repodata/ does not hold just what repomd.xml names",
    ),
    "repomd altered": (
        append("snapshot/repodata/repomd.xml", b"\n"),
        "this is not one good signature.*BADSIG",
    ),
    "repomd unsigned": (remove("snapshot/repodata/repomd.xml.asc"), "the upload is incomplete"),
    "record altered": (append("snapshot/snapshot.json", b"\n"), "this is not one good signature.*BADSIG"),
    "signed twice": (double_signature, "this is not one good signature.*GOODSIG, VALIDSIG, GOODSIG"),
    "list altered": (append("snapshot/packages.txt"), "packages.txt has a line that is not"),
    "list shorter": (
        lambda _, folder: (folder / "snapshot/packages.txt").write_text(""),
        "packages.txt and the primary metadata name different packages",
    ),
    "extra file": (place("snapshot/index.html"), "the upload holds a file that belongs to no snapshot"),
    "extra folder": (place("snapshot/more/index.html"), "something that is not a plain file of a snapshot"),
    "symbolic link": (
        lambda _, folder: (folder / "Packages/a-1-1.noarch.rpm").symlink_to("/etc/passwd"),
        "something that is not a plain file of a snapshot",
    ),
    "folder as link": (link_folder, "something that is not a plain file of a snapshot"),
    "fifo": (
        lambda _, folder: os.mkfifo(folder / "Packages/a-1-1.noarch.rpm"),
        "something that is not a plain file of a snapshot",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_an_upload_that_was_tampered_with(host: Host, maker: Maker, second: Transaction, what: str) -> None:
    damage, message = DAMAGE[what]
    host.publisher.upload(second)
    damage(maker, host.incoming(second))
    refused(host, second, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel": "unstable"}, "the snapshot is of the channel unstable, not stable"),
        ({"added": ()}, "snapshot.json names other changes than packages.txt shows"),
        ({"removed": ("x",)}, "snapshot.json names other changes than packages.txt shows"),
        ({"time": 2**33}, "the snapshot's time 8589934592 is before its parent's or in the future"),
        ({"time": 1}, "the snapshot's time 1 is before its parent's"),
        ({"time": "1"}, "snapshot.json is not a snapshot's record"),
        ({"id": "20261121T105321Z-00000000"}, "the snapshot's id is not its time and the digest"),
        ({"id": "../../../../etc"}, "the snapshot's id is not its time and the digest"),
    ],
)
def test_a_signed_record_that_does_not_fit(
    host: Host, maker: Maker, second: Transaction, changes: dict[str, Any], message: str
) -> None:
    maker.change_record(second, **changes)
    host.publisher.upload(second)
    refused(host, second, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('href="Packages/mistralrs-ada-1.1', 'href="../mistralrs-ada-1.1', "is not at Packages/"),
        ("<location href", '<location xml:base="http://x/" href', "is not at Packages/"),
        ("<arch>noarch</arch>", "<arch>aarch64</arch>", "is no name of a package for x86_64"),
        ('ver="1.1"', 'ver="1.0"', "is not at Packages/"),
        ('type="sha256"', 'type="md5"', "has no sha256"),
        ("</metadata>", "", "the primary metadata is not fit for this channel"),
    ],
)  # fmt: skip
def test_signed_metadata_that_does_not_fit(
    host: Host, maker: Maker, second: Transaction, old: str, new: str, message: str
) -> None:
    forged = maker.forge_primary(second, old, new)
    host.publisher.upload(forged)
    refused(host, forged, message)


def test_a_file_that_is_not_named_after_its_package(
    host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path], tmp_path: Path
) -> None:
    """The signed metadata may say what it likes: rpm's own name decides."""
    false = tmp_path / "mistralrs-ada-9.9-1.noarch.rpm"
    shutil.copy2(rpms["1.1"], false)
    transaction = maker.compose([rpms["1.0"], false], parent=first, before=[rpms["1.0"]])
    path = Path(transaction.folder, "snapshot/packages.txt")
    forged = maker.forge_primary(transaction, 'ver="1.1"', 'ver="9.9"')
    assert "9.9" in path.read_text()
    host.publisher.upload(forged)
    refused(host, forged, "the file is not named after its package, mistralrs-ada-1.1-1.noarch.rpm")


def test_a_revision_that_is_not_raised(
    host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Maker.write_metadata

    def first_revision(maker: Maker, repodata: Path, packages: list[Path], revision: int) -> None:
        write(maker, repodata, packages, 1)

    monkeypatch.setattr(Maker, "write_metadata", first_revision)
    transaction = maker.compose([rpms["1.0"], rpms["1.1"]], parent=first, before=[rpms["1.0"]])
    host.publisher.upload(transaction)
    refused(host, transaction, "the metadata's revision 1 is not above its parent's")


def test_there_is_nothing_to_commit(host: Host, second: Transaction) -> None:
    refused(host, second, "there is no such upload")


def test_another_tools_repodata_is_left_alone(keys: dict[str, Key], rpms: dict[str, Path], tmp_path: Path) -> None:
    host = Host(tmp_path / "host", keys["trusted"].public)
    (host.stable / "repodata").mkdir(parents=True)
    transaction = Maker(tmp_path / "uploads", keys["trusted"]).compose([rpms["1.0"]])
    host.publisher.upload(transaction)
    refused(host, transaction, "repodata is not a link that this agent made")


# What comes over ssh


def ssh(host: Host, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "--config", host.config, "--ssh"],
        env={**os.environ, "SSH_ORIGINAL_COMMAND": command, "SSH_CONNECTION": "192.0.2.7 1 192.0.2.1 22"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_forced_command(host: Host, first: Snapshot, second: Transaction) -> None:
    assert json.loads(ssh(host, "head stable").stdout) == {"snapshot": first.id, "path": CHANNELS["stable"]}
    host.publisher.upload(second)
    done = ssh(host, f"commit stable {second.id} --parent {first.id}")
    assert json.loads(done.stdout) == {"snapshot": second.snapshot.id}
    assert "192.0.2.7" in (host.state / "journal").read_text()


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("", 2, "this command is not allowed here"),
        ("sh -c id", 2, "this command is not allowed here"),
        ("head nightly", 2, "there is no channel nightly"),
        ("rsync --server --sender -re.iLsfxCIvu . stable/00000000/", 2, "this command is not allowed here"),
        ("commit stable 00000000 --parent -", 3, "the head is"),
    ],
)
def test_refusals_over_ssh(host: Host, command: str, status: int, message: str) -> None:
    tree, done = host.tree(), ssh(host, command)
    assert (done.returncode, done.stdout) == (status, "")
    said = json.loads(done.stderr)
    assert message in said["error"]
    assert said["remedy"]
    assert host.tree() == tree


@pytest.mark.parametrize(
    "words",
    [
        ["-rt", "--delete", "UPLOAD/", "local:stable/tx-000001/"],
        ["-a", "UPLOAD/", "local:stable/tx-000001/"],
        ["-rtl", "UPLOAD/", "local:stable/tx-000001/"],
        ["-rt", "--secluded-args", "UPLOAD/", "local:stable/tx-000001/"],
        ["-rt", "UPLOAD/", "local:stable/../../x-000001/"],
        ["-rt", "UPLOAD/", "local:stable/tx-000001/../../"],
        ["-rt", "UPLOAD/", "local:/tmp/"],
        ["-rt", "local:stable/tx-000001/", "UPLOAD/"],
        ["-r", "local:/etc/", "UPLOAD/"],
    ],
)
def test_what_rsync_may_not(host: Host, second: Transaction, words: list[str]) -> None:
    tree = host.tree()
    argv = [word.replace("UPLOAD", second.folder) for word in words]
    shell = " ".join(host.publisher.rsh)
    done = subprocess.run(["rsync", "-e", shell, *argv], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "this command is not allowed here" in done.stderr
    assert host.tree() == tree
    assert list((host.state / "incoming").iterdir()) == []


def test_links_do_not_travel(host: Host, second: Transaction) -> None:
    Path(second.folder, "Packages/a-1-1.noarch.rpm").symlink_to("/etc/passwd")
    host.publish(second)


def test_an_upload_in_progress_is_not_committed(host: Host, second: Transaction, first: Snapshot) -> None:
    host.publisher.upload(second)
    receive = [*host.publisher.rsh, "local", f"rsync --server -tre.iLsfxCIvu . stable/{second.id}/"]
    busy = subprocess.Popen(receive, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert busy.stdin
    assert busy.stdout
    with busy:
        busy.stdout.read(1)  # rsync has begun
        refused(host, second, "the upload is still being written")
        with pytest.raises(PipelineError, match="this transaction is being uploaded or committed already"):
            host.publisher.upload(second)
        busy.kill()
    host.publish(second)


# What a kill leaves

WRITES = ("os.rename", "os.link", "os.symlink", "shutil.rmtree")


def served(agent: ModuleType, host: Host, command: str, step: int = 0) -> int:
    """One command in a process that is killed before its ``step``-th write; the process's wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    steps = 0

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal steps
        opens = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
        unlinks = event == "os.remove" and args[1] == -1  # rmtree's are by descriptor, and one step
        # Before it tells what it is about to do, it only reads.
        if (opens or unlinks or event in WRITES) and (steps or str(args[0]).endswith("pending.new")):
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    with suppress(BaseException):
        sys.addaudithook(count)
        os._exit(agent.main(["--config", str(host.config), "--rsh", "local", command]))
    os._exit(9)


def consistent(host: Host, snapshot: str) -> None:
    """What a client reads by the mirrorlist and by the plain repodata/ is all there."""
    for folder in (host.stable / "snapshots" / snapshot, (host.stable / "repodata").resolve().parent):
        for line in (folder / "packages.txt").read_text().splitlines():
            digest, name = line.split()
            assert hashlib.sha256((folder / "Packages" / name).read_bytes()).hexdigest() == digest
        assert (folder / "repodata/repomd.xml.asc").is_file()
        assert len(list((folder / "repodata").glob("*.gz"))) >= 3


def test_killed_at_every_step(
    agent: ModuleType, host: Host, first: Snapshot, second: Transaction, tmp_path: Path
) -> None:
    host.publisher.upload(second)
    commit = f"commit stable {second.id} --parent {first.id}"
    old = host.tree()
    whole = copy_of(host, tmp_path / "whole")
    assert served(agent, whole, commit) == 0
    new = whole.tree()
    seen, step, status = [], 0, 9
    while status:
        step += 1
        victim = copy_of(host, tmp_path / "victim")
        status = served(agent, victim, commit, step)
        assert status in (0, signal.SIGKILL), "the commit failed before its step"
        head = (victim.stable / "mirrorlist").read_text().split("/")[-2]
        consistent(victim, head)
        seen.append(head)
        # Any call clears up; what was not committed then is as if it had never begun.
        assert served(agent, victim, "head stable") == 0
        assert not (victim.state / "pending").exists()
        if head == first.id:
            assert victim.tree() == old
        assert served(agent, victim, commit) == 0
        left = victim.tree()
        assert left.keys() == new.keys()
        assert [name for name in new if left[name] != new[name]] in (
            [],
            [".publisher/stable/journal"],
        )  # its time
        assert len((victim.state / "journal").read_text().splitlines()) == 2
        shutil.rmtree(victim.folder)
    assert step > 20
    assert seen == sorted(seen, key=[first.id, second.snapshot.id].index)
    assert set(seen) == {first.id, second.snapshot.id}


def test_a_disk_that_is_full(
    agent: ModuleType,
    host: Host,
    second: Transaction,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    host.publisher.upload(second)
    tree = host.tree()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "staging")

    words = ["--config", str(host.config), "--rsh", "local", "commit", "stable", second.id, "--parent"]
    with monkeypatch.context() as patch:
        patch.setattr(agent, "recent_metadata", full)
        assert agent.main([*words, second.snapshot.parent]) == 1
    said = json.loads(capfd.readouterr().err)
    assert said["error"] == "the repo host failed: No space left on device"
    assert "commit the same transaction again" in said["remedy"]
    assert host.tree() == tree
    assert host.publisher.commit(second) == second.snapshot.id


# The role


@pytest.fixture
def playbook(tmp_path: Path, keys: dict[str, Key]) -> Callable[..., str]:
    rows = {name: {"path": path} for name, path in CHANNELS.items()}
    variables = {
        "publisher_root": str(tmp_path / "srv"),
        "publisher_base_url": "http://repo",
        "publisher_key": str(keys["trusted"].public),
        "publisher_channels": rows,
        "publisher_program": str(tmp_path / "libexec/mistralrs-publisher"),
        "publisher_config": str(tmp_path / "etc/publisher.json"),
    }
    play = [{"hosts": "localhost", "gather_facts": False, "roles": ["publisher"]}]
    (tmp_path / "ansible.cfg").touch()
    (tmp_path / "play.yml").write_text(json.dumps(play))
    (tmp_path / "vars.json").write_text(json.dumps(variables))

    def run(*words: str) -> str:
        ansible = shutil.which("ansible-playbook", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert ansible
        done = subprocess.run(
            [ansible, "-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}",
             "-e", f"@{tmp_path}/vars.json", *words, tmp_path / "play.yml"],
            env={**os.environ, "ANSIBLE_ROLES_PATH": str(PROGRAM.parents[2]),
                 "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "failed=0" in done.stdout, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_role_installs_an_agent_that_publishes(
    playbook: Callable[..., str], keys: dict[str, Key], rpms: dict[str, Path], tmp_path: Path
) -> None:
    playbook("--check")
    assert not (tmp_path / "srv").exists()
    playbook()
    assert "changed=0" in playbook()
    rsh = [
        str(tmp_path / "libexec/mistralrs-publisher"),
        "--config",
        str(tmp_path / "etc/publisher.json"),
        "--rsh",
    ]
    publisher = Publisher(rsh, "local")
    transaction = Maker(tmp_path / "uploads", keys["trusted"]).compose([rpms["1.0"]])
    publisher.upload(transaction)
    assert publisher.commit(transaction) == publisher.head("stable")


def test_the_role_refuses_a_config_that_the_agent_cannot_use(playbook: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="unfit root or channel"):
        playbook("-e", '{"publisher_channels": {"Stable/..": {"path": "x"}}}')
    assert not (tmp_path / "etc/publisher.json").exists()
