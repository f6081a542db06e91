"""The client of the agent: how a signer talks to the repo host.

The agent (roles/publisher/files/mistralrs-publisher) is reached by a remote shell: ssh, where the key's forced command
is the agent, or the agent itself with ``--rsh`` on the same machine. Both take the same words.

Rules:

1. Every command is idempotent. ``upload`` sends what is missing and resumes a partial file; ``stage`` and ``publish``
   answer the same when repeated; ``drop`` of a missing transaction succeeds.
2. A refusal of the agent becomes a PipelineError with the agent's what, where and remedy. ParentMoved: another
   publisher was faster, compose again on the new head. Busy: retry a little later.
3. Nothing is retried here; the caller knows whether the work is still wanted.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

from ..base.environment import SSH_AGENT
from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Transaction
from ..base.run import CommandFailed, run
from ..base.text import SNAPSHOT_ID, last_words
from ..plan import room
from ..sign import clocks

SILENCE = 120  # seconds without a byte until an upload counts as cut off
QUICK = 120.0  # seconds for a read-only command
PATIENT = 1800.0  # seconds; such a command may wait for another one, and reads each new package twice
WHOLE = 86400.0  # seconds to read a pool of terabytes
SSH_FAILED = 255  # ssh's own exit status, which rsync passes on
LOCAL = {11, 23, 24}  # rsync's exit statuses for files that cannot be read or written, on either host
# ssh's messages when sshd refuses a connection before authentication (MaxStartups).
FULL = re.compile(r"^(kex_exchange_identification: |Not allowed at this time)", re.MULTILINE)

# Why ssh had no session, by its messages: what is wrong, and the remedy.
NO_SESSION = {
    r"Permission denied \(|Too many authentication failures": (
        "the repo host's sshd refuses the publishing account",
        "Run playbooks/repo_host.yml: it installs the key, and names what else sshd asks for, such as AllowGroups",
    ),
    r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED": (
        "the repo host has another ssh key than the known one",
        "Find out why; if the host was installed again, run playbooks/repo_host.yml, which pins its key",
    ),
    r"Could not resolve|Connection (refused|timed out)|No route to host|Network is unreachable": (
        "the repo host is not reached",
        "Check that it is up, that its sshd runs, and its name and port",
    ),
}


class ParentMoved(PipelineError):
    """The head is no longer the snapshot's parent."""


class Busy(PipelineError):
    """Another process uses this transaction or this channel, or the repo host accepts no more connections."""


KINDS: dict[int, type[PipelineError]] = {3: ParentMoved, 4: Busy}  # by the agent's exit status


def _plain(data: Any) -> Any:
    """Data of JSON, without control characters in its texts: a terminal shows them."""
    if isinstance(data, str):
        return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", data)
    if isinstance(data, list):
        return [_plain(item) for item in data]
    return {key: _plain(value) for key, value in data.items()} if isinstance(data, dict) else data


def _require_ids(answer: Mapping[str, Any]) -> None:
    """ValueError or TypeError unless each snapshot of an answer has an id: ids become parts of paths and addresses."""
    rows = answer.get("snapshots", [])
    if not isinstance(rows, list | int):
        raise TypeError("the snapshots are no list")
    ids = [row["id"] if isinstance(row, dict) else row for row in rows] if isinstance(rows, list) else []
    if not all(isinstance(one, str) and re.fullmatch(rf"|{SNAPSHOT_ID}", one) for one in [*ids, answer["snapshot"]]):
        raise ValueError("a snapshot's id is none")


@dataclass(frozen=True)
class Look:
    """The id of the published snapshot ("" for none), and the number of bytes that an upload may have.

    ``ahead`` is by how many seconds this host's clock is ahead of the repo host's, see ``clocks``. ``files`` is the
    number of free inodes. Both are None where they are not known: an agent of an earlier version sends neither.
    """

    snapshot: str
    room: int
    ahead: float | None = 0.0
    files: int | None = None


