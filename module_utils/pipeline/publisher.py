"""The client of the publisher agent: how a signer talks to the repo host.

The agent (roles/publisher/files/mistralrs-publisher) is reached by a remote shell: ssh, where the
key's forced command is the agent, or the agent itself with ``--rsh`` on the same machine. Both take
the same words, so nothing here knows which it is.

Rules:

1. ``upload`` may be repeated: it sends what is missing and goes on with a file that was cut off.
2. ``commit`` may be repeated: the agent answers the same for a transaction that is the head already.
3. A refusal of the agent becomes a PipelineError with the agent's what, where and remedy;
   ParentMoved where somebody else committed first: compose again on the new head.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import PipelineError
from .records import Transaction
from .run import CommandFailed, run

PARENT_MOVED = 3  # the agent's exit status
SILENCE = 120  # seconds without a byte until an upload counts as cut off
COMMIT_TIME = 1800.0  # seconds; it may wait for another commit and reads each new package twice


class ParentMoved(PipelineError):
    """The channel's head is no longer the snapshot's parent."""


@dataclass(frozen=True)
class Publisher:
    """``rsh`` starts the remote shell (its options included), ``host`` is what it takes as the host."""

    rsh: Sequence[str]
    host: str

    def head(self, channel: str) -> str:
        """The id of the published snapshot, "" where the channel has none yet."""
        return self._ask(["head", channel], timeout=SILENCE)

    def upload(self, transaction: Transaction) -> None:
        """Bring the transaction's files to the repo host, where they wait for ``commit``."""
        try:
            run(
                [
                    *("rsync", "-rt", "--partial", f"--timeout={SILENCE}", "-e", shlex.join(self.rsh)),
                    f"{Path(transaction.folder)}/",
                    f"{self.host}:{transaction.snapshot.channel}/{transaction.id}/",
                ],
                # The agent takes all arguments as words of its one command, or refuses.
                env={"RSYNC_PROTECT_ARGS": "0", "RSYNC_OLD_ARGS": "0"},
            )
        except CommandFailed as error:
            raise self._translate(error) from error

    def commit(self, transaction: Transaction) -> str:
        """Publish what was uploaded, whole or not at all; the id of the new head."""
        snapshot = transaction.snapshot
        words = ["commit", snapshot.channel, transaction.id, "--parent", snapshot.parent or "-"]
        head = self._ask(words, timeout=COMMIT_TIME)
        if head != snapshot.id:  # the agent answers a repeated commit by the transaction's id
            raise ParentMoved(
                f"another snapshot, {head}, was published by a transaction of the same id",
                f"{snapshot.channel}/{transaction.id}",
                "Compose the snapshot again on the new head",
            )
        return head

    def _ask(self, words: list[str], timeout: float) -> str:
        command = [*self.rsh, self.host, *(shlex.quote(word) for word in words)]
        try:
            done = run(command, timeout=timeout)
        except CommandFailed as error:
            raise self._translate(error) from error
        return self._snapshot(done)

    def _snapshot(self, done: subprocess.CompletedProcess[str]) -> str:
        try:
            return str(json.loads(done.stdout)["snapshot"])
        except (ValueError, LookupError, TypeError) as error:
            raise PipelineError(
                f"the repo host gave no answer of the publisher agent: {done.stdout[:200]!r}",
                self.host,
                "See that the key's forced command is the agent: run the role publisher on the repo host",
            ) from error

    def _translate(self, error: CommandFailed) -> PipelineError:
        """The agent's own refusal, if it spoke; else what to do about the connection."""
        for line in error.stderr.splitlines():
            try:
                said = json.loads(line)
                refusal = (said["error"], said["where"] or self.host, said["remedy"])
            except (ValueError, LookupError, TypeError):
                continue
            return (ParentMoved if error.status == PARENT_MOVED else PipelineError)(*refusal)
        said = (error.stderr.strip() or "it said nothing").splitlines()
        return PipelineError(
            f"talking to the repo host failed with status {error.status}: {' | '.join(said[-3:])}",
            f"{shlex.join(self.rsh)} {self.host}",
            "Check that the host is up, that ssh knows its host key, and that the publishing key is the one "
            "that the role publisher put there; then repeat: what was sent is kept",
        )
