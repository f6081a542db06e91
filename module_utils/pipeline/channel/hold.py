"""The hold: while it stands no release is published, whatever starts one.

Rules:

1. It is one file of the signer, beside the memory of the heads (``channel.heads``), so a backup has it and every run
   that signs sees it, even if the repo host does not answer. It is written whole or not at all.
2. A run that would publish a release ends before it builds; staging a release, and publishing one that was staged
   before, are refused too. Rollback, yank, retention and the release package of the keys work as ever.
3. A file that cannot be read holds: it is never taken for none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from ..base.errors import PipelineError
from ..base.patterns import Line
from ..base.records import Record
from ..base.text import moment
from ..sign.keyring import write_private

REMEDY = "make resume (playbooks/resume.yml) ends the hold"


class Held(PipelineError):
    """Releases are on hold. A module that fails with it returns ``held``."""

    def __init__(self, what: str, where: str, remedy: str) -> None:
        super().__init__(what, where, remedy)
        self.details = {"held": True}


@dataclass(frozen=True)
class Hold(Record):
    """Why no release is published, who asked for that, and since when (seconds since 1970)."""

    reason: Line
    by: Line
    since: int

    def __str__(self) -> str:
        return f"on hold since {moment(self.since)} UTC by {self.by}: {self.reason}"

    @classmethod
    def of(cls, root: Path) -> Self | None:
        """The hold of the signer whose folder is ``root``; None without one. Held if its file cannot be read."""
        path = path_of(root)
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError, PipelineError) as error:
            raise Held(f"releases are on hold, and the reason cannot be read: {error}", str(path), REMEDY) from error


def path_of(root: Path) -> Path:
    return root / "heads/hold.json"


def placed(root: Path, reason: str, by: str, now: float, *, check: bool = False) -> tuple[Hold | None, Hold]:
    """Hold releases; the hold before and after. The same reason again changes nothing, another one keeps the time."""
    if not reason.strip():
        raise PipelineError("a hold needs a reason", remedy="Give it, for whoever meets it: make hold REASON='...'")
    before = Hold.of(root)
    wanted = Hold(" ".join(reason.split()), by, int(now))
    after = replace(before, reason=wanted.reason) if before else wanted
    if after != before and not check:
        path_of(root).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path_of(root), json.dumps(after.to_dict(), indent=1) + "\n")
    return before, after


def lifted(root: Path, *, check: bool = False) -> Hold | None:
    """Allow releases again; the hold that stood. One that cannot be read is lifted too."""
    try:
        before = Hold.of(root)
    except Held:
        before = Hold("an unreadable file", "", 0)
    if before and not check:
        path_of(root).unlink(missing_ok=True)
    return before


def expect_none(root: Path, consequence: str) -> None:
    """Held if releases are on hold. ``consequence`` is a sentence about what this run did not do."""
    if hold := Hold.of(root):
        raise Held(f"releases are {hold}", str(path_of(root)), f"{consequence}. {REMEDY}")
