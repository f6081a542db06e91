"""The doctor's report: one entry for each builder and flavour, one message with every failed check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.findings import Finding
from pipeline.check import doctor

GOOD = Finding.ok("rustc", "1.95.0", ">= 1.88")
SLOW = Finding.warn("compile cache: redis", "no answer", "answers", "Check that it runs")
BAD = Finding.bad("nvcc", "none", "13.2", "Install CUDA 13.2")
SOURCE = {"rpm_version": "0.9.2", "commit": "c" * 40}
PONG = {"ping": "pong"}


def checked(**flavours: list[Finding]) -> dict[str, dict[str, object]]:
    """A builder's outcomes."""
    return {name: {"findings": [finding.to_dict() for finding in found]} for name, found in flavours.items()}


def report(
    source: dict[str, str], signer: list[Finding], **outcomes: dict[str, dict[str, object]]
) -> doctor.DoctorReport:
    """The report of builders that answer."""
    builders = [entry for name, found in outcomes.items() for entry in doctor.builder_findings(name, PONG, found)]
    return doctor.report(7, source, signer, builders)


def test_a_warning_lets_the_report_fit():
    found = report(SOURCE, [GOOD], one=checked(ada=[GOOD, SLOW]), two=checked(ada=[GOOD]))
    assert (found.fits, found.summary) == (True, "2 of 2 builders' flavours fit")
    assert (found.version, found.time) == ("0.9.2", 7)
    found.refuse("doctor.json")


def test_every_failed_check_is_in_one_message_and_in_the_file(tmp_path: Path):
    found = report({}, [BAD], one=checked(ada=[GOOD], blackwell=[BAD, SLOW], ampere=[BAD]))
    with pytest.raises(PipelineError) as caught:
        found.refuse("doctor.json")
    assert [line.strip() for line in str(caught.value).splitlines() if line.startswith("    ")] == [
        "signer: nvcc: found none, needed 13.2. Install CUDA 13.2",
        "one blackwell, ampere: nvcc: found none, needed 13.2. Install CUDA 13.2",
    ]
    found.write(tmp_path / "doctor.json")
    written = json.loads((tmp_path / "doctor.json").read_text())
    assert [(e["builder"], e["flavour"], e["fits"]) for e in written["builders"]] == [
        ("one", "ada", True),
        ("one", "blackwell", False),
        ("one", "ampere", False),
    ]
    assert written["fits"] is False
    assert written["builders"][1]["findings"][1]["warning"] is True


def test_a_verifier_without_root_keeps_a_release_from_working():
    good, lost = ({"findings": [GOOD.to_dict()]}, {"message": "this account cannot become root on two. Run with -K"})
    entries = [doctor.verifier_findings(name, answer) for name, answer in (("one", good), ("two", lost), ("three", {}))]
    assert [entry.fits for entry in entries] == [True, False, False]
    found = doctor.report(7, SOURCE, [GOOD], [], entries)
    with pytest.raises(PipelineError, match="two: proof: found this account cannot become root on two. Run with -K"):
        found.refuse("doctor.json")
    with pytest.raises(PipelineError, match="three: proof: found no answer, needed root and a throw-away client"):
        found.refuse("doctor.json")


def test_a_builder_that_fails_the_ping_is_reported_with_its_message():
    (lost,) = doctor.builder_findings("two", {"failed": True, "msg": "Missing sudo password"}, {})
    assert (lost.findings[0].found, lost.findings[0].fits) == ("Missing sudo password", False)


@pytest.mark.parametrize("answer", [{}, {"unreachable": True}])
def test_a_builder_that_does_not_answer_fails_the_report(answer):
    (lost,) = doctor.builder_findings("two", answer, {})
    assert "ansible two -m ping" in lost.findings[0].remedy
    found = doctor.report(7, SOURCE, [], [lost])
    assert not found.fits
    with pytest.raises(PipelineError, match="two: builder: found no answer, needed an answer to Ansible"):
        found.refuse("doctor.json")


def test_a_check_that_fails_itself_is_a_finding():
    outcome = {"ada": {"task": "Check the builder", "message": "no space left"}}
    (entry,) = doctor.builder_findings("one", PONG, outcome)
    assert entry.findings == (
        Finding.bad("check", "no space left", "findings", "See the message of the task Check the builder"),
    )


def test_the_module_writes_first_and_fails_then(run_module, tmp_path: Path, monkeypatch):
    path = tmp_path / "new" / "doctor.json"
    arguments = {"path": str(path), "source": SOURCE, "builders": ["one"], "answers": [PONG]}
    bad = arguments | {"outcomes": [checked(ada=[BAD])]}
    assert run_module("doctor_report", bad, check=True)["failed"]
    assert not path.exists()
    failed = run_module("doctor_report", bad)
    assert failed["msg"].startswith("a release would fail:\n    one ada: nvcc: found none")
    assert json.loads(path.read_text())["builders"][0]["findings"] == [BAD.to_dict()]
    monkeypatch.setattr("ansible.module_utils.pipeline.base.sandbox.PATH", "/nonexistent")
    unable = run_module("doctor_report", arguments | {"outcomes": [checked(ada=[GOOD])]})
    assert "signer: packaging: found the program bwrap is not installed, needed rpmbuild in a sandbox" in unable["msg"]
    monkeypatch.undo()
    fine = run_module("doctor_report", arguments | {"outcomes": [checked(ada=[GOOD])]})
    assert (fine["changed"], fine["step"]["result"]) == (False, "1 of 1 builders' flavours fit")


def test_a_commit_that_cannot_be_resolved_fails_the_report(run_module, tmp_path: Path):
    failure = {"task": "Resolve the commit of upstream", "message": "upstream cannot be reached"}
    failed = run_module("doctor_report", {"path": str(tmp_path / "doctor.json"), "failure": failure})
    assert (
        "signer: Resolve the commit of upstream: found upstream cannot be reached, needed an answer. "
        "The builders were not checked" in failed["msg"]
    )


def test_a_report_that_cannot_be_written_is_an_error(run_module):
    failed = run_module("doctor_report", {"path": "/proc/nothing/doctor.json"})
    assert "the report cannot be written" in failed["msg"]
    assert "-e report=" in failed["msg"]
