"""A finding: the result of one check of a host, a key or a file, and the remedy where it fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from .errors import PipelineError
from .records import Record

WIDTH = 80


@dataclass(frozen=True)
class Finding(Record):
    """One check: its subject, the value found, the value needed, and the remedy where the two differ.

    Rules: ``remedy`` is empty unless the check fails or warns. A ``warning`` fits and stops nothing: it makes the work
    worse or slower. Use the constructors below, which hold to this.
    """

    check: str
    found: str
    needed: str
    fits: bool
    remedy: str = ""
    warning: bool = False

    @classmethod
    def ok(cls, check: str, found: str, needed: str) -> Self:
        """A check that passed."""
        return cls(check, found, needed, fits=True)

    @classmethod
    def bad(cls, check: str, found: str, needed: str, remedy: str) -> Self:
        """A check that failed."""
        return cls(check, found, needed, fits=False, remedy=remedy)

    @classmethod
    def warn(cls, check: str, found: str, needed: str, remedy: str) -> Self:
        """A check that passed, with a warning."""
        return cls(check, found, needed, fits=True, remedy=remedy, warning=True)

    @classmethod
    def of(cls, check: str, found: str, needed: str, *, fits: bool, remedy: str) -> Self:
        """``ok`` where the check fits, else ``bad``."""
        return cls.ok(check, found, needed) if fits else cls.bad(check, found, needed, remedy)


def refuse(findings: Sequence[Finding], what: str, where: str, remedy: str) -> None:
    """Raise a PipelineError that names every failed check; return if there is none."""
    bad = [finding for finding in findings if not finding.fits]
    if bad:
        lines = "".join(f"    {f.check}: found {f.found}, needed {f.needed}. {f.remedy}\n" for f in bad)
        raise PipelineError(f"{what}:\n{lines}", where, remedy)


def table(findings: Iterable[Finding]) -> list[str]:
    """The findings as lines of a table; a text that is too long for its column follows below its line."""
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
    """The text in one line, cut to the column's width."""
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def summary(findings: Sequence[Finding]) -> str:
    """The findings in a few words: "21 of 22 checks fit, 1 warning"."""
    fit, warnings = sum(f.fits for f in findings), sum(f.warning for f in findings)
    suffix = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    return f"{fit} of {len(findings)} checks fit{suffix}"
