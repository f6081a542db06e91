"""The publisher agent over ssh: its commands, the channels of a key, its log, and the limits of uploads."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Snapshot, Transaction
from pipeline.channel.agent_client import Busy
from publisher_agent import command_line, staged
from support.publisher_fixtures import account_host
from support.publisher_host import CHANNELS, Host, own, ssh

__all__ = ["account_host"]


@pytest.fixture
def host(account_host: Host) -> Host:
    """The agent of this file runs as its own account, as in production; that of the other files as root."""
    return account_host


# The commands


def test_commands_work_as_a_forced_command(host: Host, first: Snapshot, second: Transaction) -> None:
    answer = json.loads(ssh(host, "head stable").stdout)
    assert (answer["snapshot"], answer["path"]) == (first.id, CHANNELS["stable"])
    host.publisher.upload(second)
    done = ssh(host, f"publish stable {second.id} --parent {first.id}")
    assert json.loads(done.stdout) == {"snapshot": second.snapshot.id}
    assert "192.0.2.7" in (host.state / "journal").read_text()


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("", 2, "this command is not allowed here"),
        ("sh -c id", 2, "this command is not allowed here"),
        ("head nightly", 2, "there is no channel nightly"),
        ("rsync --server --sender -re.iLsfxCIvu . stable/00000000/", 2, "this command is not allowed here"),
        ("publish stable 00000000 --parent -", 3, "the head is"),
    ],
)
def test_a_refusal_over_ssh_has_a_status_and_a_remedy(host: Host, command: str, status: int, message: str) -> None:
    tree, done = host.tree(), ssh(host, command)
    assert (done.returncode, done.stdout) == (status, "")
    answer = json.loads(done.stderr)
    assert message in answer["error"]
    assert answer["remedy"]
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
def test_other_calls_of_rsync_are_refused(host: Host, second: Transaction, words: list[str]) -> None:
    tree = host.tree()
    argv = [word.replace("UPLOAD", second.folder) for word in words]
    shell = " ".join(host.publisher.rsh)
    done = subprocess.run(["rsync", "-e", shell, *argv], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "this command is not allowed here" in done.stderr
    assert host.tree() == tree
    assert list((host.state / "incoming").iterdir()) == []


def test_rsync_skips_links(host: Host, second: Transaction) -> None:
    Path(second.folder, "Packages/a-1-1.noarch.rpm").symlink_to("/etc/passwd")
    host.publish(second)


def test_a_key_may_be_limited_to_channels(host: Host, first: Snapshot) -> None:
    done = ssh(host, "head stable", "--only", "unstable")
    assert (done.returncode, done.stdout) == (2, "")
    answer = json.loads(done.stderr)
    assert "there is no channel stable for this key" in answer["error"]
    assert answer["remedy"] == "There are: unstable"
    both = ("--only", "unstable", "--only", "stable")
    assert json.loads(ssh(host, "head stable", *both).stdout)["snapshot"] == first.id
    assert json.loads(ssh(host, "head unstable", "--only", "unstable").stdout)["snapshot"] == ""


def test_every_command_is_logged(host: Host, second: Transaction) -> None:
    log = host.root / ".publisher/log"
    log.unlink()
    host.publisher.upload(second)
    for command in ("head stable", "id", f"publish stable {second.id} --parent -", f"drop stable {second.id}"):
        ssh(host, command)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["from"], line["command"].split()[0], line["status"]) for line in lines] == [
        ("here", "rsync", 0),
        ("192.0.2.7", "head", 0),
        ("192.0.2.7", "id", 2),
        ("192.0.2.7", "publish", 3),
        ("192.0.2.7", "drop", 0),
    ]
    assert lines[2]["error"] == "this command is not allowed here"
    # status lists errors of callers; a moved head is not one.
    assert [row["command"] for row in host.publisher.status("stable")["refusals"]] == ["id"]


def test_the_name_of_a_key_is_in_the_log_and_in_the_journal(host: Host, first: Snapshot, second: Transaction) -> None:
    host.publisher.upload(second)
    assert ssh(host, f"publish stable {second.id} --parent {first.id}", "--as", "signer").returncode == 0
    for file in (host.root / ".publisher/log", host.state / "journal"):
        assert json.loads(file.read_text().splitlines()[-1])["who"].startswith("signer")


def test_a_full_log_is_rotated(host: Host) -> None:
    log = host.root / ".publisher/log"
    with log.open("a") as stream:
        stream.write("x" * (1 << 20))
    ssh(host, f"id {'y' * 100_000}")
    assert log.with_name("log.1").stat().st_size > 1 << 20
    (line,) = log.read_text().splitlines()
    assert len(line) < 1500
    assert json.loads(line)["status"] == 2


def test_commands_work_without_a_writable_log(host: Host, first: Snapshot) -> None:
    log = host.root / ".publisher/log"
    log.unlink()
    log.mkdir()
    assert host.publisher.head("stable") == first.id


# Limits of uploads


def test_an_upload_in_progress_is_locked(host: Host, second: Transaction) -> None:
    host.publisher.upload(second)
    receive = [*host.publisher.rsh, "local", f"rsync --server -tre.iLsfxCIvu . stable/{second.id}/"]
    with subprocess.Popen(receive, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout
        running.stdout.read(1)  # rsync started
        tree = host.tree()
        for ask in (host.publisher.publish, host.publisher.stage):
            with pytest.raises(Busy, match="the upload is still being written"):
                ask(second)
        with pytest.raises(Busy, match="the upload is still being written"):
            host.publisher.drop("stable", second.id)
        with pytest.raises(Busy, match="this transaction is being uploaded or published already"):
            host.publisher.upload(second)
        assert host.tree() == tree
        assert (host.incoming(second) / "Packages").is_dir()
    host.publish(second)


def large(second: Transaction, mib: int) -> Transaction:
    """Add a sparse file of ``mib`` MiB to the upload; rsync sends its holes as zeros."""
    with Path(second.folder, "Packages/large-1-1.noarch.rpm").open("wb") as stream:
        stream.truncate(mib << 20)
    return second


def received(host: Host, transaction: Transaction) -> int:
    return sum(path.stat().st_size for path in host.incoming(transaction).rglob("*") if path.is_file())


def test_the_room_for_uploads_shrinks_with_each_upload(host: Host, second: Transaction) -> None:
    host = replace(host, space={"reserve_mib": 1, "incoming_mib": 8})
    assert host.publisher.look("stable").room == 8 << 20
    host.publisher.upload(large(second, 2))
    assert received(host, second) > 2 << 20
    assert host.publisher.look("stable").room == (8 << 20) - received(host, second)
    assert host.publisher.look("unstable").room == 8 << 20
    host.publisher.drop("stable", second.id)
    assert host.publisher.look("stable").room == 8 << 20
    full = replace(host, space={"reserve_mib": 1 << 40}).publisher
    assert full.look("stable").room == 0
    seen = full.offer("stable", 1)
    assert seen.room == 0
    assert seen.files is None or seen.files > 0


def test_an_upload_that_waits_is_room_for_the_run_that_continues_it(host: Host, second: Transaction) -> None:
    host = replace(host, space={"reserve_mib": 1, "incoming_mib": 8})
    host.publisher.upload(large(second, 2))
    left = (8 << 20) - received(host, second)
    assert host.publisher.offer("stable", left).room == left
    assert host.publisher.offer("stable", left + 1).room == 8 << 20


def test_an_upload_beyond_the_channels_share_is_stopped(host: Host, second: Transaction) -> None:
    tree = host.tree()
    narrow = replace(host, space={"reserve_mib": 1, "incoming_mib": 8})
    with pytest.raises(PipelineError, match="there is no room: the uploads of stable hold") as error:
        narrow.publisher.upload(large(second, 3000))
    assert "publisher_incoming_mib" in error.value.remedy
    assert not isinstance(error.value, Busy)
    assert 8 << 20 <= received(host, second) < 3000 << 20, "rsync was stopped midway"
    assert narrow.publisher.look("stable").room == 0
    with pytest.raises(PipelineError, match="there is no room"):
        narrow.publisher.upload(replace(second, id="another-transaction"))
    assert not (host.state / "incoming/another-transaction").exists()
    assert host.tree() == tree
    Path(second.folder, "Packages/large-1-1.noarch.rpm").unlink()
    narrow.publisher.drop("stable", second.id)
    narrow.publish(second)


def test_an_upload_into_reserved_space_is_refused(host: Host, second: Transaction) -> None:
    full = replace(host, space={"reserve_mib": 1 << 40})
    with pytest.raises(PipelineError, match="there is no room: the repo host has [0-9]+ bytes free") as error:
        full.publisher.upload(second)
    assert "Prune the channel" in error.value.remedy
    assert not host.incoming(second).exists()


@pytest.mark.parametrize("files", [300, 10_000])
def test_an_upload_of_too_many_files_is_refused(host: Host, second: Transaction, files: int) -> None:
    tree = host.tree()
    for number in range(files):
        Path(second.folder, f"Packages/a-{number}-1.noarch.rpm").touch()
    with pytest.raises(PipelineError, match="the upload has more than 250 files"):
        host.publisher.upload(second)
    assert host.tree() == tree
    host.publisher.drop("stable", second.id)
    assert not host.incoming(second).exists()


def test_a_very_deep_upload_is_refused(host: Host, first: Snapshot, second: Transaction) -> None:
    """Every command of the channel works in spite of it, and drop removes it."""
    host.publisher.upload(second)
    tree, folder = host.tree(), os.open(host.incoming(second), os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=folder)
        inner = os.open("deep", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    own(host)
    assert host.publisher.head("stable") == first.id
    assert host.publisher.status("stable")["incoming"][0]["transaction"] == second.id
    for ask in (host.publisher.upload, host.publisher.stage):
        with pytest.raises(PipelineError, match="the upload holds something that is not a plain file") as error:
            ask(second)
        assert "deep" in error.value.where
    assert host.tree() == tree
    host.publisher.drop("stable", second.id)
    assert not host.incoming(second).exists()
    host.publish(second)


def test_too_many_uploads_are_refused(host: Host, second: Transaction) -> None:
    for number in range(200):
        (host.state / f"incoming/transaction-{number}").mkdir()
    with pytest.raises(PipelineError, match="200 uploads wait already"):
        host.publisher.upload(second)
    host.publisher.drop("stable", "transaction-7")
    host.publish(second)


def test_abandoned_uploads_are_removed(host: Host, second: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    host.publisher.upload(second)
    monkeypatch.setattr(staged, "ABANDONED", -1)
    assert command_line.main(["--config", str(host.config), "--rsh", "local", "drop stable another-transaction"]) == 0
    assert not host.incoming(second).exists()
