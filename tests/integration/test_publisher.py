"""The publisher agent with real rsync, gpg and rpm: transactions that it publishes and transactions that it refuses.

Every test of a refusal asserts the message and an unchanged tree.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipeline.base.records import Snapshot, Transaction
from pipeline.channel.agent_client import ParentMoved
from support.channel_maker import Key, Maker
from support.publisher_host import Host, refused

# Published


def test_the_first_snapshot_of_a_channel_is_published(
    keys: dict[str, Key], rpms: dict[str, Path], tmp_path: Path
) -> None:
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


def test_the_next_snapshot_keeps_the_older_files(
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
    # A client by baseurl that read the old repomd.xml still finds the metadata that it names.
    old = {path.name for path in (host.stable / "snapshots" / first.id / "repodata").glob("*.gz")}
    assert old < {path.name for path in (host.stable / "repodata").iterdir()}
    journal = [json.loads(line) for line in (host.state / "journal").read_text().splitlines()]
    assert [entry["snapshot"] for entry in journal] == [first.id, snapshot.id]
    assert journal[1]["parent"] == first.id
    assert (journal[1]["added"], journal[1]["transaction"]) == ([rpms["1.1"].name], second.id)


def test_publishing_is_idempotent(host: Host, second: Transaction) -> None:
    snapshot, tree = host.publish(second), host.tree()
    assert host.publisher.publish(second) == snapshot.id
    assert host.tree() == tree


def test_a_second_transaction_of_the_same_id_is_refused(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    other = maker.compose([rpms["1.0"], rpms["1.2"]], parent=first, before=[rpms["1.0"]])
    host.publish(second)
    tree = host.tree()
    with pytest.raises(ParentMoved, match="was published by a transaction of the same id"):
        host.publisher.publish(replace(other, id=second.id))
    assert host.tree() == tree


def test_a_removed_package_can_be_added_again_from_the_pool(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    old, both = [rpms["1.0"]], [rpms["1.0"], rpms["1.1"]]
    snapshot = host.publish(second)
    snapshot = host.publish(maker.compose(old, parent=snapshot, before=both))
    assert snapshot.removed == (rpms["1.1"].name,)
    assert (host.stable / "Packages" / rpms["1.1"].name).is_file()
    snapshot = host.publish(maker.compose(both, parent=snapshot, before=old, new=[]))
    assert host.publisher.head("stable") == snapshot.id


def test_an_empty_snapshot_is_published(host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path]) -> None:
    host.publish(maker.compose([], parent=first, before=[rpms["1.0"]]))


def test_a_package_may_be_uploaded_again(host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path]) -> None:
    both = [rpms["1.0"], rpms["1.1"]]
    host.publish(maker.compose(both, parent=first, before=[rpms["1.0"]], new=both))


def test_channels_are_independent(host: Host, maker: Maker, rpms: dict[str, Path]) -> None:
    stable = host.publisher.head("stable")
    host.publish(replace(maker, channel="unstable").compose([rpms["1.2"]]))
    assert host.publisher.head("stable") == stable
    assert (host.stable / "unstable/mirrorlist").is_file()


def test_an_interrupted_upload_is_resumed(host: Host, second: Transaction, rpms: dict[str, Path]) -> None:
    host.publisher.upload(second)
    cut = host.incoming(second) / "Packages" / rpms["1.1"].name
    os.truncate(cut, 1000)
    refused(host, second, "the file is not the one that the signed metadata names")
    (cut.parent / f".{cut.name}.Ab3dEf").write_bytes(b"left by a killed rsync")
    host.publish(second)


def test_a_second_upload_replaces_the_metadata_of_a_transaction(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    """The id of a transaction depends on its purpose, so a repeated composition has the same id and other metadata."""
    more = [rpms["1.0"], rpms["1.1"], rpms["1.2"]]
    again = replace(maker.compose(more, parent=first, before=[rpms["1.0"]]), id=second.id)
    host.publisher.upload(second)
    host.publish(again)


def test_an_uploaded_package_that_the_metadata_does_not_name_is_ignored(
    host: Host, second: Transaction, rpms: dict[str, Path]
) -> None:
    host.publisher.upload(second)
    for name in (rpms["1.2"].name, "evil-1-1.noarch.rpm"):
        (host.incoming(second) / "Packages" / name).write_text("x")
    host.publish(second)
    assert {path.name for path in (host.stable / "Packages").iterdir()} == {rpms["1.0"].name, rpms["1.1"].name}


def test_any_of_two_trusted_keys_may_sign(keys: dict[str, Key], rpms: dict[str, Path], tmp_path: Path) -> None:
    both = tmp_path / "both.asc"
    both.write_text(keys["other"].public.read_text() + keys["trusted"].public.read_text())
    Host(tmp_path / "host", both).publish(Maker(tmp_path / "up", keys["trusted"]).compose([rpms["1.0"]]))
    host = Host(tmp_path / "host2", both)
    host.publish(Maker(tmp_path / "up2", keys["other"]).compose([rpms["other key"]]))


# Refused


def test_the_second_of_two_publishers_must_compose_again(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    late = maker.compose([rpms["1.0"], rpms["1.2"]], parent=first, before=[rpms["1.0"]])
    host.publisher.upload(late)
    snapshot, tree = host.publish(second), host.tree()
    with pytest.raises(ParentMoved, match=f"the head is {snapshot.id}, no longer {first.id}"):
        host.publisher.publish(late)
    assert host.tree() == tree
    both = [rpms["1.0"], rpms["1.1"]]
    host.publish(maker.compose([*both, rpms["1.2"]], parent=snapshot, before=both))


def test_one_of_two_concurrent_publishers_wins(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    rivals = [second, maker.compose([rpms["1.0"], rpms["1.2"]], parent=first, before=[rpms["1.0"]])]
    outcomes: list[str] = []

    def publish(transaction: Transaction) -> None:
        host.publisher.upload(transaction)
        try:
            outcomes.append(host.publisher.publish(transaction))
        except ParentMoved:
            outcomes.append("moved")

    threads = [threading.Thread(target=publish, args=[rival]) for rival in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted([host.publisher.head("stable"), "moved"])


def test_a_replayed_transaction_is_refused(
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
        host.publisher.publish(replace(second, id="another-transaction"))
    # With a new id and the parent that the agent expects, the signed record still names the old parent.
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
def test_a_package_without_a_trusted_signature_is_refused(
    host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path], which: str, message: str
) -> None:
    transaction = maker.compose([rpms["1.0"], rpms[which]], parent=first, before=[rpms["1.0"]])
    host.publisher.upload(transaction)
    refused(host, transaction, message)


def test_a_published_name_with_other_bytes_is_refused(
    host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path]
) -> None:
    transaction = maker.compose([rpms["1.0 again"]], parent=first, added=())
    host.publisher.upload(transaction)
    refused(host, transaction, "the pool has other bytes under this name")


def test_a_removed_name_with_other_bytes_is_refused(
    host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path]
) -> None:
    empty = host.publish(maker.compose([], parent=first, before=[rpms["1.0"]]))
    transaction = maker.compose([rpms["1.0 again"]], parent=empty)
    host.publisher.upload(transaction)
    refused(host, transaction, "the pool has other bytes under this name")


@pytest.mark.parametrize("text", ["nonsense", ""])
def test_a_file_without_a_trusted_key_is_an_error(host: Host, second: Transaction, tmp_path: Path, text: str) -> None:
    key = tmp_path / "key.asc"
    key.write_text(text)
    host = Host(host.folder, key)
    host.publisher.upload(second)
    refused(host, second, "the trusted key cannot be read: it holds no armored public key")


def test_an_expired_trusted_key_is_refused(keys: dict[str, Key], rpms: dict[str, Path], tmp_path: Path) -> None:
    host = Host(tmp_path / "host", keys["expired"].public)
    transaction = Maker(tmp_path / "uploads", keys["expired"]).compose([rpms["1.0"]])
    host.publisher.upload(transaction)
    refused(host, transaction, r"this is not one good signature by the trusted key \(EXPKEYSIG")


def test_an_untrusted_key_is_refused(
    host: Host, keys: dict[str, Key], first: Snapshot, rpms: dict[str, Path], tmp_path: Path
) -> None:
    maker = Maker(tmp_path / "theirs", keys["other"])
    transaction = maker.compose([rpms["1.0"], rpms["1.1"]], parent=first, before=[rpms["1.0"]])
    host.publisher.upload(transaction)
    refused(host, transaction, "this is not one good signature by the trusted key")


def weak_signature(maker: Maker, folder: Path) -> None:
    record = folder / "snapshot/snapshot.json"
    words = ("--digest-algo", "SHA1", "--armor", "--detach-sign", "--output", f"{record}.asc")
    maker.key.gpg(*words, record)


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
    "primary altered": (flip("snapshot/repodata/*-primary*"), "the file is not the one"),
    "primary missing": (
        remove("snapshot/repodata/*-primary*"),
        "repodata/ does not hold exactly what repomd.xml names",
    ),
    "metadata extra": (
        place(f"snapshot/repodata/{'0' * 64}-group.xml.gz"),
        "repodata/ does not hold exactly what repomd.xml names",
    ),
    "repomd altered": (
        append("snapshot/repodata/repomd.xml", b"\n"),
        "this is not one good signature.*BADSIG",
    ),
    "repomd unsigned": (remove("snapshot/repodata/repomd.xml.asc"), "the upload is incomplete"),
    "record altered": (append("snapshot/snapshot.json", b"\n"), "this is not one good signature.*BADSIG"),
    "signed by SHA-1": (weak_signature, r"this is not one good signature by the trusted key \(ERRSIG\)"),
    "signed twice": (double_signature, "this is not a detached armored signature: it is not one signature packet"),
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


@pytest.mark.parametrize("name", DAMAGE)
def test_a_tampered_upload_is_refused(host: Host, maker: Maker, second: Transaction, name: str) -> None:
    damage, message = DAMAGE[name]
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
def test_a_signed_record_that_contradicts_the_upload_is_refused(
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
        ("<arch>noarch</arch>", "<arch>aarch64</arch>", "is not the name of a package for x86_64"),
        ('ver="1.1"', 'ver="1.0"', "is not at Packages/"),
        ('type="sha256"', 'type="md5"', "has no sha256"),
        ("</metadata>", "", "the primary metadata is not fit for this channel"),
    ],
)  # fmt: skip
def test_invalid_signed_metadata_is_refused(
    host: Host, maker: Maker, second: Transaction, old: str, new: str, message: str
) -> None:
    forged = maker.forge_primary(second, old, new)
    host.publisher.upload(forged)
    refused(host, forged, message)


def test_a_file_that_is_not_named_after_its_package_is_refused(
    host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path], tmp_path: Path
) -> None:
    """The name in the package's header counts, whatever the signed metadata contains."""
    false = tmp_path / "mistralrs-ada-9.9-1.noarch.rpm"
    shutil.copy2(rpms["1.1"], false)
    transaction = maker.compose([rpms["1.0"], false], parent=first, before=[rpms["1.0"]])
    path = Path(transaction.folder, "snapshot/packages.txt")
    forged = maker.forge_primary(transaction, 'ver="1.1"', 'ver="9.9"')
    assert "9.9" in path.read_text()
    host.publisher.upload(forged)
    refused(host, forged, "the file is not named after its package, mistralrs-ada-1.1-1.noarch.rpm")


def test_a_revision_that_does_not_increase_is_refused(
    host: Host, maker: Maker, first: Snapshot, rpms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Maker.write_metadata

    def first_revision(maker: Maker, repodata: Path, packages: list[Path], revision: int) -> None:
        write(maker, repodata, packages, 1)

    monkeypatch.setattr(Maker, "write_metadata", first_revision)
    transaction = maker.compose([rpms["1.0"], rpms["1.1"]], parent=first, before=[rpms["1.0"]])
    host.publisher.upload(transaction)
    refused(host, transaction, "the metadata's revision 1 is not above its parent's")


def test_publishing_without_an_upload_is_refused(host: Host, second: Transaction) -> None:
    refused(host, second, "there is no such upload")


def test_repodata_of_another_tool_is_not_replaced(keys: dict[str, Key], rpms: dict[str, Path], tmp_path: Path) -> None:
    host = Host(tmp_path / "host", keys["trusted"].public)
    (host.stable / "repodata").mkdir(parents=True)
    transaction = Maker(tmp_path / "uploads", keys["trusted"]).compose([rpms["1.0"]])
    host.publisher.upload(transaction)
    refused(host, transaction, "repodata is not a link that this agent made")
