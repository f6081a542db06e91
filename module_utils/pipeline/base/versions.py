"""Upstream's tags, and the versions that their packages carry.

Rules (from upstream's tags v0.7.0 to v0.9.2; the tests check the order with rpm's own compare):

1. ``v0.8.4-rc4`` is the version 0.8.4~rc4: rpm sorts ``~`` before the end of a version.
2. A commit after a tag is ``<tag's version>^<UTC time>git<7 hex>``: ``^`` sorts after the end. The time is the commit's
   corrected one: a commit sorts after its ancestors, whatever their clocks said (``corrected_time``).
3. Uncommitted work on top of a commit adds ``.dirty``, which sorts after the commit.
4. A tag that is not ``v<number>.<number>...[-rc<n>]`` is no release, and no run builds it by itself.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from .errors import PipelineError

_TAG = re.compile(r"v?(?P<base>\d+(?:\.\d+){1,3})(?:-?(?P<stage>alpha|beta|rc)\.?(?P<number>\d+))?")


@dataclass(frozen=True, order=True)
class Release:
    """A tag that is a release. Releases order as upstream intends: rc4 < rc10 < the release itself."""

    numbers: tuple[int, ...]
    final: bool
    stage: str
    number: int
    tag: str

    @property
    def base(self) -> str:
        return ".".join(map(str, self.numbers))

    @property
    def version(self) -> str:
        """Upstream's own spelling, without the v: "0.8.4-rc4"."""
        return self.base if self.final else f"{self.base}-{self.stage}{self.number}"

    @property
    def rpm_version(self) -> str:
        """rpm's spelling: "0.8.4~rc4"."""
        return self.base if self.final else f"{self.base}~{self.stage}{self.number}"


def parse_tag(tag: str) -> Release | None:
    """The release of a tag, or None for a tag that is no release."""
    match = _TAG.fullmatch(tag)
    if match is None:
        return None
    numbers = tuple(int(part) for part in match["base"].split("."))
    return Release(numbers, match["stage"] is None, match["stage"] or "", int(match["number"] or 0), tag)


def releases(tags: Iterable[str]) -> list[Release]:
    """The releases among the tags, oldest first."""
    return sorted(release for tag in tags if (release := parse_tag(tag)) is not None)


def nearest(wanted: str, known: Iterable[Release], count: int = 3) -> list[str]:
    """The versions most similar to ``wanted``, most similar first, for an error's remedy."""
    versions = [release.version for release in known]
    return difflib.get_close_matches(wanted.removeprefix("v"), versions, n=count, cutoff=0.0)


def corrected_time(history: Iterable[tuple[int, str, Sequence[str]]]) -> int:
    """The corrected time of the last commit of ``history``: rows of committer's time, commit and parents, oldest first.

    It is git's corrected commit date (git's Documentation/technical/commit-graph.txt): the committer's own time, but a
    second after each parent's corrected time at the earliest. Parents that the history lacks do not count.
    """
    times: dict[str, int] = {}
    time = 0
    for own, commit, parents in history:
        time = max([own, *(times[parent] + 1 for parent in parents if parent in times)])
        times[commit] = time
    return time


def commit_version(base: Release, commit: str, time: int, *, dirty: bool = False) -> str:
    """The version of a package of a commit after ``base``, by its corrected time: "0.9.2^20260822.143813git9e92262"."""
    try:
        moment = datetime.fromtimestamp(time, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise PipelineError(
            f"the commit has no usable time: {time} seconds since 1970",
            commit,
            "Choose a release, or a commit before the one with the wrong clock",
        ) from error
    return f"{base.rpm_version}^{moment:%Y%m%d.%H%M%S}git{commit[:7]}{'.dirty' if dirty else ''}"


def release_of(rpm_version: str) -> str:
    """The release that a version is of, or comes after: "0.9.3~rc1" of "0.9.3~rc1^20260822.143813git9e92262"."""
    return rpm_version.partition("^")[0]


def dotted(version: str) -> tuple[int, ...]:
    """A plain dotted version as numbers, for comparing toolchains: "13.0" gives (13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("-", maxsplit=1)[0]))


def rpm_order(left: str, right: str) -> int:
    """How rpm orders two versions: -1, 0 or 1.

    rpm's rules (its manual, "Versioning"): runs of digits and of letters compare in turn, digits as numbers and above
    letters; the longer wins; ``~`` sorts before everything, even the end, ``^`` after the end but before anything else.
    """
    ours, theirs = _pieces(left), _pieces(right)
    for a, b in itertools.zip_longest(ours, theirs, fillvalue=""):
        if a != b and (rank := _rank(a) - _rank(b)):
            return 1 if rank > 0 else -1
        if a != b and a.isdigit() and int(a) != int(b):
            return 1 if int(a) > int(b) else -1
        if a != b and not a.isdigit():
            return 1 if a > b else -1
    return 0


def _build_order(left: tuple[str, str], right: tuple[str, str]) -> int:
    return rpm_order(left[0], right[0]) or rpm_order(left[1], right[1])


by_build = functools.cmp_to_key(_build_order)
"""The sort key of a build, a version with its release, in rpm's order."""


def _pieces(version: str) -> list[str]:
    return re.findall(r"\d+|[A-Za-z]+|~|\^", version)


def _rank(piece: str) -> int:
    """The order of the kinds of pieces: a higher rank is newer; "" is the version's end."""
    if piece.isdigit():
        return 4
    return {"~": 0, "": 1, "^": 2}.get(piece, 3)
