"""The doctor's report: one entry for each builder and flavour, one message with everything that does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.findings import Finding
from pipeline.check import doctor

GOOD = Finding("rustc", "1.95.0", ">= 1.88", fits=True).to_dict()
SLOW = Finding("compile cache: redis", "no answer", "answers", fits=True, remedy="See it runs", warning=True).to_dict()
BAD = Finding("nvcc", "none", "13.2", fits=False, remedy="Install CUDA 13.2").to_dict()
SOURCE = {"rpm_version": "0.9.2", "commit": "c" * 40}


def entry(builder: str, flavour: str, *findings: dict[str, object]) -> dict[str, object]:
    return {"builder": builder, "flavour": flavour, "findings": list(findings)}


def test_a_warning_keeps_nothing_from_working():
    report = doctor.report(7, SOURCE, [GOOD], [entry("one", "ada", GOOD, SLOW), entry("two", "ada", GOOD)], [])
    assert (report.fits, report.summary, report.version, report.time) == (
        True,
        "2 of 2 builders' flavours fit",
        "0.9.2",
        7,
    )
    report.refuse("doctor.json")


def test_everything_that_does_not_fit_is_in_one_message_and_in_the_file(tmp_path: Path):
    report = doctor.report(
        7, {}, [BAD], [entry("one", "ada", GOOD), entry("one", "blackwell", BAD, SLOW), entry("one", "ampere", BAD)],
        ["two"],
    )  # fmt: skip
    (lost,) = report.builders[-1].findings
    assert "ansible two -m ping" in lost.remedy
    with pytest.raises(PipelineError) as caught:
        report.refuse("doctor.json")
    assert [line.strip() for line in str(caught.value).splitlines() if line.startswith("    ")] == [
        "signer: nvcc: found none, needed 13.2. Install CUDA 13.2",
        "one blackwell, ampere: nvcc: found none, needed 13.2. Install CUDA 13.2",
        "two: builder: found no answer, needed an answer to Ansible. " + lost.remedy,
    ]
    report.write(tmp_path / "doctor.json")
    said = json.loads((tmp_path / "doctor.json").read_text())
    assert [(e["builder"], e["flavour"], e["fits"]) for e in said["builders"]] == [
        ("one", "ada", True), ("one", "blackwell", False), ("one", "ampere", False), ("two", "", False),
    ]  # fmt: skip
    assert said["fits"] is False
    assert said["builders"][1]["findings"][1]["warning"] is True


def test_a_builder_that_does_not_answer_is_enough():
    assert not doctor.report(7, SOURCE, [], [entry("one", "ada", GOOD)], ["two"]).fits


def test_the_module_writes_first_and_fails_then(run_module, tmp_path: Path):
    path = tmp_path / "new" / "doctor.json"
    arguments = {"path": str(path), "source": SOURCE, "entries": [entry("one", "ada", BAD)]}
    assert run_module("doctor_report", arguments, check=True)["failed"]
    assert not path.exists()
    failed = run_module("doctor_report", arguments)
    assert failed["msg"].startswith("a release would fail:\n    one ada: nvcc: found none")
    assert json.loads(path.read_text())["builders"][0]["findings"] == [BAD]
    fine = run_module("doctor_report", arguments | {"entries": [entry("one", "ada", GOOD)]})
    assert (fine["changed"], fine["step"]["result"]) == (False, "1 of 1 builders' flavours fit")


def test_a_report_that_cannot_be_written_is_told(run_module):
    failed = run_module("doctor_report", {"path": "/proc/nothing/doctor.json"})
    assert "the report cannot be written" in failed["msg"]
    assert "-e report=" in failed["msg"]
