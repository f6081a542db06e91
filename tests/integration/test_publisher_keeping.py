"""Yanking, pruning by the host's own retention, status, and verification of a channel."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Snapshot, Transaction
from support.channel_maker import Key, Maker
from support.publisher_host import Host, copy_of, refused

DAY = 86400
NOTHING = {"snapshots": 1, "days": 0, "grace_hours": 0}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@dataclass(frozen=True)
class Chain:
    """A channel that held 1.0, then 1.0 and 1.1, then 1.1, and now 1.1 and 1.2."""

    host: Host
    maker: Maker
    snapshots: list[Snapshot]
    rpms: dict[str, Path]

    @property
    def ids(self) -> list[str]:
        return [snapshot.id for snapshot in self.snapshots]

    def packages(self) -> set[str]:
        return {path.name.split("-")[2] for path in (self.host.stable / "Packages").iterdir()}

    def kept(self) -> list[str]:
        return sorted(names(self.host.stable / "snapshots"))

    def prune(self, dry_run: bool = False, **retention: int) -> dict[str, Any]:
        return replace(self.host, retention=retention).publisher.prune("stable", dry_run)

    def replaced_days_ago(self, *days: int) -> None:
        """Date the replacements of the first snapshots in the journal back by these days."""
        journal = self.host.state / "journal"
        entries = [json.loads(line) for line in journal.read_text().splitlines()]
        for entry, ago in zip(entries[1:], days, strict=False):
            entry["time"] = int(time.time()) - ago * DAY
        journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    def next(self, packages: list[str], *, before: list[str], **changes: object) -> Transaction:
        """A transaction of a snapshot of ``packages`` on top of the last one."""
        old, new = ([self.rpms[name] for name in which] for which in (before, packages))
        return self.maker.compose(new, parent=self.snapshots[-1], before=old, **changes)


@pytest.fixture(scope="session")
def published_chain(
    published: tuple[Host, Snapshot],
    keys: dict[str, Key],
    rpms: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    host = copy_of(published[0], folder / "host")
    chain, held = Chain(host, Maker(folder / "uploads", keys["trusted"]), [published[1]], rpms), ["1.0"]
    for packages in (["1.0", "1.1"], ["1.1"], ["1.1", "1.2"]):
        chain.snapshots.append(host.publish(chain.next(packages, before=held)))
        held = packages
    return chain


@pytest.fixture
def chain(published_chain: Chain, maker: Maker, tmp_path: Path) -> Chain:
    host = copy_of(published_chain.host, tmp_path / "chain")
    return replace(published_chain, host=host, maker=maker, snapshots=[*published_chain.snapshots])


# Yanking


def test_a_yanked_package_leaves_the_pool_and_its_name_is_never_reused(chain: Chain) -> None:
    host, name = chain.host, chain.rpms["1.1"].name
    snapshot = host.publish(chain.next(["1.2"], before=["1.1", "1.2"], yanked=(name,)))
    assert chain.packages() == {"1.0", "1.2"}
    assert json.loads((host.state / "journal").read_text().splitlines()[-1])["yanked"] == [name]
    status = host.publisher.status("stable")
    assert status["missing"] == []
    assert host.publisher.verify("stable")["findings"] == []
    chain.snapshots.append(snapshot)
    again = chain.next(["1.1", "1.2"], before=["1.2"])
    host.publisher.upload(again)
    refused(host, again, "a package was yanked, and its name is never published again")
    forgetful = chain.next(["1.1", "1.2"], before=["1.2"], yanked=())
    host.publisher.upload(forgetful)
    refused(host, forgetful, "snapshot.json does not extend its parent's list of yanked packages")
    # Later snapshots keep the name; a rollback restores the other packages only.
    chain.snapshots.append(host.publish(chain.next(["1.0", "1.2"], before=["1.2"])))
    assert chain.snapshots[-1].yanked == (name,)


def test_a_package_of_older_snapshots_can_be_yanked(chain: Chain) -> None:
    name = chain.rpms["1.0"].name
    chain.host.publish(chain.next(["1.1", "1.2"], before=["1.1", "1.2"], yanked=(name,)))
    assert chain.packages() == {"1.1", "1.2"}


@pytest.mark.parametrize(
    ("yanked", "message"),
    [
        (("mistralrs-ada-7-1.noarch.rpm",), "snapshot.json yanks a package that this channel never had"),
        (("../../../../mirrorlist",), "snapshot.json yanks a package that this channel never had"),
        (("mistralrs-ada-1.2-1.noarch.rpm",), "a package was yanked, and its name is never published again"),
        (("mistralrs-ada-1.1-1.noarch.rpm",) * 2, "snapshot.json does not extend its parent's list"),
    ],
)
def test_an_invalid_yank_is_refused(chain: Chain, yanked: tuple[str, ...], message: str) -> None:
    transaction = chain.next(["1.2"], before=["1.1", "1.2"], yanked=yanked)
    chain.host.publisher.upload(transaction)
    refused(chain.host, transaction, message)


def test_a_staged_yank_removes_nothing_before_it_is_published(chain: Chain) -> None:
    name = chain.rpms["1.1"].name
    transaction = chain.next(["1.2"], before=["1.1", "1.2"], yanked=(name,))
    chain.host.publisher.upload(transaction)
    chain.host.publisher.stage(transaction)
    assert chain.packages() == {"1.0", "1.1", "1.2"}
    chain.host.publisher.publish(transaction)
    assert chain.packages() == {"1.0", "1.2"}


# Pruning


def test_old_snapshots_and_their_packages_are_pruned(chain: Chain) -> None:
    done = chain.prune(**NOTHING)
    assert done == {
        "snapshot": chain.ids[-1],
        "snapshots": chain.ids[:-1],
        "packages": [chain.rpms["1.0"].name],
        "waiting": {},
    }
    assert chain.kept() == chain.ids[-1:]
    assert chain.packages() == {"1.1", "1.2"}
    assert chain.host.publisher.verify("stable")["findings"] == []
    assert chain.prune(**NOTHING)["snapshots"] == []
    chain.snapshots.append(chain.host.publish(chain.next(["1.1"], before=["1.1", "1.2"])))
    assert chain.host.publisher.head("stable") == chain.ids[-1]


def test_the_newest_snapshots_are_kept(chain: Chain) -> None:
    assert chain.prune(**NOTHING | {"snapshots": 3})["snapshots"] == chain.ids[:1]
    assert chain.kept() == sorted(chain.ids[1:])
    assert chain.packages() == {"1.0", "1.1", "1.2"}


def test_recent_heads_are_kept(chain: Chain) -> None:
    chain.replaced_days_ago(20, 15, 5)
    assert chain.prune(**NOTHING | {"days": 30})["snapshots"] == []
    assert chain.prune(**NOTHING | {"days": 10})["snapshots"] == chain.ids[:2]
    assert chain.kept() == sorted(chain.ids[2:])


def test_without_a_journal_the_signed_time_counts(chain: Chain) -> None:
    chain.replaced_days_ago(20, 15, 5)
    (chain.host.state / "journal").unlink()
    assert chain.prune(**NOTHING | {"days": 10})["snapshots"] == []


def test_by_default_heads_of_the_last_half_year_are_kept(chain: Chain) -> None:
    chain.replaced_days_ago(190, 170, 160)
    assert chain.prune()["snapshots"] == []
    assert chain.prune(snapshots=2)["snapshots"] == chain.ids[:1]


def test_a_dry_run_returns_the_same_and_changes_nothing(chain: Chain) -> None:
    tree, state = chain.host.tree(), names(chain.host.state)
    answer = chain.prune(dry_run=True, **NOTHING)
    assert answer["packages"] == [chain.rpms["1.0"].name]
    assert (chain.host.tree(), names(chain.host.state)) == (tree, state)
    assert chain.prune(**NOTHING) == answer


def test_an_orphaned_package_is_kept_for_its_grace_time(chain: Chain) -> None:
    name, begun = chain.rpms["1.0"].name, int(time.time())
    waiting = chain.prune(**NOTHING | {"grace_hours": 48})["waiting"]
    assert list(waiting) == [name]
    assert begun + 2 * DAY <= waiting[name] <= time.time() + 2 * DAY
    assert chain.prune(**NOTHING | {"grace_hours": 48}) == {
        "snapshot": chain.ids[-1], "snapshots": [], "packages": [], "waiting": waiting,
    }  # fmt: skip
    (orphan,) = chain.host.publisher.status("stable")["orphans"]
    assert orphan == {"name": name, "bytes": chain.rpms["1.0"].stat().st_size, "since": waiting[name] - 2 * DAY}
    marks = chain.host.state / "unnamed"
    marks.write_text("{torn")
    assert chain.prune(**NOTHING | {"grace_hours": 48})["packages"] == []
    marks.write_text(json.dumps({name: waiting[name] - 4 * DAY - 10}))
    assert chain.prune(**NOTHING | {"grace_hours": 48})["packages"] == [name]
    assert chain.packages() == {"1.1", "1.2"}


def test_the_grace_time_starts_again_after_a_package_was_used_again(chain: Chain) -> None:
    name, grace = chain.rpms["1.0"].name, NOTHING | {"grace_hours": 48}
    chain.prune(**grace)
    marks = chain.host.state / "unnamed"
    marks.write_text(json.dumps({name: int(time.time()) - 2 * DAY - 10}))
    chain.snapshots.append(chain.host.publish(chain.next(["1.0", "1.1"], before=["1.1", "1.2"], new=[])))
    chain.snapshots.append(chain.host.publish(chain.next(["1.1"], before=["1.0", "1.1"])))
    done = chain.prune(**grace)
    assert done["packages"] == []
    assert done["waiting"][name] > time.time() + DAY
    assert "1.0" in chain.packages()


def test_a_staged_snapshot_and_its_packages_are_kept(chain: Chain) -> None:
    transaction = chain.next(["1.0", "1.1", "1.2"], before=["1.1", "1.2"], new=[])
    chain.host.publisher.upload(transaction)
    chain.host.publisher.stage(transaction)
    done = chain.prune(**NOTHING)
    assert (done["snapshots"], done["packages"]) == (chain.ids[:-1], [])
    assert chain.host.publisher.publish(transaction) == transaction.snapshot.id
    assert chain.host.publisher.verify("stable")["findings"] == []


def test_an_orphaned_snapshot_is_pruned_after_its_grace_time(chain: Chain) -> None:
    stray = chain.host.stable / "snapshots/20200101T000000Z-00000000"
    shutil.copytree(chain.host.stable / "snapshots" / chain.ids[0], stray, symlinks=True)
    grace = {"snapshots": 50, "grace_hours": 48}
    assert chain.prune(**grace)["snapshots"] == []
    assert chain.prune(**grace)["snapshots"] == []
    marks = chain.host.state / "unnamed"
    assert list(json.loads(marks.read_text())) == [stray.name]
    marks.write_text(json.dumps({stray.name: 0}))
    assert chain.prune(**grace)["snapshots"] == [stray.name]
    assert chain.kept() == sorted(chain.ids)


def test_a_channel_without_its_heads_snapshot_is_not_pruned(chain: Chain) -> None:
    shutil.move(chain.host.stable / "snapshots" / chain.ids[-1], chain.host.folder / "away")
    tree = chain.host.tree()
    with pytest.raises(PipelineError, match="the head's snapshot is gone"):
        chain.prune(**NOTHING)
    assert chain.host.tree() == tree


@pytest.mark.parametrize("lines", [0, 1])
def test_a_truncated_package_list_stops_pruning(chain: Chain, lines: int) -> None:
    path = chain.host.stable / "snapshots" / chain.ids[-1] / "packages.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    tree = chain.host.tree()
    with pytest.raises(PipelineError, match="packages.txt does not name as many packages as the metadata"):
        chain.prune(**NOTHING)
    assert chain.host.tree() == tree


@pytest.mark.parametrize("text", [None, "", "http://repo/\n"])
def test_a_channel_with_a_broken_mirrorlist_is_not_changed(chain: Chain, text: str | None) -> None:
    mirrorlist = chain.host.stable / "mirrorlist"
    mirrorlist.unlink()
    if text is not None:
        mirrorlist.write_text(text)
    tree = chain.host.tree()
    restart = replace(chain.maker.compose([chain.rpms["1.0"]]), id="a-new-beginning")
    for ask in (chain.host.publisher.head, chain.host.publisher.prune, chain.host.publisher.status):
        with pytest.raises(PipelineError, match="the mirrorlist names no snapshot") as error:
            ask("stable")
        assert "Restore it" in error.value.remedy
    with pytest.raises(PipelineError, match="the mirrorlist names no snapshot"):
        chain.host.publisher.publish(restart)
    assert chain.host.tree() == tree


def test_commands_accept_an_unused_channel(host: Host) -> None:
    agent = host.publisher
    assert agent.prune("unstable") == {"snapshot": "", "snapshots": [], "packages": [], "waiting": {}}
    assert agent.verify("unstable") == {"snapshot": "", "snapshots": 0, "packages": 0, "bytes": 0, "findings": []}
    assert agent.status("unstable")["snapshots"] == []


# Status and verification


def test_status_describes_the_channel(chain: Chain, second: Transaction) -> None:
    chain.host.publisher.upload(second)
    staged = chain.next(["1.2"], before=["1.1", "1.2"])
    chain.host.publisher.upload(staged)
    chain.host.publisher.stage(staged)
    status = chain.host.publisher.status("stable")
    assert status["snapshot"] == chain.ids[-1]
    assert status["room"] < status["free"]
    rows = [(row["id"], row["packages"], row["staged"]) for row in status["snapshots"]]
    published = list(zip(chain.ids, [1, 2, 1, 2], [False] * 4, strict=True))
    assert sorted(rows) == sorted([*published, (staged.snapshot.id, 1, True)])
    times = [row["time"] for row in status["snapshots"]]
    assert times == sorted(times, reverse=True)
    assert {row["reason"] for row in status["snapshots"]} == {"test"}
    sizes = [path.stat().st_size for path in (chain.host.stable / "Packages").iterdir()]
    assert status["pool"] == {"files": 3, "bytes": sum(sizes)}
    assert status["orphans"] == status["missing"] == status["refusals"] == []
    assert sorted(row["transaction"] for row in status["incoming"]) == sorted([second.id, staged.id])
    assert all(row["bytes"] > 1000 and 0 <= row["age"] < 600 for row in status["incoming"])
    assert [entry["snapshot"] for entry in status["journal"]] == chain.ids


def test_status_lists_missing_packages(chain: Chain) -> None:
    (chain.host.stable / "Packages" / chain.rpms["1.2"].name).unlink()
    assert chain.host.publisher.status("stable")["missing"] == [chain.rpms["1.2"].name]


def test_a_lost_package_can_be_uploaded_again(chain: Chain) -> None:
    (chain.host.stable / "Packages" / chain.rpms["1.2"].name).unlink()
    transaction = chain.next(["1.1", "1.2"], before=["1.1", "1.2"], new=[chain.rpms["1.2"]])
    chain.host.publisher.upload(transaction)
    chain.host.publisher.stage(transaction)
    chain.host.publisher.drop("stable", transaction.id)
    assert chain.host.publisher.verify("stable")["findings"] == []


def test_an_intact_channel_has_no_findings(chain: Chain) -> None:
    tree = chain.host.tree()
    answer = chain.host.publisher.verify("stable")
    sizes = [path.stat().st_size for path in (chain.host.stable / "Packages").iterdir()]
    assert answer == {"snapshot": chain.ids[-1], "snapshots": 4, "packages": 3, "bytes": sum(sizes), "findings": []}
    assert chain.host.tree() == tree


def rewrite(path: Path) -> None:
    """Replace the file by one of the same length; it may be a hard link to a snapshot's file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


