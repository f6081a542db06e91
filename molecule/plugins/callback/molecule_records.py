"""Records the tasks that changed something, by host, for each action of a molecule scenario."""

from __future__ import annotations

DOCUMENTATION = r"""
name: molecule_records
type: aggregate
short_description: Records which tasks changed something
description:
  - Writes FOLDER/ACTION.json, where FOLDER is the environment variable E(MOLECULE_RECORDS) and ACTION one of check,
    converge, idempotence, or the name of another playbook.
  - The file has for each host the names of the tasks and handlers that reported a change, in order.
  - A failed run is recorded too, with the tasks that failed.
"""

import json
import os
from pathlib import Path

from ansible import context
from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "molecule_records"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.action = ""
        self.changed: dict[str, list[str]] = {}
        self.failed: dict[str, list[str]] = {}

    def v2_playbook_on_start(self, playbook):
        self.action = action_of(Path(playbook._file_name).stem, context.CLIARGS)  # noqa: SLF001  there is no public name

    def v2_runner_on_ok(self, result):
        host = result.host.get_name()
        self.changed.setdefault(host, [])
        if result.result.get("changed"):
            self.changed[host].append(result.task.get_name())

    def v2_runner_on_failed(self, result, ignore_errors=False):
        # An ignored or rescued failure may be a change, too.
        self.v2_runner_on_ok(result)
        if not ignore_errors:
            self.failed.setdefault(result.host.get_name(), []).append(result.task.get_name())

    def v2_playbook_on_stats(self, stats):
        folder = os.environ.get("MOLECULE_RECORDS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            record = {"changed": self.changed, "failed": self.failed}
            Path(folder, f"{self.action}.json").write_text(json.dumps(record, indent=1) + "\n")


def action_of(playbook, arguments):
    """The action of molecule that runs a playbook: three of them run converge.yml, and differ in their arguments."""
    if playbook != "converge":
        return playbook
    if arguments.get("check"):
        return "check"
    if "molecule-idempotence-notest" in ",".join(arguments.get("skip_tags") or []):
        return "idempotence"
    return "converge"
