"""The commands: the only words that the agent accepts.

A command is a line of text from the network. It is split as a shell would split it, and every word must match
a pattern as a whole. No word becomes a path or an option before that.
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from .refusal import UsageError

CHANNEL = r"[a-z][a-z0-9-]{0,31}"
TRANSACTION = r"[0-9a-z][0-9a-z-]{7,63}"
LONG_ID = r"\b([0-9a-z][0-9a-z-]{10})[0-9a-z-]+"  # the part of a transaction's id that may be shown, and the rest
SNAPSHOT = r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}"
# The options that `rsync -rt[v]` sends to the receiver. No -l, -D or -s: no links, no devices, no arguments
# that follow later through the pipe. The letters after e are the client's capabilities, not a remote shell.
RSYNC_FLAG = r"-[rtv]{1,8}e[0-9.]{0,8}[A-Za-z]{0,32}|--partial|--timeout=[1-9][0-9]{0,3}"


class Command(NamedTuple):
    """A verb and its channel. ``flags`` are rsync's; ``parent`` is "" for the first snapshot of a channel."""

    verb: str
    channel: str
    transaction: str = ""
    parent: str = ""
    dry_run: bool = False
    flags: tuple[str, ...] = ()


def parse(text: str) -> Command:
    """Return the command in a line; raise UsageError for anything else."""
    try:
        command = match_words(shlex.split(text))
    except ValueError:
        command = None
    if (
        command
        and re.fullmatch(CHANNEL, command.channel)
        and re.fullmatch(f"({TRANSACTION})?", command.transaction)
        and re.fullmatch(f"({SNAPSHOT})?", command.parent)
        and all(re.fullmatch(RSYNC_FLAG, flag) for flag in command.flags)
    ):
        return command
    raise UsageError(
        "this command is not allowed here",
        text[:200],
        "Use head, stage, publish, drop, prune, verify, status, or rsync -rt --partial to CHANNEL/TRANSACTION/; "
        "there is no shell and no reading",
    )


def match_words(words: list[str]) -> Command | None:
    match words:
        case ["head" | "prune" | "verify" | "status" as verb, channel]:
            return Command(verb, channel)
        case ["prune", channel, "--dry-run"]:
            return Command("prune", channel, dry_run=True)
        case ["stage" | "publish" as verb, channel, transaction, "--parent", parent] if transaction and parent:
            return Command(verb, channel, transaction, "" if parent == "-" else parent)
        case ["drop", channel, transaction] if transaction:
            return Command("drop", channel, transaction)
        case ["rsync", "--server", *flags, ".", target] if place := re.fullmatch("([^/]+)/([^/]+)/", target):
            return Command("rsync", place[1], place[2], flags=tuple(flags))
    return None
