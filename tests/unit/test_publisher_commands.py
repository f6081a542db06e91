"""The publisher agent's parsing of commands, uploads, metadata and configuration, and its client's errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.run import CommandFailed
from pipeline.channel.agent_client import AgentClient, Busy, ParentMoved
from publisher_agent import examine, report
from publisher_agent.command import Command, parse
from publisher_agent.examine import changed_packages, check_layout
from publisher_agent.host import ChannelRow, Config
from publisher_agent.metadata import ListedFile, ParentSnapshot, parse_package, parse_primary
from publisher_agent.refusal import Refused, UsageError

TX = "stable-20261121-0001"
ID = "20261121T105321Z-e3814494"


def test_valid_commands_are_parsed() -> None:
    for verb in ("head", "prune", "verify", "status"):
        assert parse(f"{verb} stable") == Command(verb, "stable")
    for verb in ("stage", "publish"):
        assert parse(f"{verb} stable {TX} --parent {ID}") == Command(verb, "stable", TX, ID)
        assert parse(f"{verb} unstable {TX} --parent -") == Command(verb, "unstable", TX, "")
    assert parse(f"drop stable {TX}") == Command("drop", "stable", TX)
    assert parse("prune stable --dry-run") == Command("prune", "stable", dry_run=True)


@pytest.mark.parametrize(
    "flags",
    [
        ["-tre.iLsfxCIvu", "--partial", "--timeout=120"],  # rsync 3.2 to 3.5
        ["-vtre.iLsfxCIvu"],
        ["-tre31.14iLsfxC", "--partial"],  # a pre-release
    ],
)
def test_an_upload_by_rsync_is_a_command(flags: list[str]) -> None:
    command = f"rsync --server {' '.join(flags)} . stable/{TX}/"
    assert parse(command) == Command("rsync", "stable", TX, flags=tuple(flags))


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
        f"publish stable {TX}",
        f"publish stable {TX} --parent ..",
        f"publish stable {TX} --parent {ID}/..",
        f"publish stable ../{TX} --parent -",
        f"publish stable {TX} --parent - --force",
        "publish stable short --parent -",
        "publish stable '' --parent -",
        f"publish stable {TX} --parent ''",
        f"stage stable {TX}",
        f"stage ../stable {TX} --parent -",
        "drop stable",
        "drop stable ''",
        "drop stable short",
        f"drop stable ../{TX}",
        f"drop stable {TX} --parent -",
        "prune stable --force",
        "prune stable --dry-run --dry-run",
        "prune --dry-run",
        "verify stable --dry-run",
        "status",
        f"publish stable '{TX}\n' --parent -",
        f"rsync --server --sender -tre.iLsfxCIvu . stable/{TX}/",
        f"rsync --server -tre.iLsfxCIvu --sender . stable/{TX}/",
        f"rsync --server -stre.iLsfxCIvu . stable/{TX}/",  # secluded arguments arrive on stdin
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
        f"rsync --server -tre.iLsfxCIvu --timeout=0 . stable/{TX}/",  # would wait forever
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
def test_everything_else_is_refused(command: str) -> None:
    with pytest.raises(UsageError, match="this command is not allowed here") as refused:
        parse(command)
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


def test_a_valid_layout_is_accepted() -> None:
    check_layout({**FIXED, **METADATA, PACKAGE: 250 << 20})
    check_layout({**FIXED, **METADATA})


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
def test_a_foreign_or_too_large_file_is_refused(extra: dict[str, int], message: str) -> None:
    with pytest.raises(Refused, match=message):
        check_layout({**FIXED, **METADATA, **extra})


@pytest.mark.parametrize("name", list(FIXED))
def test_an_upload_without_a_required_file_is_incomplete(name: str) -> None:
    with pytest.raises(Refused, match="incomplete") as refused:
        check_layout({path: size for path, size in (FIXED | METADATA).items() if path != name})
    assert refused.value.where == name


HEAD = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<metadata xmlns="http://linux.duke.edu/metadata/common"'
    b' xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="%d">\n'
)


def package(name: str, more: str = "") -> bytes:
    """The text of a package in primary.xml."""
    return f"""<package type="rpm">
  <name>{name}</name>
  <arch>noarch</arch>
  <version epoch="0" ver="1" rel="1"/>
  <checksum type="sha256" pkgid="YES">{name}</checksum>{more}
  <size package="7" installed="0" archive="0"/>
  <location href="Packages/{name}-1-1.noarch.rpm"/>
