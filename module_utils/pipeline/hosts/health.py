"""Waiting until the servers of a GPU host answer.

Rules:

1. An instance is well when its unit is active, no job of systemd's waits for it (an upgrade restarts it without
   waiting), and ``/health`` answers 200. Upstream opens the port once the model is loaded.
2. All instances are waited for together, for one bounded time: a download is the same for all of them.
3. An instance that systemd has given up ends the wait at once.
4. The error shows the last lines of the journal of each instance that is not well.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..base.errors import PipelineError
from ..base.run import CommandFailed, ProgramMissing, run
from .instances import properties

PAUSE = 1.0
"""Seconds between two looks."""


@dataclass(frozen=True)
class Look:
    """What was seen of an instance: systemd's state of the unit, whether a job waits, what /health said."""

    state: str
    job: bool
    said: str

    @property
    def well(self) -> bool:
        return self.state == "active" and not self.job and self.said == "200"

    @property
    def over(self) -> bool:
        """Whether waiting is of no more use."""
        return self.state == "failed" and not self.job

    def __str__(self) -> str:
        return f"the unit is {self.state}, /health says {self.said}"


def wait(
    urls: Mapping[str, str],
    timeout: float,
    lines: int,
    *,
    look: Callable[[str, str], Look] | None = None,
    journal: Callable[[str, int], str] | None = None,
) -> float:
    """Wait for ``urls``, /health by unit; how many seconds it took. PipelineError tells who is not well, and why."""
    start = time.monotonic()
    waiting = dict(urls)
    while waiting:
        seen = {unit: (look or look_at)(unit, url) for unit, url in waiting.items()}
        waiting = {unit: url for unit, url in waiting.items() if not seen[unit].well}
        spent = time.monotonic() - start
        if any(seen[unit].over for unit in waiting) or (waiting and spent > timeout):
            over = [unit for unit in waiting if seen[unit].over]
            told = [
                f"{unit}: {seen[unit]}; its journal ends with: {(journal or journal_of)(unit, lines)}"
                for unit in over or waiting
            ]
            raise PipelineError(
                f"{'systemd gave up' if over else f'not well after {timeout:g} s'}: {'; '.join(told)}",
                ", ".join(waiting[unit] for unit in over or waiting),
                "Mend what the journal says and run this again; a model that is still loading needs a longer"
                " mistralrs_health_timeout",
            )
        if waiting:
            time.sleep(PAUSE)
    return time.monotonic() - start


def look_at(unit: str, url: str) -> Look:
    """The unit, as it is now."""
    said = properties(unit, "ActiveState", "Job")
    return Look(said.get("ActiveState", "unknown"), bool(said.get("Job")), answer(url))


def answer(url: str) -> str:
    """The status of an answer, or why there is none. No proxy is asked: it knows another 127.0.0.1."""
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
        said = run(["journalctl", "--unit", unit, "--lines", str(lines), "--no-pager", "--output", "cat"]).stdout
    except (CommandFailed, ProgramMissing) as error:
        return str(error)
    return " | ".join(line.strip() for line in said.splitlines() if line.strip()) or "(empty)"
