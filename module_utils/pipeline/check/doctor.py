"""The doctor's report: everything that keeps a release from working, in one file and one message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Record


@dataclass(frozen=True)
class Entry(Record):
    """What one builder has and lacks for one flavour; the flavour is empty for what concerns the host alone."""

    builder: str
    flavour: str
    fits: bool
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Report(Record):
    """``time`` is when it was made; ``version`` and ``commit`` are upstream's, empty where they could not be found."""

    time: int
    version: str
    commit: str
    fits: bool
    signer: tuple[Finding, ...]
    builders: tuple[Entry, ...]

    @property
    def summary(self) -> str:
        """How many of the builders' flavours could be built: "3 of 4 fit"."""
        return f"{sum(entry.fits for entry in self.builders)} of {len(self.builders)} builders' flavours fit"

    def refuse(self, where: str) -> None:
        """PipelineError naming everything that does not fit, or nothing. What flavours have in common is told once."""
        told: dict[tuple[str, str, str, str], tuple[Finding, list[str]]] = {}
        for entry in (Entry("signer", "", self.fits, self.signer), *self.builders):
            for f in entry.findings:
                if not f.fits:
                    told.setdefault((entry.builder, f.check, f.needed, f.remedy), (f, []))[1].append(entry.flavour)
        lines = ""
        for (builder, *_), (f, flavours) in told.items():
            whose = f"{builder} {', '.join(flavours)}".strip()
            lines += f"    {whose}: {f.check}: found {f.found}, needed {f.needed}. {f.remedy}\n"
        if lines:
            raise PipelineError(f"a release would fail:\n{lines}", where, "Mend these, then run make doctor again")


def report(
    time: int,
    source: Mapping[str, Any],
    signer: Iterable[Mapping[str, Any]],
    entries: Iterable[Mapping[str, Any]],
    unanswered: Iterable[str],
) -> Report:
    """The report of what was found on the hosts; a builder that did not answer has one entry, which says so."""
    own = tuple(Finding.from_dict(row) for row in signer)
    found = [Entry.from_dict({**row, "fits": all(finding["fits"] for finding in row["findings"])}) for row in entries]
    lost = [
        Entry(name, "", fits=False, findings=(
            Finding("builder", "no answer", "an answer to Ansible", fits=False,
                    remedy=f"See that {name} is up and this account may log in: ansible {name} -m ping"),
        ))
        for name in unanswered
    ]  # fmt: skip
    fits = all(finding.fits for finding in own) and all(entry.fits for entry in [*found, *lost])
    return Report(time, str(source.get("rpm_version", "")), str(source.get("commit", "")), fits, own, (*found, *lost))