</package>
""".encode()


def primary(folder: Path, text: bytes) -> Path:
    path = folder / "primary.xml.gz"
    path.write_bytes(gzip.compress(text))
    return path


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c"]])
def test_primary_metadata_is_cut_into_packages(tmp_path: Path, names: list[str]) -> None:
    text = HEAD % len(names) + b"".join(map(package, names)) + b"</metadata>"
    texts = parse_primary(primary(tmp_path, text))
    assert dict(map(parse_package, texts)) == {f"{name}-1-1.noarch.rpm": ListedFile(name, 7) for name in names}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        HEAD % 0,
        HEAD % 1 + b"</metadata>",
        HEAD % 1 + package("a") + package("b") + b"</metadata>",
        HEAD % 1 + package("a"),
        HEAD % 1 + package("a") + b"</metadata><!-- -->",
        b"<!DOCTYPE x>" + HEAD % 1 + package("a") + b"</metadata>",
        HEAD % 2 + package("a") * 2 + b"</metadata>",
        (HEAD % 1).replace(b"common", b"other") + package("a") + b"</metadata>",
        (HEAD % 1).replace(b"UTF-8", b"UTF-7") + package("a") + b"</metadata>",
    ],
)
def test_primary_metadata_of_another_shape_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(Refused, match="the primary metadata is not fit for this channel"):
        parse_primary(primary(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        package("a").replace(b"</version>", b"").replace(b"<arch>", b"<!-- <arch>"),  # an unclosed comment
        package("a").replace(b"</name>", b"</name><![CDATA["),
        package("a").replace(b"<arch>", b"</package><package><arch>"),
        b"</metadata>" + package("a"),
        b"<package/>" + package("a"),
        package("a").replace(b"<package ", b"<x:package "),
        package("a").replace(b"<package ", b'<package xmlns="" '),
        package("a").replace(b"<name>a", b"<name>&b;"),
    ],
)
def test_a_package_of_another_shape_is_refused(text: bytes) -> None:
    """The text must be one complete element; otherwise neighbouring text could change its meaning."""
    with pytest.raises(Refused, match="the primary metadata is not fit for this channel"):
        parse_package(text.removesuffix(b"</package>\n"))


def test_only_added_and_removed_packages_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {name: package(name).removesuffix(b"</package>\n") for name in "abcd"}
    parent = ParentSnapshot(
        ID,
        packages={f"{name}-1-1.noarch.rpm": name for name in "abc"},
        texts=frozenset(texts[name] for name in "abc"),
    )
    parse_one, parsed = parse_package, []

    def count(text: bytes) -> object:
        parsed.append(text)
        return parse_one(text)

    monkeypatch.setattr(examine, "parse_package", count)
    packages = {f"{name}-1-1.noarch.rpm": name for name in "bcd"}
    new = changed_packages(frozenset(texts[name] for name in "bcd"), packages, parent)
    assert new == {"d-1-1.noarch.rpm": ListedFile("d", 7)}
    assert sorted(parsed) == sorted([texts["a"], texts["d"]])
    with pytest.raises(Refused, match="packages.txt and the primary metadata name different packages"):
        changed_packages(frozenset(texts[name] for name in "bcd"), parent.packages, parent)
    again = frozenset([*(texts[name] for name in "bc"), package("b", "<x/>").removesuffix(b"</package>\n")])
    with pytest.raises(Refused, match=r"b-1-1\.noarch\.rpm is named twice"):
        changed_packages(again, parent.packages, parent)


ROW = {"path": "fedora/43/x86_64"}


def configured(folder: Path, **row: object) -> Any:
    path = folder / "publisher.json"
    channels = {"stable": ROW | row}
    path.write_text(json.dumps({"root": "/srv", "base_url": "http://x/", "key": "/key", "channels": channels}))
    return Config.read(path)


def test_missing_keys_of_a_configuration_have_defaults(tmp_path: Path) -> None:
    config = configured(tmp_path)
    assert config.channels == {"stable": ChannelRow("fedora/43/x86_64", snapshots=50, days=180, grace_hours=48)}
    assert (config.reserve, config.incoming) == (1 << 30, 20 << 30)
    assert configured(tmp_path, days=0).channels["stable"].days == 0


@pytest.mark.parametrize(
    "row",
    [
        {"snapshots": 0},
        {"days": -1},
        {"grace_hours": "48"},
        {"grace_hours": True},
        {"path": "../fedora"},
        {"path": "/fedora"},
        {"path": 7},
        {"versions": 3},
    ],
)
def test_an_invalid_configuration_is_refused(tmp_path: Path, row: dict[str, object]) -> None:
    with pytest.raises(Refused, match="the configuration (cannot be read|has an invalid root or channel)"):
        configured(tmp_path, **row)


@pytest.mark.parametrize(
    ("status", "kind"), [(1, PipelineError), (2, PipelineError), (3, ParentMoved), (4, Busy), (255, PipelineError)]
)
def test_an_answer_becomes_the_error_of_its_status(status: int, kind: type[PipelineError]) -> None:
    stderr = 'debug: x\n{"error": "the head is B, no longer A", "where": "stable", "remedy": "Compose again"}\n'
    error = AgentClient(["ssh"], "repo")._translate(CommandFailed(["ssh"], status, "", stderr))
    assert type(error) is kind
    assert (error.what, error.where, error.remedy) == ("the head is B, no longer A", "stable", "Compose again")


def test_the_agents_status_overrides_that_of_rsync() -> None:
    """rsync exits with its own status after a refused upload."""
    stderr = '{"error": "busy", "where": "", "remedy": "Wait", "status": 4}\nrsync error: (code 12)\n'
    assert isinstance(AgentClient(["ssh"], "repo")._translate(CommandFailed(["rsync"], 12, "", stderr)), Busy)


def test_a_foreign_answer_is_an_error() -> None:
    for answer in ("", "[]", "{}", "hello", '{"snapshot"'):
        with pytest.raises(PipelineError, match="the repo host gave no answer of the publisher agent"):
            AgentClient(["printf", answer], "").head("stable")


@pytest.mark.parametrize(
    "stderr",
    [
        "kex_exchange_identification: Connection closed by remote host\nConnection closed by 192.0.2.1 port 22",
        "kex_exchange_identification: read: Connection reset by peer",
        "Not allowed at this time",
    ],
)
def test_a_host_that_refuses_connections_is_busy(stderr: str) -> None:
    error = AgentClient(["ssh"], "repo")._translate(CommandFailed(["ssh"], 255, "", stderr))
    assert isinstance(error, Busy)
    assert "MaxStartups" in error.remedy
    assert not isinstance(AgentClient(["ssh"], "repo")._translate(CommandFailed(["ssh"], 1, "", stderr)), Busy)


@pytest.mark.parametrize(
    ("stderr", "what", "remedy"),
    [
        ("ssh: connect to host repo port 2: Connection refused", "is not reached: ssh: connect", "Check that it is up"),
        (
            "ssh: Could not resolve hostname repo: Name or service not known",
            "is not reached: ssh:",
            "its name and port",
        ),
        (
            "gitea_ci@repo: Permission denied (publickey).",
            "sshd refuses the publishing account: gitea_ci",
            "AllowGroups",
        ),
        ("Host key verification failed.", "has another ssh key than the known one: Host key", "pins its key"),
        (
            "client_loop: send disconnect: Broken pipe",
            "failed with status 255: client_loop",
            "Check that the host is up",
        ),
    ],
)
def test_a_failed_connection_has_its_own_remedy(stderr: str, what: str, remedy: str) -> None:
    error = AgentClient(["ssh", "-p", "2"], "repo")._translate(CommandFailed(["ssh"], 255, "", stderr))
    assert what in error.what
    assert error.where == "ssh -p 2 repo"
    assert remedy in error.remedy
    assert "ploaded files are kept" in error.remedy


def test_a_missing_local_agent_has_a_remedy() -> None:
    with pytest.raises(PipelineError, match="there is no publisher agent yet.*make release"):
        AgentClient(["/nonexistent/mistralrs-publisher", "--rsh"], "local").head("stable")


def test_status_has_the_verdict_on_the_hosts_certificate(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    assert report.certificate(state) is None
    state.write_text('{"time": 1795271514, "fault": "nginx serves the old one"}')
    assert report.certificate(state) == {"time": 1795271514, "fault": "nginx serves the old one"}
    for text in ("nonsense", "[]", "{}", '{"time": null, "fault": ""}'):
        state.write_text(text)
        found = report.certificate(state)
        assert found
        assert found["fault"].startswith(f"{state} cannot be read")