DAMAGE: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "package altered": (
        lambda stable, _: rewrite(next((stable / "Packages").glob("*1.2*"))),
        "the file is not the one that the signed metadata names (mistralrs-ada-1.2-1.noarch.rpm)",
    ),
    "package missing": (
        lambda stable, _: next((stable / "Packages").glob("*1.0*")).unlink(),
        "it is gone from the pool (mistralrs-ada-1.0-1.x86_64.rpm)",
    ),
    "package unsigned": (
        lambda stable, _: (stable / "Packages/mistralrs-ada-3-1.noarch.rpm").write_text("x"),
        "the package cannot be read: it is no RPM",
    ),
    "repomd altered": (lambda _, old: rewrite(old / "repodata/repomd.xml"), "this is not one good signature"),
    "record altered": (lambda _, old: rewrite(old / "snapshot.json"), "this is not one good signature"),
    "signature missing": (lambda _, old: (old / "snapshot.json.asc").unlink(), "No such file or directory"),
    "metadata altered": (
        lambda _, old: rewrite(next((old / "repodata").glob("*filelists*"))),
        "the file is not the one that the signed metadata names",
    ),
    "list altered": (
        lambda _, old: (old / "packages.txt").write_text(""),
        "packages.txt and the primary metadata name different packages",
    ),
    "pool's link": (lambda _, old: relink(old / "Packages", "/tmp"), "its Packages does not lead to the pool"),
    "plain repodata": (
        lambda stable, old: relink(stable / "repodata", f"snapshots/{old.name}/repodata"),
        "repodata does not lead to the head",
    ),
    "mirrorlist": (
        lambda stable, _: (stable / "mirrorlist").write_text(
            (stable / "mirrorlist").read_text().replace("http://repo/", "http://evil/")
        ),
        "the mirrorlist names another address than http://repo/fedora",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_a_finding(chain: Chain, name: str) -> None:
    damage, message = DAMAGE[name]
    stable = chain.host.stable
    damage(stable, stable / "snapshots" / chain.ids[0])
    tree = chain.host.tree()
    (finding,) = chain.host.publisher.verify("stable")["findings"]
    assert message in finding
    assert chain.host.tree() == tree


def test_signatures_of_a_retired_key_are_findings(chain: Chain, keys: dict[str, Key]) -> None:
    """New clients trust only the new key."""
    findings = replace(chain.host, key=keys["other"].public).publisher.verify("stable")["findings"]
    assert sum("this is not one good signature" in finding for finding in findings) == 4
    assert sum("the package is not signed by the trusted key" in finding for finding in findings) == 3
