"""What the agent refuses, and the exit status of each kind.

A refusal states what is wrong, where, and what to do next; it is one line of JSON on stderr. Statuses 1 and 2
are final. 3 and 4 only ask the caller to compose again or to try again.
"""

from __future__ import annotations

import json

COMPOSE_AGAIN = "Compose the snapshot again and upload it as a new transaction"
FINAL = (1, 2)


class Refused(Exception):
    """The agent refuses; what clients can reach is as it was."""

    status = 1

    def __init__(self, what: str, where: object = "", remedy: str = COMPOSE_AGAIN) -> None:
        self.what, self.where, self.remedy = what, str(where), remedy
        super().__init__(what)

    def line(self) -> str:
        return json.dumps(
            {"error": self.what, "where": self.where, "remedy": self.remedy, "status": self.status},
        )


class UsageError(Refused):
    """Not a command of the agent, or not allowed for this key."""

    status = 2


class ParentMoved(Refused):
    """The head is no longer the snapshot's parent: another transaction was published."""

    status = 3


class Busy(Refused):
    """Another command holds the lock of the channel or of the upload."""

    status = 4

    def __init__(self, what: str, where: object) -> None:
        super().__init__(what, where, "Wait for it, then try again")


def refusal(error: Exception) -> Refused:
    """An error as a refusal; a refusal as it is."""
    if isinstance(error, Refused):
        return error
    if not isinstance(error, OSError):  # an input of a kind that no rule names
        remedy = "Drop the transaction and compose it again; if that fails too, report this as a defect of the agent"
        return Refused(f"the agent failed: {type(error).__name__}: {str(error)[:200]}", "", remedy)
    return Refused(
        f"the repo host failed: {error.strerror or error}",
        error.filename or "",
        "Fix it (disk space, owner and mode of the root), then repeat the same command",
    )
