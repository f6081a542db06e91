"""What the publisher agent takes for a command, and what it thinks of metadata, decided without a disk."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from pipeline.publisher import ParentMoved, Publisher
from pipeline.run import CommandFailed

PROGRAM = Path(__file__).parents[2] / "roles/publisher/files/mistralrs-publisher"
TX = "stable-20261121-0001"
ID = "20261121T105321Z-e3814494"


@pytest.fixture(scope="module")
def agent() -> ModuleType:
    sys.dont_write_bytecode = True
    loader = SourceFileLoader("mistralrs_publisher", str(PROGRAM))
    module = ModuleType(loader.name)
    sys.modules[loader.name] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


def test_the_three_commands(agent: ModuleType) -> None:
    assert agent.parse("head stable") == agent.Head("stable")
    assert agent.parse(f"commit stable {TX} --parent {ID}") == agent.Commit("stable", TX, ID)
    assert agent.parse(f"commit unstable {TX} --parent -") == agent.Commit("unstable", TX, "")


@pytest.mark.parametrize(
    "flags",
    [
        ["-tre.iLsfxCIvu", "--partial", "--timeout=120"],  # rsync 3.2 to 3.5
        ["-vtre.iLsfxCIvu"],
        ["-tre31.14iLsfxC", "--partial"],  # a pre-release
    ],
)
def test_what_rsync_sends(agent: ModuleType, flags: list[str]) -> None:
    command = f"rsync --server {' '.join(flags)} . stable/{TX}/"
    assert agent.parse(command) == agent.Receive("stable", TX, tuple(flags))


@pytest.mark.parametrize(
    "command",
    [
        "",
        "sh",
        "bash -i",
        "head",
        "head stable; id",
        "head stable unstable",
        "head ../stable",
        "head .publisher",
        "head 'stable",
        "HEAD stable",
        f"commit stable {TX}",
        f"commit stable {TX} --parent ..",
        f"commit stable {TX} --parent {ID}/..",
        f"commit stable ../{TX} --parent -",
        f"commit stable {TX} --parent - --force",
        "commit stable short --parent -",
        f"commit stable '{TX}\n' --parent -",
        f"rsync --server --sender -tre.iLsfxCIvu . stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu --sender . stable/{TX}/",
        f"rsync --server -stre.iLsfxCIvu . stable/{TX}/",  # secluded arguments come by the pipe
        "rsync --server -stre.iLsfxCIvu",
        f"rsync --server -ltre.iLsfxCIvu . stable/{TX}/",
        f"rsync --server -logDtpre.iLsfxCIvu . stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu --delete . stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu --inplace . stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu --partial-dir /etc . stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu --log-file=/tmp/x . stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu --temp-dir=/tmp . stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu --backup-dir=/tmp . stable/{TX}/",
        f"rsync --server --daemon --config=/tmp/x . stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu . stable/{TX}",
        f"rsync --server -tre.iLsfxCIvu . stable/{TX}/../",
        f"rsync --server -tre.iLsfxCIvu . stable/{TX}/Packages/",
        f"rsync --server -tre.iLsfxCIvu . /stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu . stable/{TX}/ stable/other-000/",
        f"rsync --server -tre.iLsfxCIvu / stable/{TX}/",
        "rsync --server -tre.iLsfxCIvu . stable/../Packages/",
        f"rsync -rt / stable/{TX}/",
        f"/usr/bin/rsync --server -tre.iLsfxCIvu . stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu . stable/{TX}/ && id",
        "scp -t /tmp",
        "/usr/lib/openssh/sftp-server",
    ],
)
def test_everything_else_is_refused(agent: ModuleType, command: str) -> None:
    with pytest.raises(agent.UsageError, match="this command is not allowed here") as refused:
        agent.parse(command)
    assert refused.value.status == 2
    assert "no shell and no reading" in refused.value.remedy


METADATA = {f"snapshot/repodata/{'a' * 64}-primary.xml.gz": 10}
FIXED = {
    "snapshot/packages.txt": 1,
    "snapshot/snapshot.json": 1,
    "snapshot/snapshot.json.asc": 1,
    "snapshot/repodata/repomd.xml": 1,
    "snapshot/repodata/repomd.xml.asc": 1,
}
PACKAGE = "Packages/mistralrs-ada-0.8.4~rc4-1.fc43.x86_64.rpm"


def test_the_layout_of_an_upload(agent: ModuleType) -> None:
    agent.check_layout({**FIXED, **METADATA, PACKAGE: 250 << 20})
    agent.check_layout({**FIXED, **METADATA})


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"snapshot/extra": 1}, "belongs to no snapshot"),
        ({"index.html": 1}, "belongs to no snapshot"),
        ({"snapshot/repodata/primary.xml.gz": 1}, "belongs to no snapshot"),
        ({"Packages/.hidden.x86_64.rpm": 1}, "belongs to no snapshot"),
        ({"Packages/mistralrs-ada-1-1.src.rpm": 1}, "belongs to no snapshot"),
        ({"Packages/mistralrs-ada-1-1.aarch64.rpm": 1}, "belongs to no snapshot"),
        ({"Packages/a b-1-1.x86_64.rpm": 1}, "belongs to no snapshot"),
        ({PACKAGE: 5 << 30}, "too large"),
        ({f"Packages/a-{n}-1.noarch.rpm": 1 for n in range(201)}, "too large"),
        ({f"snapshot/repodata/{'b' * 64}-other.xml.gz": 300 << 20}, "too large"),
    ],
)
def test_what_an_upload_may_not_hold(agent: ModuleType, extra: dict[str, int], message: str) -> None:
    with pytest.raises(agent.Refused, match=message):
        agent.check_layout({**FIXED, **METADATA, **extra})


@pytest.mark.parametrize("name", list(FIXED))
def test_what_an_upload_must_hold(agent: ModuleType, name: str) -> None:
    with pytest.raises(agent.Refused, match="incomplete") as refused:
        agent.check_layout({path: size for path, size in (FIXED | METADATA).items() if path != name})
    assert refused.value.where == name


def test_a_refusal_reaches_the_operator_whole() -> None:
    said = 'debug: x\n{"error": "the head is B, no longer A", "where": "stable", "remedy": "Compose again"}\n'
    publisher = Publisher(["ssh"], "repo")
    moved = publisher._translate(CommandFailed(["ssh"], 3, "", said))
    assert isinstance(moved, ParentMoved)
    assert (moved.what, moved.where, moved.remedy) == (
        "the head is B, no longer A",
        "stable",
        "Compose again",
    )
    assert not isinstance(publisher._translate(CommandFailed(["ssh"], 1, "", said)), ParentMoved)


def test_a_dead_connection_says_what_to_check() -> None:
    error = Publisher(["ssh", "-p", "2"], "repo")._translate(CommandFailed(["ssh"], 255, "", "Connection refused"))
    assert "status 255: Connection refused" in error.what
    assert error.where == "ssh -p 2 repo"
    assert "Check that the host is up" in error.remedy
