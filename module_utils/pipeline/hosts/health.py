"""Wait until the servers of a GPU host answer.

Rules:

1. An instance is healthy when its unit is active, no job of systemd waits for it (an upgrade restarts it without
   waiting), and ``/health`` answers 200. Upstream opens the port once the model is loaded.
2. One time limit covers all instances: a download delays all of them.
3. An instance that systemd has given up ends the wait at once.
4. The error shows the last lines of the journal of each instance that is not healthy.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..base.errors import PipelineError
from ..base.run import CommandFailed, ProgramMissing, run
from ..base.text import last_words
from .instances import properties

PAUSE = 1.0
"""Seconds between two checks."""


@dataclass(frozen=True)
class UnitHealth:
    """The health of an instance: its unit's state, whether a job waits for it, and the answer of /health."""

    state: str
    job: bool
    answer: str

    @property
    def healthy(self) -> bool:
        return self.state == "active" and not self.job and self.answer == "200"

    @property
    def over(self) -> bool:
        """Whether it cannot become healthy any more."""
        return self.state == "failed" and not self.job

    def __str__(self) -> str:
        return f"the unit is {self.state}, /health answers {self.answer}"


def wait(
    urls: Mapping[str, str],
    timeout: float,
    lines: int,
    *,
    check: Callable[[str, str], UnitHealth] | None = None,
    journal: Callable[[str, int], str] | None = None,
) -> float:
    """Wait for ``urls``, /health by unit; the seconds it took. PipelineError names the units that are not healthy."""
    start = time.monotonic()
    waiting = dict(urls)
    while waiting:
        seen = {unit: (check or check_unit)(unit, url) for unit, url in waiting.items()}
        waiting = {unit: url for unit, url in waiting.items() if not seen[unit].healthy}
        spent = time.monotonic() - start
        if any(seen[unit].over for unit in waiting) or (waiting and spent > timeout):
            over = [unit for unit in waiting if seen[unit].over]
            states = [
                f"{unit}: {seen[unit]}; its journal ends with: {(journal or journal_of)(unit, lines)}"
                for unit in over or waiting
            ]
            raise PipelineError(
                f"{'systemd gave up' if over else f'not healthy after {timeout:g} s'}: {'; '.join(states)}",
                ", ".join(waiting[unit] for unit in over or waiting),
                "Fix the error in the journal and run this again; a model that is still loading needs a longer"
                " mistralrs_health_timeout",
            )
        if waiting:
            time.sleep(PAUSE)
    return time.monotonic() - start


def check_unit(unit: str, url: str) -> UnitHealth:
    """The unit's health now."""
    found = properties(unit, "ActiveState", "Job")
    return UnitHealth(found.get("ActiveState", "unknown"), bool(found.get("Job")), answer(url))


def answer(url: str) -> str:
    """The status of the answer, or the reason for none. Not by a proxy, to which 127.0.0.1 is another host."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return str(response.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except (OSError, ValueError) as error:
        return f"nothing ({getattr(error, 'reason', error)})"


def journal_of(unit: str, lines: int) -> str:
    """The last lines of a unit's journal, as one line."""
    try:
        journal = run(["journalctl", "--unit", unit, "--lines", str(lines), "--no-pager", "--output", "cat"]).stdout
    except (CommandFailed, ProgramMissing) as error:
        return str(error)
    return last_words(journal, lines)
