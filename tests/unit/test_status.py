"""Status: its lines for a person, and its findings."""

from __future__ import annotations

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.findings import Finding
from pipeline.base.records import Package
from pipeline.channel.reader import Published
from pipeline.channel.status import journal_line, lines, status_of

HEAD, OLD = "20261121T113154Z-2f7b86af", "20261120T113154Z-00000000"
NOW = 1_795_271_514
HOST = {
    "snapshot": HEAD,
    "room": 20 * 10**9,
    "ahead": 0.0,
    "free": 30 * 10**9,
    "snapshots": [
        {"id": HEAD, "time": NOW - 3 * 3600, "reason": "v0.9.2", "packages": 2, "staged": False},
        {"id": OLD, "time": NOW - 90000, "reason": "v0.9.1", "packages": 1, "staged": True},
    ],
    "pool": {"files": 3, "bytes": 600_000_000},
    "orphans": [{"name": "mistralrs-ada-0.9.0-1.fc43.x86_64.rpm", "bytes": 200_000_000, "since": NOW}],
    "missing": [],
    "incoming": [{"transaction": "tx-1", "bytes": 5_000_000, "age": 12}],
    "journal": [
        {
            "time": NOW,
            "snapshot": HEAD,
            "added": ["a"],
            "removed": [],
            "yanked": [],
            "reason": "v0.9.2",
            "who": "uid 0 from here",
        }
    ],
    "refusals": [{"time": NOW, "from": "192.0.2.1", "command": "sh", "error": "this command is not allowed here"}],
}


def package(version: str, size: int = 300_000_000) -> Package:
    return Package("mistralrs-ada", version, "1.fc43", "x86_64", "c" * 40, "p", "5" * 64, size)


PUBLISHED = Published(HEAD, 1, (package("0.9.9"), package("0.9.10")))


def wrong(*arguments: object) -> dict[str, Finding]:
    return {finding.check: finding for finding in status_of("stable", *arguments).findings if not finding.fits}


def test_a_healthy_channel_is_a_few_lines():
    found = status_of("stable", PUBLISHED, HOST, [])
    assert all(finding.fits for finding in found.findings)
    text = "\n".join(lines(found, NOW))
    assert f"stable: {HEAD}, 3 h ago: v0.9.2" in text
    assert "pool 3 files, 600.0 MB; 1 snapshots, 1 staged; uploads waiting 5.0 MB; orphans 1, 200.0 MB" in text
    assert "mistralrs-ada  2       0.9.10-1.fc43  300.0 MB  600.0 MB" in text
    assert "1 added: v0.9.2 (uid 0 from here)" in text
    assert "192.0.2.1  sh: this command is not allowed here" in text


@pytest.mark.parametrize(
    ("added", "removed", "yanked", "text"),
    [
        (["a"], [], [], "1 added"),
        (["a"], ["b", "c"], [], "1 added, 2 removed"),
        ([], ["b", "c"], ["b"], "1 removed, yanked b"),
        ([], [], ["b"], "yanked b"),  # it had left the head before
        ([], ["e"], ["a", "b", "c", "d", "e"], "yanked a, b, c, 2 more"),
        ([], [], [], "no other packages"),
    ],
)
def test_a_publication_in_the_journal_names_what_it_yanked(added, removed, yanked, text):
    entry = {"time": 0, "snapshot": HEAD, "reason": "a token", "who": "signer"}
    entry |= {"added": added, "removed": removed, "yanked": yanked}
    assert journal_line(entry) == f"1970-01-01 00:00:00  {HEAD}  {text}: a token (signer)"


def test_an_empty_channel_is_well():
    assert wrong(Published("", 0, ()), HOST | {"snapshot": "", "snapshots": []}, []) == {}


def test_an_invalid_signature_is_a_finding_and_hides_nothing_else():
    found = status_of("stable", PipelineError("the signature's key has expired", "repomd.xml", "Extend it"), HOST, [])
    assert [finding.check for finding in found.findings if not finding.fits] == ["signature"]
    assert found.head == HEAD


def test_clients_that_see_another_snapshot_are_a_finding():
    assert wrong(Published(OLD, 1, ()), HOST, [])["what clients see"].found == OLD


def test_an_agent_that_does_not_answer_is_a_finding_and_the_packages_are_shown():
    error = PipelineError("talking to the repo host failed with status 255", "ssh host", "Check that the host is up")
    assert wrong(PUBLISHED, error, [])["agent"].remedy == "ssh host: Check that the host is up"
    assert status_of("stable", PUBLISHED, error, []).packages == PUBLISHED.packages


def test_missing_files_and_little_room_are_findings():
    found = wrong(PUBLISHED, HOST | {"missing": ["a.rpm"], "room": 900_000_000}, [])
    assert found["pool"].found == "without a.rpm"
    assert found["room on the repo host"].needed == "> 0.9 GB"


def test_faults_found_by_reading_every_byte_are_a_finding():
    deep = {"packages": 2, "bytes": 600_000_000, "findings": ["a.rpm has other bytes"]}
    assert wrong(PUBLISHED, HOST, [], deep)["every byte"].found == "a.rpm has other bytes"
    assert wrong(PUBLISHED, HOST, [], deep | {"findings": []}) == {}


def test_a_certificate_that_the_repo_host_does_not_serve_is_a_finding() -> None:
    """The repo host compares what it serves with what is on its disk, and status asks its agent."""
    fault = "rpm.lair.test is served with the certificate that ends on 2026-12-06, not with that on the disk"

    def found(certificate: dict[str, object] | None) -> list[Finding]:
        status = status_of("stable", PUBLISHED, HOST | {"certificate": certificate}, [], now=NOW)
        return [finding for finding in status.findings if finding.check == "certificate in use"]

    assert found(None) == []
    assert [finding.fits for finding in found({"time": NOW - 86400, "fault": ""})] == [True]
    (wrong,) = found({"time": NOW - 3600, "fault": fault})
    assert (wrong.fits, wrong.found) == (False, fault)
    assert "nginx -t, then systemctl start mistralrs-certificate-served" in wrong.remedy
    (silent,) = found({"time": NOW - 9 * 86400, "fault": ""})
    assert (silent.fits, silent.found) == (False, "last compared 9 days ago")
    assert "systemctl enable --now mistralrs-certificate.timer" in silent.remedy


def test_findings_of_the_keys_are_included():
    assert wrong(PUBLISHED, HOST, [Finding.bad("signing key", "expired", "valid", "Rotate")])["signing key"]
