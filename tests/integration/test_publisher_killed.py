"""The agent, killed at each step of each command: the head is the old or the new one, and the next call recovers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pipeline.base.records import Snapshot, Transaction
from publisher_agent import command_line, publish
from support.channel_maker import Maker
from support.publisher_host import Host, copy_of

CHANGES = ("os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree")


def run_and_kill(host: Host, command: str, step: int = 0) -> int:
    """Run a command in a process that is killed before its ``step``-th change; returns its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    steps = 0

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal steps
        # The agent's copy of an upload: no command reads what a killed one left of it.
        opens = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR) and "/examined/" not in str(args[0])
        inner = event in ("os.remove", "os.rmdir") and args[1] != -1  # rmtree's are one step
        removes = event == "subprocess.Popen" and args[0] == "rm"
        if opens or removes or (event in CHANGES and not inner):
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    with suppress(BaseException):
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        sys.addaudithook(count)
        os._exit(command_line.main(["--config", str(host.config), "--rsh", "local", command]))
    os._exit(9)


def complete(folder: Path, yanked: tuple[str, ...] = ()) -> bool:
    """Whether all files of a snapshot, except yanked packages, are reachable below its URL."""
    for line in (folder / "packages.txt").read_text().splitlines():
        digest, name = line.split()
        if name in yanked:
            continue
        assert hashlib.sha256((folder / "Packages" / name).read_bytes()).hexdigest() == digest
    return (folder / "repodata/repomd.xml.asc").is_file() and len(list((folder / "repodata").glob("*.gz"))) >= 3


def consistent(host: Host) -> str:
    """Assert that clients by mirrorlist and by baseurl read complete snapshots; returns the head."""
    head = (host.stable / "mirrorlist").read_text().split("/")[-2]
    yanked = Snapshot.read(host.stable / "snapshots" / head / "snapshot.json").yanked
    assert complete(host.stable / "snapshots" / head)
    assert complete((host.stable / "repodata").resolve().parent)
    # Clients that pinned another snapshot, or prove it, read it complete.
    assert all(complete(folder, yanked) for folder in (host.stable / "snapshots").iterdir())
    return head


@dataclass(frozen=True)
class Trial:
    """``command`` moves the head of ``host`` from ``old`` to ``new``."""

    host: Host
    command: str
    old: str
    new: str


@pytest.fixture
def trial(
    request: pytest.FixtureRequest,
    host: Host,
    maker: Maker,
    first: Snapshot,
    second: Transaction,
    rpms: dict[str, Path],
) -> Trial:
    def uploaded() -> Trial:
        host.publisher.upload(second)
        return Trial(host, f"publish stable {second.id} --parent {first.id}", first.id, second.snapshot.id)

    def staged() -> Trial:
        trial = uploaded()
        host.publisher.stage(second)
        return trial

    def yanking() -> Trial:
        name = rpms["1.0"].name
        transaction = maker.compose([rpms["1.1"]], parent=first, before=[rpms["1.0"]], yanked=(name,))
        host.publisher.upload(transaction)
        return Trial(host, f"publish stable {transaction.id} --parent {first.id}", first.id, transaction.snapshot.id)

    def replacing() -> Trial:
        staged()
        both = [rpms["1.0"], rpms["1.1"]]
        other = maker.compose([*both, rpms["1.2"]], parent=first, before=both[:1])
        host.publisher.upload(replace(other, id=second.id))
        return Trial(host, f"stage stable {second.id} --parent {first.id}", first.id, first.id)

    def beside() -> Trial:
        """Another transaction has staged the same package."""
        host.publisher.upload(replace(second, id="the-other-one"))
        both = [rpms["1.0"], rpms["1.1"]]
        other = maker.compose([*both, rpms["1.2"]], parent=first, before=both[:1])
        host.publisher.upload(other)
        host.publisher.stage(other)
        return uploaded()

    def pruning() -> Trial:
        snapshot, held = first, ["1.0"]
        for names in (["1.0", "1.1"], ["1.1"], ["1.1", "1.2"]):
            new, before = ([rpms[name] for name in which] for which in (names, held))
            snapshot, held = host.publish(maker.compose(new, parent=snapshot, before=before)), names
        pruned = replace(host, retention={"snapshots": 1, "days": 0, "grace_hours": 0})
        return Trial(pruned, "prune stable", snapshot.id, snapshot.id)

    trials: dict[str, Callable[[], Trial]] = {
        "publish": uploaded,
        "publish of a staged snapshot": staged,
        "publish of a yank": yanking,
        "publish beside a staged transaction": beside,
        "stage": lambda: replace(uploaded(), command=f"stage stable {second.id} --parent {first.id}", new=first.id),
        "stage of a replacement": replacing,
        "drop": lambda: replace(staged(), command=f"drop stable {second.id}", new=first.id),
        "prune": pruning,
    }
    return trials[request.param]()