@dataclass(frozen=True)
class AgentClient:
    """The agent behind the remote shell ``rsh`` (with its options) on ``host``."""

    rsh: Sequence[str]
    host: str

    @classmethod
    def of(cls, repository: Mapping[str, Any]) -> Self:
        """The agent of a module's option ``repository``; PipelineError without one."""
        agent = repository.get("agent")
        if not agent:
            raise PipelineError(
                "the repository has no agent", str(repository.get("channel", "")), "Set repository.agent: rsh and host"
            )
        return cls([str(word) for word in agent["rsh"]], str(agent["host"]))

    def look(self, channel: str) -> Look:
        """The published snapshot, the room for an upload, and the difference of the clocks."""
        answer = self._timed("head", channel, wanted="room")
        files = answer.get("files")
        files = files if isinstance(files, int) else None
        return Look(str(answer["snapshot"]), int(answer["room"]), answer["ahead"], files)

    def head(self, channel: str) -> str:
        """The id of the published snapshot, "" for none."""
        return self.look(channel).snapshot

    @property
    def local(self) -> bool:
        """Whether the agent is on this machine: it is called in place of ssh."""
        return Path(self.rsh[0]).is_absolute()

    @property
    def installed(self) -> bool:
        """False before the agent of this machine is set up, which ``make release`` does later in its first run."""
        return not self.local or Path(self.rsh[0]).exists()

    def offer(self, channel: str, needed: int) -> Look:
        """The look at the channel before a release, with the room that its upload may have.

        One request. Only where ``needed`` bytes are not free, a second one counts the uploads that wait: this run
        continues one of them, or the agent removes it.
        """
        seen = self.look(channel)
        if seen.room >= needed:
            return seen
        return replace(seen, room=seen.room + sum(int(row["bytes"]) for row in self.status(channel)["incoming"]))

    def upload(self, transaction: Transaction) -> None:
        """Upload the transaction's files, for ``stage`` or ``publish``."""
        try:
            run(
                [
                    *("rsync", "-rt", "--partial", f"--timeout={SILENCE}", "-e", shlex.join(self.rsh)),
                    f"{Path(transaction.folder)}/",
                    f"{self.host}:{transaction.snapshot.channel}/{transaction.id}/",
                ],
                # The agent accepts only arguments that are words of its command.
                env={"RSYNC_PROTECT_ARGS": "0", "RSYNC_OLD_ARGS": "0"},
                keep=SSH_AGENT,
            )
        except CommandFailed as error:
            raise self._translate(error) from error

    def stage(self, transaction: Transaction) -> str:
        """Verify the upload and lay it under its final URL, which no client uses yet; the snapshot's id."""
        return self._publish("stage", transaction)

    def publish(self, transaction: Transaction) -> str:
        """Publish the uploaded or staged snapshot, whole or not at all; the id of the new head."""
        return self._publish("publish", transaction)

    def drop(self, channel: str, transaction: str) -> str:
        """Delete an upload and its staged snapshot, by the transaction's id; the id of the head."""
        return str(self._ask("drop", channel, transaction, timeout=PATIENT)["snapshot"])

    def prune(self, channel: str, dry_run: bool = False) -> dict[str, Any]:
        """Delete what the host's retention does not keep: ``snapshots``, ``packages``, and those still ``waiting``."""
        words = ("prune", channel, "--dry-run") if dry_run else ("prune", channel)
        return self._ask(*words, timeout=PATIENT, wanted="packages")

    def verify(self, channel: str) -> dict[str, Any]:
        """Read every byte of the repository on its host; ``findings`` lists the faults."""
        return self._ask("verify", channel, timeout=WHOLE, wanted="findings")

    def status(self, channel: str) -> dict[str, Any]:
        """The contents of the repository on its host, without reading packages; ``ahead`` as in ``Look``."""
        return self._timed("status", channel, wanted="snapshots")

    def _publish(self, verb: str, transaction: Transaction) -> str:
        snapshot = transaction.snapshot
        words = (verb, snapshot.channel, transaction.id, "--parent", snapshot.parent or "-")
        done = str(self._ask(*words, timeout=PATIENT)["snapshot"])
        if done != snapshot.id:  # the agent recognises a repeated command by the transaction's id
            raise ParentMoved(
                f"another snapshot, {done}, was published by a transaction of the same id",
                f"{snapshot.channel}/{transaction.id}",
                "Compose the snapshot again on the new head",
            )
        return done

    def _timed(self, *words: str, wanted: str) -> dict[str, Any]:
        """An answer with ``ahead``, the difference of the clocks."""
        asked = time.time()
        answer = self._ask(*words, wanted=wanted)
        there = answer.get("time")
        if not isinstance(there, int | float):
            return answer | {"ahead": None}
        return answer | {"ahead": clocks.ahead(asked, float(there), time.time())}

    def _ask(self, *words: str, timeout: float = QUICK, wanted: str = "snapshot") -> dict[str, Any]:
        if not self.installed:
            raise PipelineError(
                "there is no publisher agent yet",
                self.rsh[0],
                "Run `make release`, which sets this machine up; on a real repo host, run the role publisher",
            )
        command = [*self.rsh, self.host, *(shlex.quote(word) for word in words)]
        try:
            stdout = run(command, keep=SSH_AGENT, timeout=timeout).stdout
        except CommandFailed as error:
            raise self._translate(error) from error
        try:
            answer = _plain({**json.loads(stdout)})
            answer[wanted]
            _require_ids(answer)
        except (ValueError, TypeError, LookupError) as error:
            raise PipelineError(
                f"the repo host gave no answer of the publisher agent: {stdout[:200]!r}",
                self.host,
                "Run the role publisher on the repo host: the key's forced command must be the agent",
            ) from error
        return cast("dict[str, Any]", answer)

    def _translate(self, error: CommandFailed) -> PipelineError:
        """The agent's refusal, or an error of the connection with its remedy."""
        for line in error.stderr.splitlines():
            try:
                answer = json.loads(line)
                refusal = (answer["error"], answer["where"] or self.host, answer["remedy"])
            except (ValueError, LookupError, TypeError):
                continue
            # An upload ends with rsync's status; the line has the agent's.
            return KINDS.get(answer.get("status", error.status), PipelineError)(*refusal)
        output, where = last_words(error.stderr), f"{shlex.join(self.rsh)} {self.host}"
        if error.status == SSH_FAILED and FULL.search(error.stderr):
            return Busy(
                "the repo host's sshd accepts no more connections now",
                where,
                "Run again; if it happens often, raise MaxStartups of the repo host's sshd",
            )
        if error.status in LOCAL:
            return PipelineError(
                f"the upload failed with status {error.status}: {output}",
                where,
                "Fix the cause (receiver: the repo host; sender: this host), then run again: uploaded files are kept",
            )
        if error.status == SSH_FAILED:
            for pattern, (what, remedy) in NO_SESSION.items():
                if re.search(pattern, error.stderr, re.MULTILINE):
                    return PipelineError(f"{what}: {output}", where, f"{remedy}. Uploaded files are kept")
        return PipelineError(
            f"talking to the repo host failed with status {error.status}: {output}",
            where,
            "Check that the host is up, that ssh knows its host key, and that the role publisher installed the "
            "publishing key; then run again: uploaded files are kept",
        )


def check_repo_host(repository: Mapping[str, Any], sizes: Mapping[str, int]) -> list[Finding]:
    """Whether the agent answers, has room for packages of these sizes, and a clock that the signer's is not ahead of.

    Nothing is found where there is no agent to ask: a site of this machine that does not exist yet is made later in the
    run, and its agent with it.
    """
    location = str(repository["location"])
    agent = AgentClient.of(repository) if repository.get("agent") else None
    if agent is None or not agent.installed or not ("://" in location or Path(location).is_dir()):
        return []
    try:
        seen = agent.offer(str(repository["channel"]), max(sum(sizes.values()), room.FLOOR))
    except PipelineError as error:
        return [Finding.bad("publisher agent", error.what, "an answer", error.remedy)]
    found = [room.on_repo_host(room.Room(seen.room, seen.files), sizes, agent.host)]
    # The run renews an agent of this machine. A signer that is behind does no harm.
    if (seen.ahead is None and not agent.local) or (seen.ahead or 0) > 0:
        found.append(clocks.check(seen.ahead))
    return found
