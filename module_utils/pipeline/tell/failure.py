"""A failed task, for a person: its cause once, where it is, and what to do.

Rules:

1. The errors of this project contain their remedy (base/errors.py); their text stays as it is. Errors of Ansible,
   templates and programs get the remedy that their kind has.
2. Ansible wraps a cause in messages such as "Task failed."; they are dropped. Its innermost message with a place
   names the file and line.
3. The row of the table has the cause: the first sentence. The message at the end of the run has all of it, once for all
   hosts that failed in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.text import last_words
from .rows import text, texts

WRAPPERS = re.compile(r"(Task|Module|Action) failed|Finalization of task args for .* failed|A '\w+' expression failed")
# Task failed: Module failed: <an exception>. A module that refuses has its own words alone.
CRASHED = "Task failed: Module failed: "
# The task names of these modules do not name a cause: "Fail if a flavour is missing".
SPEAKING = ("fail", "assert", "validate_argument_spec")
LONGEST = 120
"""The most characters of a cause in the table."""

VARIABLE = "Correct the variable; docs/variables.md lists all of them"
HIDDEN = "its output is hidden, since it may contain a secret. Run it on the host by hand to read the error"


@dataclass(frozen=True)
class Cause:
    """One event of Ansible's chain of causes, outermost first: its message and "FILE:LINE:COLUMN"."""

    message: str
    place: str = ""


@dataclass(frozen=True)
class Failure:
    """A failed task of a host.

    ``place`` is FILE:LINE, ``item`` the failed item of a loop; ``speaking``: the message needs no task name beside it;
    ``lost``: the host is unreachable.
    """

    host: str
    task: str
    place: str
    message: str
    item: str = ""
    speaking: bool = False
    lost: bool = False
    log: str = ""

    @property
    def row(self) -> str:
        """The result in the table: one line with the cause."""
        first, *rest = self.message.strip().splitlines() or ["failed"]
        if first.endswith(":") and rest:
            first = f"{first} {rest[0].strip()}"
        first = first.rstrip(":").partition(". ")[0]
        first = first if len(first) <= LONGEST else f"{first[:LONGEST]}..."
        item = f" ({self.item})" if self.item else ""
        task = "" if self.speaking and not self.lost else f"{self.task}{item}: "
        return f"{f'{self.host}: ' if self.lost else ''}{task}{first}"


def failure_of(
    returned: Mapping[str, Any], causes: Sequence[Cause], *, host: str, task: str, action: str, path: str, lost: bool
) -> Failure:
    """The failure in the result of a task or of one item of its loop. ``path`` is the task's own FILE:LINE."""
    message = "connection lost: " + _connection(text(returned, "msg")) if lost else explain(returned, causes)
    place = next((cause.place for cause in reversed(causes) if cause.place), path)
    item = returned.get("_ansible_item_label", returned.get("item"))
    return Failure(
        host=host,
        task=task,
        place=shortened(place),
        message=message,
        item=str(item) if isinstance(item, str | int) else "",
        speaking=action.rpartition(".")[2] in SPEAKING,
        lost=lost,
        log=text(returned, "log"),
    )


def explain(returned: Mapping[str, Any], causes: Sequence[Cause]) -> str:
    """The cause in words, and the remedy of its kind if it does not contain one."""
    if "censored" in returned:
        return HIDDEN
    msg = text(returned, "msg").strip()
    output = text(returned, "stderr").strip() or text(returned, "stdout").strip()
    if isinstance(returned.get("rc"), int) and returned.get("cmd") and output:
        command = returned["cmd"]
        words = command if isinstance(command, str) else " ".join(map(str, command))
        return f"{words} ended with status {returned['rc']}: {last_words(output, lines=5)}"
    if errors := texts(returned, "argument_errors"):
        context = returned.get("validate_args_context")
        role = text(context, "name") if isinstance(context, Mapping) else ""
        return f"wrong inputs{role and f' of the role {role}'}: {'; '.join(errors)}. {VARIABLE}"
    if msg == "Assertion failed":
        return f"this is not true: {returned.get('assertion')}"
    chain = [cause.message.strip() for cause in causes if not WRAPPERS.fullmatch(cause.message.strip().rstrip("."))]
    inner = ": ".join([*(part.rstrip(".:") for part in chain[:-1]), chain[-1]]) if chain else msg
    if msg.startswith(CRASHED):
        return f"the module ended with an error of its own: {inner}. -vvv shows its traceback"
    if msg.startswith("Task failed: "):
        return f"{inner}. {VARIABLE}" if "undefined" in inner else inner
    if returned.get("cmd"):
        return inner
    return msg or inner or "it failed without a message; -vvv shows more"


def _connection(msg: str) -> str:
    plain = re.sub(r"^(Task failed: |Failed to connect to the host via ssh: )+", "", msg.strip()) or "no answer"
    return f"{plain}. Try ssh by hand, then run the same command again"


def shortened(place: str) -> str:
    """FILE:LINE, relative to the current folder if it is below that."""
    if place.startswith("<"):  # Ansible's own tasks, such as the check of a role's inputs, stand in no file
        return ""
    file, _, position = place.partition(":")
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        file = str(path.relative_to(Path.cwd()))
    number = position.partition(":")[0]
    return f"{file}:{number}" if number else file


def messages(failures: Iterable[Failure]) -> list[str]:
    """The messages at the end of a run: one for each cause, with all hosts that it hit."""
    hosts: dict[tuple[str, str, str], dict[str, None]] = {}
    logs: dict[tuple[str, str, str], dict[str, None]] = {}
    for failure in failures:
        key = (failure.task, failure.place, failure.message)
        hosts.setdefault(key, {})[failure.host] = None
        logs.setdefault(key, {}).update({failure.log: None} if failure.log else {})
    lines = []
    for key, names in hosts.items():
        task, place, message = key
        lines.append(f"Failed on {', '.join(names)}: {task}{f' ({place})' if place else ''}")
        lines += [f"  {line}".rstrip() for line in message.splitlines()]
        lines += [f"  log: {log}" for log in logs[key]]
    return lines
