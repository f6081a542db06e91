"""The signer's clock, compared with the repo host's.

Rules:

1. rpm 6 refuses a signature that is more than 300 seconds ahead of the client's clock (tried; gpg and rpm 4 do not).
   What a signer whose clock is ahead publishes cannot be installed until that time, so nothing is signed then.
2. The agent sends its time with each answer, so a comparison costs no request. A slow line is no difference: what
   counts is by how much the clocks differ at least.
3. TOLERANCE is what NTP never reaches, and leaves four of the five minutes to the clocks of clients.
4. Which of the two clocks is wrong is not known here: messages show both. A signer that is behind does no harm to
   clients; the status reports it, since the days of a rotation are the signer's.
"""

from __future__ import annotations

import time

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.text import moment

TOLERANCE = 60
"""Seconds."""
_SET = "Set the clock that is wrong: `timedatectl` on both hosts shows whether NTP holds it"


def ahead(asked: float, there: float, answered: float) -> float:
    """The seconds that this host is at least ahead of one whose time was ``there`` between two times here.

    Negative if it is behind; 0 if the clocks may agree.
    """
    if asked > there:
        return asked - there
    return min(answered - there, 0.0)


def require_present(seconds: float, where: str) -> None:
    """PipelineError if this host's signatures would be from the future."""
    if seconds > TOLERANCE:
        raise PipelineError(
            f"the signer's clock is {_difference(seconds)}, and clients refuse signatures from the future",
            where,
            f"{_SET}. Then run the same command again: nothing was published, and what was built is kept",
        )


def check(seconds: float | None) -> Finding:
    """The finding about the two clocks; None: the repo host's is not known."""
    if seconds is None:
        remedy = "Run playbooks/repo_host.yml, which installs the agent of this version"
        return Finding.bad("clocks", "the agent sends no time: it is of an earlier version", "the repo host's", remedy)
    return Finding.of(
        "clocks",
        f"the signer's is {_difference(seconds)}" if abs(seconds) > TOLERANCE else "agree",
        f"at most {TOLERANCE} s apart",
        fits=abs(seconds) <= TOLERANCE,
        remedy=_SET,
    )


def _difference(seconds: float) -> str:
    here = time.time()
    return (
        f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the repo host's:"
        f" {moment(here)} UTC here, {moment(here - seconds)} UTC there"
    )
