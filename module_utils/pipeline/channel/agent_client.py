"""The client of the publisher agent: how a signer talks to the repo host.

The agent (roles/publisher/files/mistralrs-publisher) is reached by a remote shell: ssh, where the
key's forced command is the agent, or the agent itself with ``--rsh`` on the same machine. Both take
the same words, so nothing here knows which it is.

Rules:

1. Every command may be repeated. ``upload`` sends what is missing and goes on with a file that was cut off;
   ``stage`` and ``publish`` answer the same for what is done already; ``drop`` of what is gone is done.
2. A refusal of the agent becomes a PipelineError with the agent's what, where and remedy. ParentMoved:
   somebody else committed first, compose again on the new head. Busy: try the same again a little later.
3. Nothing is tried again here: whoever holds the work knows whether it is still wanted.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.records import Transaction
from ..base.run import CommandFailed, run

SILENCE = 120  # seconds without a byte until an upload counts as cut off
QUICK = 120.0  # seconds for what only looks
PATIENT = 1800.0  # seconds; it may wait for another command and reads each new package twice
WHOLE = 86400.0  # seconds to read a pool of terabytes
SSH_FAILED = 255  # ssh's own exit status, which rsync passes on
LOCAL = {11, 23, 24}  # rsync's exit statuses for files that cannot be read or written, here or there
# What ssh says when sshd closes the door before it has asked who is there (MaxStartups).
FULL = re.compile(r"^(kex_exchange_identification: |Not allowed at this time)", re.MULTILINE)


class ParentMoved(PipelineError):
    """The channel's head is no longer the snapshot's parent."""


class Busy(PipelineError):
    """Others are at it: at this transaction, this channel, or at the repo host's door."""


KINDS: dict[int, type[PipelineError]] = {3: ParentMoved, 4: Busy}  # by the agent's exit status


@dataclass(frozen=True)
class Publisher:
    """``rsh`` starts the remote shell (its options included), ``host`` is what it takes as the host."""

    rsh: Sequence[str]
    host: str

    def look(self, channel: str) -> tuple[str, int]:
        """The id of the published snapshot ("" where there is none yet), and how many bytes an upload may bring now."""
        answer = self._ask("head", channel, wanted="room")
        return str(answer["snapshot"]), int(answer["room"])

    def head(self, channel: str) -> str:
        """The id of the published snapshot, "" where the channel has none yet."""
        return self.look(channel)[0]

    def room(self, channel: str) -> int:
        """How many bytes an upload to the channel may bring now."""
        return self.look(channel)[1]

    def upload(self, transaction: Transaction) -> None:
        """Bring the transaction's files to the repo host, where they wait for ``stage`` or ``publish``."""
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

    def stage(self, transaction: Transaction) -> str:
        """Verify what was uploaded and lay it under its final URL, which no client is told yet; its id."""
        return self._publish("stage", transaction)

    def commit(self, transaction: Transaction) -> str:
        """Publish what was uploaded or staged, whole or not at all; the id of the new head."""
        return self._publish("publish", transaction)

    def drop(self, channel: str, transaction: str) -> str:
        """Take back an upload and what was staged of it, by the transaction's id; the id of the head."""
        return str(self._ask("drop", channel, transaction, timeout=PATIENT)["snapshot"])

    def prune(self, channel: str, dry_run: bool = False) -> dict[str, Any]:
        """Remove what the host's retention does not keep: ``snapshots``, ``packages``, and who is ``waiting``."""
        words = ("prune", channel, "--dry-run") if dry_run else ("prune", channel)
        return self._ask(*words, timeout=PATIENT, wanted="packages")

    def verify(self, channel: str) -> dict[str, Any]:
        """Read every byte of the channel on the repo host; what is wrong is in ``findings``."""
        return self._ask("verify", channel, timeout=WHOLE, wanted="findings")

    def status(self, channel: str) -> dict[str, Any]:
        """What the channel holds on the repo host, without reading packages."""
        return self._ask("status", channel, wanted="snapshots")

    def _publish(self, verb: str, transaction: Transaction) -> str:
        snapshot = transaction.snapshot
        words = (verb, snapshot.channel, transaction.id, "--parent", snapshot.parent or "-")
        done = str(self._ask(*words, timeout=PATIENT)["snapshot"])
        if done != snapshot.id:  # the agent answers a repeated publish by the transaction's id
            raise ParentMoved(
                f"another snapshot, {done}, was published by a transaction of the same id",
                f"{snapshot.channel}/{transaction.id}",
                "Compose the snapshot again on the new head",
            )
        return done

    def _ask(self, *words: str, timeout: float = QUICK, wanted: str = "snapshot") -> dict[str, Any]:
        program = Path(self.rsh[0])
        if program.is_absolute() and not program.exists():
            raise PipelineError(
                "there is no publisher agent yet",
                str(program),
                "Release something first (make release): that sets this machine up. A real repo host gets it by the"
                " role publisher",
            )
        command = [*self.rsh, self.host, *(shlex.quote(word) for word in words)]
        try:
            stdout = run(command, timeout=timeout).stdout
        except CommandFailed as error:
            raise self._translate(error) from error
        try:
            answer: dict[str, Any] = {**json.loads(stdout)}
            answer[wanted]
        except (ValueError, TypeError, LookupError) as error:
            raise PipelineError(
                f"the repo host gave no answer of the publisher agent: {stdout[:200]!r}",
                self.host,
                "See that the key's forced command is the agent: run the role publisher on the repo host",
            ) from error
        return answer

    def _translate(self, error: CommandFailed) -> PipelineError:
        """The agent's own refusal, if it spoke; else what to do about the connection."""
        for line in error.stderr.splitlines():
            try:
                said = json.loads(line)
                refusal = (said["error"], said["where"] or self.host, said["remedy"])
            except (ValueError, LookupError, TypeError):
                continue
            # The status of an upload is rsync's own: the line carries the agent's.
            return KINDS.get(said.get("status", error.status), PipelineError)(*refusal)
        said = (error.stderr.strip() or "it said nothing").splitlines()
        if error.status == SSH_FAILED and FULL.search(error.stderr):
            return Busy(
                "the repo host's ssh takes no more connections just now",
                f"{shlex.join(self.rsh)} {self.host}",
                "Try again; if it happens often, raise MaxStartups of the repo host's sshd",
            )
        if error.status in LOCAL:
            return PipelineError(
                f"the upload failed with status {error.status}: {' | '.join(said[-3:])}",
                f"{shlex.join(self.rsh)} {self.host}",
                "Set right what it names (receiver: the repo host; sender: here), then repeat: what was sent is kept",
            )
        return PipelineError(
            f"talking to the repo host failed with status {error.status}: {' | '.join(said[-3:])}",
            f"{shlex.join(self.rsh)} {self.host}",
            "Check that the host is up, that ssh knows its host key, and that the publishing key is the one "
            "that the role publisher put there; then repeat: what was sent is kept",
        )