@pytest.mark.parametrize(
    "trial",
    [
        "publish",
        "publish of a staged snapshot",
        "publish of a yank",
        "publish beside a staged transaction",
        "stage",
        "stage of a replacement",
        "drop",
        "prune",
    ],
    indirect=True,
)
def test_a_kill_at_any_step_leaves_the_old_or_the_new_head(trial: Trial, tmp_path: Path) -> None:
    whole = copied(trial.host, tmp_path / "whole")
    assert run_and_kill(whole, trial.command) == 0
    assert consistent(whole) == trial.new
    new = settled(whole)
    seen, step, status = [], 0, 9
    while status:
        step += 1
        victim = copied(trial.host, tmp_path / "victim")
        status = run_and_kill(victim, trial.command, step)
        assert status in (0, signal.SIGKILL), "the command failed before its step"
        seen.append(consistent(victim))
        # Any call completes or reverts the interrupted one without changing the head.
        assert run_and_kill(victim, "head stable") == 0
        assert consistent(victim) == seen[-1]
        ids = {json.loads(path.read_text())["snapshot"] for path in (victim.state / "staged").iterdir()}
        assert seen[-1] not in ids
        assert all((victim.stable / "snapshots" / id_).is_dir() for id_ in ids)
        # A repetition leaves the state of a run without a kill.
        assert run_and_kill(victim, trial.command) == 0
        assert consistent(victim) == trial.new
        assert settled(victim) == new
        shutil.rmtree(victim.folder)
    assert step > 8
    assert seen == sorted(seen, key=[trial.old, trial.new].index)
    assert set(seen) == {trial.old, trial.new}


def copied(host: Host, folder: Path) -> Host:
    return replace(copy_of(host, folder), retention=host.retention)


def settled(host: Host) -> dict[str, object]:
    """The tree, the staged transactions, the uploads and the journal, without times."""
    journal = [json.loads(line) | {"time": 0} for line in (host.state / "journal").read_text().splitlines()]
    entries = [json.loads(path.read_text()) | {"time": 0} for path in sorted((host.state / "staged").iterdir())]
    tree = {name: value for name, value in host.tree().items() if not name.endswith("/journal")}
    return tree | {"journal": journal, "staged": entries, "incoming": [*map(str, state_folders(host))]}


def state_folders(host: Host) -> list[Path]:
    """The folders below the state folder."""
    return sorted(path.relative_to(host.state) for path in host.state.rglob("*") if path.is_dir())


def test_a_full_disk_changes_nothing(
    host: Host,
    second: Transaction,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    host.publisher.upload(second)
    tree = host.tree()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "staging")

    words = ["--config", str(host.config), "--rsh", "local", "publish", "stable", second.id, "--parent"]
    with monkeypatch.context() as patch:
        patch.setattr(publish, "recent_metadata", full)
        assert command_line.main([*words, second.snapshot.parent]) == 1
    answer = json.loads(capfd.readouterr().err)
    assert answer["error"] == "the repo host failed: No space left on device"
    assert "then repeat the same command" in answer["remedy"]
    assert host.tree() == tree
    assert list((host.state / "staged").iterdir()) == []
    assert host.publisher.publish(second) == second.snapshot.id
