"""Staging: a staged snapshot is complete under its final URL, no client sees it, and it can be dropped."""

from __future__ import annotations

import fcntl
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Snapshot, Transaction, sha256_file
from pipeline.channel.agent_client import ParentMoved
from publisher_agent import command_line, staged
from support.channel_maker import Maker
from support.publisher_host import Host


@pytest.fixture
def rival(maker: Maker, rpms: dict[str, Path], first: Snapshot) -> Transaction:
    """A transaction that adds 1.2 to 1.0, on the same head as ``second``."""
    return maker.compose([rpms["1.0"], rpms["1.2"]], parent=first, before=[rpms["1.0"]])


@pytest.fixture
def combined(maker: Maker, rpms: dict[str, Path], first: Snapshot) -> Transaction:
    """A transaction that adds 1.1 and 1.2 to 1.0: it shares one package with ``second`` and one with ``rival``."""
    return maker.compose([rpms["1.0"], rpms["1.1"], rpms["1.2"]], parent=first, before=[rpms["1.0"]])


def stage(host: Host, transaction: Transaction) -> Path:
    """Upload and stage a transaction; returns the folder of its snapshot."""
    host.publisher.upload(transaction)
    assert host.publisher.stage(transaction) == transaction.snapshot.id
    return host.stable / "snapshots" / transaction.snapshot.id


def pool(host: Host) -> list[str]:
    return sorted(path.name.removeprefix("mistralrs-ada-")[:3] for path in (host.stable / "Packages").iterdir())


def readable(folder: Path) -> bool:
    """Whether all files of the snapshot are reachable below its URL."""
    names = [line.split()[1] for line in (folder / "packages.txt").read_text().splitlines()]
    return (folder / "repodata/repomd.xml.asc").is_file() and all(
        (folder / "Packages" / name).is_file() for name in names
    )


def test_a_staged_snapshot_is_published_unchanged(host: Host, first: Snapshot, second: Transaction) -> None:
    before = host.tree()
    folder = stage(host, second)
    after = host.tree()
    assert {name: after[name] for name in before} == before, "served files are unchanged"
    assert host.publisher.head("stable") == first.id
    assert readable(folder)
    staged = {row["id"]: row["staged"] for row in host.publisher.status("stable")["snapshots"]}
    assert staged == {first.id: False, second.snapshot.id: True}
    assert host.publisher.publish(second) == second.snapshot.id
    changed = {Path(name).name for name, value in host.tree().items() if after.get(name) != value}
    assert changed == {"mirrorlist", "repodata", "journal"}
    assert list((host.state / "staged").iterdir()) == list((host.state / "incoming").iterdir()) == []


def test_a_staged_snapshot_is_published_without_its_upload(host: Host, second: Transaction) -> None:
    stage(host, second)
    shutil.rmtree(host.incoming(second))
    assert host.publisher.publish(second) == second.snapshot.id


def test_the_first_snapshot_of_a_channel_can_be_staged(host: Host, maker: Maker, rpms: dict[str, Path]) -> None:
    transaction = replace(maker, channel="unstable").compose([rpms["1.2"]])
    host.publisher.upload(transaction)
    host.publisher.stage(transaction)
    assert host.publisher.head("unstable") == ""
    assert not (host.stable / "unstable/mirrorlist").exists()
    host.publisher.publish(transaction)
    assert host.publisher.head("unstable") == transaction.snapshot.id


def test_staging_is_idempotent(host: Host, second: Transaction) -> None:
    folder = stage(host, second)
    tree, inode = host.tree(), folder.stat().st_ino
    assert host.publisher.stage(second) == second.snapshot.id
    stage(host, second)
    assert (host.tree(), folder.stat().st_ino) == (tree, inode)
    host.publisher.publish(second)
    assert host.publisher.stage(second) == second.snapshot.id  # it is the head


def test_another_snapshot_of_a_transaction_replaces_the_staged_one(
    host: Host, second: Transaction, combined: Transaction
) -> None:
    old = stage(host, second)
    new = stage(host, replace(combined, id=second.id))
    assert not old.exists()
    assert readable(new)
    assert pool(host) == ["1.0", "1.1", "1.2"]
    # publish takes the last upload, staged or not.
    host.publish(second)
    assert not new.exists()
    assert pool(host) == ["1.0", "1.1"]


def test_a_refused_replacement_leaves_the_staged_snapshot(
    host: Host, second: Transaction, combined: Transaction
) -> None:
    stage(host, second)
    tree = host.tree()
    other = replace(combined, id=second.id)
    host.publisher.upload(other)
    (host.incoming(other) / "snapshot/packages.txt").write_text("")
    with pytest.raises(PipelineError, match="packages.txt and the primary metadata name different packages"):
        host.publisher.stage(other)
    assert host.tree() == tree
    host.publisher.upload(second)
    assert host.publisher.publish(second) == second.snapshot.id


