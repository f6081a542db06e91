"""A finding: one check of a host, a key or a file, and what a person should do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import PipelineError
from .records import Record

WIDTH = 80


@dataclass(frozen=True)
class Finding(Record):
    """One check: what was looked at, what is there, what is needed, and what to do where they differ.

    A ``warning`` fits and stops nothing: what it tells makes the work worse or slower.
    """

    check: str
    found: str
    needed: str
    fits: bool
    remedy: str = ""
    warning: bool = False


def refuse(findings: Sequence[Finding], what: str, where: str, remedy: str) -> None:
    """PipelineError naming everything that does not fit, or nothing."""
    bad = [finding for finding in findings if not finding.fits]
    if bad:
        lines = "".join(f"    {f.check}: found {f.found}, needed {f.needed}. {f.remedy}\n" for f in bad)
        raise PipelineError(f"{what}:\n{lines}", where, remedy)


def table(findings: Iterable[Finding]) -> list[str]:
    """The findings as lines of a table for a person; what is too long for its column stands below its line."""
    findings = list(findings)
    rows = [("check", "found", "needed", "remedy")] + [
        (f.check, _cell(f.found), f.needed, f"warning: {f.remedy}" if f.warning else "ok" if f.fits else f.remedy)
        for f in findings
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    below = ["", *(f.found if _cell(f.found) != f.found else "" for f in findings)]
    lines = []
    for row, more in zip(rows, below, strict=True):
        lines.append("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]))
        lines += [f"    {line}" for line in more.splitlines()]
    return lines


def _cell(text: str) -> str:
    """What stands in a column of the table."""
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def summary(findings: Sequence[Finding]) -> str:
    """The findings in a few words: "21 of 22 checks fit, 1 warning"."""
    fit, warnings = sum(f.fits for f in findings), sum(f.warning for f in findings)
    told = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    return f"{fit} of {len(findings)} checks fit{told}"
