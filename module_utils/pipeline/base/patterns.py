"""Patterns of the fields of records. What matches can be a part of a path, an argument or a macro's value.

A field's type names its pattern, and each record checks it when it is made: ``commit: Commit``. Records come from
builders and repo hosts too, so ``../x``, ``--define``, ``%{lua:...}`` or a line break in them is an attack.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from .text import SNAPSHOT_ID


@dataclass(frozen=True)
class Pattern:
    """A regular expression for the whole value, and its meaning for a person."""

    expression: str
    meaning: str

    def fits(self, value: str) -> bool:
        return re.fullmatch(self.expression, value) is not None


def _or_nothing(pattern: Pattern) -> Pattern:
    return Pattern(f"(?:{pattern.expression})?", f"{pattern.meaning}, or empty")


_NAME = Pattern(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", "a name of letters, digits and . _ + -")
_VERSION = Pattern(r"[A-Za-z0-9][A-Za-z0-9._+~^]{0,127}", "a version of letters, digits and . _ + ~ ^")
_LINE = Pattern(r"[^\x00-\x1f\x7f]{0,4096}", "one line of text")
_COMMIT = Pattern(r"[0-9a-f]{40}|[0-9a-f]{64}", "a commit of 40 hex digits")
_SHA256 = Pattern(r"[0-9a-f]{64}", "a SHA-256 of 64 hex digits")
_SNAPSHOT = Pattern(SNAPSHOT_ID, "a snapshot's id")

Name = Annotated[str, _NAME]
OptionalName = Annotated[str, _or_nothing(_NAME)]
FlavourName = Annotated[str, Pattern(r"[a-z0-9][a-z0-9_-]{0,31}", "a flavour's name of a-z, 0-9, _ and -")]
FileName = Annotated[
    str, Pattern(r"[A-Za-z0-9][A-Za-z0-9._+~^-]{0,250}", "a file name of letters, digits and . _ + ~ ^ -")
]
RpmVersion = Annotated[str, _VERSION]
UpstreamVersion = Annotated[
    str, Pattern(r"[A-Za-z0-9][A-Za-z0-9._+~^-]{0,127}", "a version of letters, digits and . _ + ~ ^ -")
]
Architecture = Annotated[str, Pattern(r"[a-z0-9_]{1,16}", "an architecture")]
Commit = Annotated[str, _COMMIT]
OptionalCommit = Annotated[str, _or_nothing(_COMMIT)]
Sha256 = Annotated[str, _SHA256]
OptionalSha256 = Annotated[str, _or_nothing(_SHA256)]
SnapshotId = Annotated[str, _or_nothing(_SNAPSHOT)]
Number = Annotated[str, Pattern(r"(?:\d{1,4}(?:\.\d{1,6}){0,3})?", "numbers with dots, or empty")]
Feature = Annotated[str, Pattern(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", "a cargo feature")]
Line = Annotated[str, _LINE]


def commits(values: Iterable[str]) -> list[str]:
    """Those values that are commits: git takes another one for an option, a range or several lines."""
    return [value for value in values if _COMMIT.fits(value)]