def test_a_replacement_must_contain_its_packages(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    """The packages of the replaced snapshot are removed with it."""
    stage(host, second)
    shutil.rmtree(host.incoming(second))
    tree = host.tree()
    both = [rpms["1.0"], rpms["1.1"]]
    bare = replace(maker.compose(both, parent=first, before=both[:1], new=[]), id=second.id)
    host.publisher.upload(bare)
    with pytest.raises(PipelineError, match="a package is neither in the pool nor in the upload"):
        host.publisher.stage(bare)
    assert host.tree() == tree


def test_a_replacement_with_another_digest_of_a_package_is_refused(
    host: Host, maker: Maker, first: Snapshot, second: Transaction, rpms: dict[str, Path]
) -> None:
    """Staging verified the file, but with the right digest."""
    stage(host, second)
    both = [rpms["1.0"], rpms["1.1"]]
    other = maker.compose(both, parent=first, before=both[:1])
    false = maker.forge_primary(other, digest := sha256_file(rpms["1.1"]), "0" * 64)
    path = Path(false.folder, "snapshot/packages.txt")
    path.write_text(path.read_text().replace(digest, "0" * 64))
    tree, false = host.tree(), replace(false, id=second.id)
    host.publisher.upload(false)
    with pytest.raises(PipelineError, match="the file is not the one that the signed metadata names"):
        host.publisher.stage(false)
    assert host.tree() == tree


def test_of_two_snapshots_staged_on_one_head_the_first_to_publish_wins(
    host: Host, maker: Maker, second: Transaction, rival: Transaction, rpms: dict[str, Path]
) -> None:
    stage(host, second)
    folder = stage(host, rival)
    assert host.publisher.publish(second) == second.snapshot.id
    tree = host.tree()
    with pytest.raises(ParentMoved, match=f"the head is {second.snapshot.id}, no longer {rival.snapshot.parent}"):
        host.publisher.publish(rival)
    assert host.tree() == tree
    assert readable(folder), "a client may be proving it"
    # Composed again on the new head under the same id, only its metadata is sent.
    both = [rpms["1.0"], rpms["1.1"]]
    again = maker.compose([*both, rpms["1.2"]], parent=second.snapshot, before=both)
    kept = host.incoming(rival) / "Packages" / rpms["1.2"].name
    inode = kept.stat().st_ino
    new = stage(host, replace(again, id=rival.id))
    assert kept.stat().st_ino == inode
    assert not folder.exists()
    assert readable(new)
    assert host.publisher.publish(replace(again, id=rival.id)) == again.snapshot.id


def test_a_snapshot_staged_on_an_old_head_is_not_published(host: Host, second: Transaction, rival: Transaction) -> None:
    stage(host, rival)
    host.publish(second)
    tree = host.tree()
    lying = replace(rival, snapshot=replace(rival.snapshot, parent=second.snapshot.id))
    with pytest.raises(PipelineError, match="the snapshot's parent is"):
        host.publisher.publish(lying)
    assert host.tree() == tree


# Dropping


def test_a_staged_transaction_is_dropped(host: Host, first: Snapshot, second: Transaction) -> None:
    tree = host.tree()
    stage(host, second)
    assert host.publisher.drop("stable", second.id) == first.id
    assert host.tree() == tree
    assert list((host.state / "staged").iterdir()) == list((host.state / "incoming").iterdir()) == []
    assert host.publisher.drop("stable", second.id) == first.id
    assert host.publisher.drop("stable", "never-heard-of") == first.id
    assert host.tree() == tree
    with pytest.raises(PipelineError, match="there is no such upload"):
        host.publisher.publish(second)
    host.publish(second)


def test_an_upload_is_dropped(host: Host, first: Snapshot, second: Transaction) -> None:
    host.publisher.upload(second)
    assert host.publisher.drop("stable", second.id) == first.id
    assert not host.incoming(second).exists()


def test_a_published_transaction_is_not_dropped(host: Host, second: Transaction) -> None:
    host.publish(second)
    tree = host.tree()
    assert host.publisher.drop("stable", second.id) == second.snapshot.id
    assert host.tree() == tree


def test_a_package_stays_while_another_staged_snapshot_has_it(
    host: Host, second: Transaction, rival: Transaction, combined: Transaction
) -> None:
    stage(host, second)
    stage(host, rival)
    stage(host, combined)
    host.publisher.drop("stable", second.id)
    assert pool(host) == ["1.0", "1.1", "1.2"]
    host.publisher.drop("stable", combined.id)
    assert pool(host) == ["1.0", "1.2"]
    assert host.publisher.publish(rival) == rival.snapshot.id
    assert pool(host) == ["1.0", "1.2"]


def test_a_package_published_meanwhile_is_not_dropped(
    host: Host, maker: Maker, second: Transaction, combined: Transaction, rpms: dict[str, Path]
) -> None:
    """It stays even after its snapshot was pruned: clients may still read it."""
    host = replace(host, retention={"snapshots": 1, "days": 0})
    stage(host, second)
    stage(host, combined)
    published = [rpms["1.0"], rpms["1.1"]]
    assert host.publisher.publish(second) == second.snapshot.id
    host.publish(maker.compose([rpms["1.0"]], parent=second.snapshot, before=published))
    assert second.snapshot.id in host.publisher.prune("stable")["snapshots"]
    host.publisher.drop("stable", combined.id)
    assert pool(host) == ["1.0", "1.1"]
    assert rpms["1.1"].name in host.publisher.prune("stable")["waiting"]


def test_a_name_staged_with_other_bytes_is_refused(
    host: Host, maker: Maker, rpms: dict[str, Path], first: Snapshot, second: Transaction
) -> None:
    empty = host.publish(maker.compose([], parent=first, before=[rpms["1.0"]]))
    mine = maker.compose([rpms["1.1"]], parent=empty)
    stage(host, mine)
    shutil.copy2(rpms["other key"], other := maker.folder / rpms["1.1"].name)
    maker.key.sign_package(other)
    theirs = maker.compose([other], parent=empty)
    host.publisher.upload(theirs)
    tree = host.tree()
    with pytest.raises(PipelineError, match="the pool has other bytes under this name"):
        host.publisher.stage(theirs)
    assert host.tree() == tree
    host.publisher.drop("stable", mine.id)
    assert host.publisher.publish(theirs) == theirs.snapshot.id


def test_an_abandoned_staged_snapshot_is_removed_after_two_days(
    host: Host, first: Snapshot, second: Transaction, rival: Transaction
) -> None:
    folder = stage(host, second)
    entry = host.state / "staged" / second.id
    old = json.loads(entry.read_text())
    entry.write_text(json.dumps(old | {"time": old["time"] - 2 * 86400 + 100}))
    stage(host, rival)
    assert readable(folder)
    entry.write_text(json.dumps(old | {"time": old["time"] - 2 * 86400 - 100}))
    assert host.publisher.head("stable") == first.id
    assert readable(folder), "it can be published until it is removed as abandoned"
    host.publisher.publish(rival)
    assert not folder.exists()
    assert not entry.exists()
    assert pool(host) == ["1.0", "1.2"]


# Concurrency


def test_concurrent_transactions_publish_one_snapshot(
    host: Host, second: Transaction, rival: Transaction, combined: Transaction
) -> None:
    outcomes: list[str] = []

    def publish(transaction: Transaction) -> None:
        try:
            stage(host, transaction)
            outcomes.append(host.publisher.publish(transaction))
        except ParentMoved:
            host.publisher.drop("stable", transaction.id)
            outcomes.append("moved")

    threads = [threading.Thread(target=publish, args=[transaction]) for transaction in (second, rival, combined)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    head = host.publisher.head("stable")
    assert sorted(outcomes) == sorted([head, "moved", "moved"])
    assert readable(host.stable / "snapshots" / head)
    names = (host.stable / "snapshots" / head / "packages.txt").read_text()
    assert sorted(path.name for path in (host.stable / "Packages").iterdir()) == [
        line.split()[1] for line in names.splitlines()
    ]


def test_a_busy_channel_refuses_changes_and_answers_queries(
    host: Host,
    second: Transaction,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    host.publisher.upload(second)
    monkeypatch.setattr(staged, "LOCK_WAIT", 0)
    words = ["--config", str(host.config), "--rsh", "local"]
    with (host.state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for verb in ("stage", "publish"):
            assert command_line.main([*words, verb, "stable", second.id, "--parent", second.snapshot.parent]) == 4
        assert command_line.main([*words, "prune", "stable"]) == 4
        assert command_line.main([*words, "drop", "stable", second.id]) == 4
        assert command_line.main([*words, "head", "stable"]) == 0
        assert command_line.main([*words, "status", "stable"]) == 0
    for line in capfd.readouterr().err.splitlines():
        assert json.loads(line)["error"] == "another command has been running for 0 s"
