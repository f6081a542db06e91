"""The doctor's report: every problem that would make a release fail, in one file and one message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Record


@dataclass(frozen=True)
class BuilderFindings(Record):
    """The findings of one builder for one flavour; the flavour is empty for a finding about the host alone."""

    builder: str
    flavour: str
    fits: bool
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, builder: str, flavour: str, findings: Iterable[Finding]) -> BuilderFindings:
        found = tuple(findings)
        return cls(builder, flavour, all(finding.fits for finding in found), found)


@dataclass(frozen=True)
class DoctorReport(Record):
    """``version`` and ``commit`` are those of the source, empty where it could not be resolved."""

    time: int
    version: str
    commit: str
    fits: bool
    signer: tuple[Finding, ...]
    builders: tuple[BuilderFindings, ...]
    verifiers: tuple[BuilderFindings, ...] = ()

    @property
    def summary(self) -> str:
        """The builders' flavours that would build: "3 of 4 builders' flavours fit"."""
        return f"{sum(entry.fits for entry in self.builders)} of {len(self.builders)} builders' flavours fit"

    def refuse(self, where: str) -> None:
        """Raise a PipelineError with every failed check, or return. A failure that flavours share has one line."""
        shared: dict[tuple[str, str, str, str], tuple[Finding, list[str]]] = {}
        for entry in (BuilderFindings("signer", "", self.fits, self.signer), *self.builders, *self.verifiers):
            for f in entry.findings:
                if not f.fits:
                    shared.setdefault((entry.builder, f.check, f.needed, f.remedy), (f, []))[1].append(entry.flavour)
        lines = ""
        for (builder, *_), (f, flavours) in shared.items():
            whose = f"{builder} {', '.join(flavours)}".strip()
            lines += f"    {whose}: {f.check}: found {f.found}, needed {f.needed}. {f.remedy}\n"
        if lines:
            raise PipelineError(f"a release would fail:\n{lines}", where, "Fix these, then run make doctor again")


def report(
    time: int,
    source: Mapping[str, Any],
    signer: Iterable[Finding],
    builders: Iterable[BuilderFindings],
    verifiers: Iterable[BuilderFindings] = (),
) -> DoctorReport:
    """The report of the findings on the hosts. ``source`` is the Source record, or empty."""
    own, entries, provers = tuple(signer), tuple(builders), tuple(verifiers)
    fits = all(finding.fits for finding in own) and all(entry.fits for entry in (*entries, *provers))
    version, commit = str(source.get("rpm_version", "")), str(source.get("commit", ""))
    return DoctorReport(time, version, commit, fits, own, entries, provers)


def unresolved(failure: Mapping[str, Any]) -> Finding:
    """The finding of a failed task (``task`` and ``message``) before the builders' checks."""
    remedy = "The builders were not checked, since the commit is not known"
    return Finding.bad(str(failure["task"]), str(failure["message"]), "an answer", remedy)


def builder_findings(
    name: str, answer: Mapping[str, Any], outcomes: Mapping[str, Mapping[str, Any]]
) -> list[BuilderFindings]:
    """The findings of one builder, by flavour.

    ``answer`` is the result of a ping: a builder that is unreachable, failed it, or got none, has one finding. Each of
    ``outcomes`` has the check's ``findings``, or the ``task`` and ``message`` of a check that failed itself.
    """
    if not answer or answer.get("unreachable") or answer.get("failed"):
        remedy = f"Check that {name} is up and this account may log in: ansible {name} -m ping"
        found = str(answer.get("msg") or "no answer")
        return [BuilderFindings.of(name, "", [Finding.bad("builder", found, "an answer to Ansible", remedy)])]
    return [BuilderFindings.of(name, flavour, _findings(outcome)) for flavour, outcome in outcomes.items()]


def verifier_findings(name: str, answer: Mapping[str, Any]) -> BuilderFindings:
    """The findings of a verifier. ``answer`` has ``findings``, or the ``message`` of a failed check, or nothing."""
    if "findings" in answer:
        return BuilderFindings.of(name, "", [Finding.from_dict(row) for row in answer["findings"]])
    found = str(answer.get("message") or "no answer")
    remedy = f"Check that {name} is up, and that this account becomes root there: ansible {name} -b -m ping"
    return BuilderFindings.of(name, "", [Finding.bad("proof", found, "root and a throw-away client", remedy)])


def _findings(outcome: Mapping[str, Any]) -> list[Finding]:
    if "findings" in outcome:
        return [Finding.from_dict(row) for row in outcome["findings"]]
    remedy = f"See the message of the task {outcome['task']}"
    return [Finding.bad("check", str(outcome["message"]), "findings", remedy)]
