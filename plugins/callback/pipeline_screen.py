"""The screen of a run: steps, changes and failures instead of every task."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pipeline_screen
type: stdout
short_description: Steps, changes and failures instead of every task
description:
  - Without C(-v) it prints no headers and no unchanged, skipped or included task. It prints the tasks that changed
    something, with their diff under C(--diff), in playbooks that provision hosts, in check mode and under C(--diff).
    The callback P(pipeline_summary#callback) prints the steps and the failures.
  - With C(-v) the screen is that of P(ansible.builtin.default#callback).
  - The lines with the counts of each host are Ansible's own.
  - E(ANSIBLE_STDOUT_CALLBACK)=default gives Ansible's screen.
extends_documentation_fragment: [default_callback, result_format_callback]
author: mistralrs-rpm
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.plugins.callback.default import CallbackModule as Default
from ansible.utils.color import colorize, hostcolor

# Ansible puts module_utils on the path of modules only.
sys.path.append(str(Path(__file__).resolve().parents[2] / "module_utils"))

from pipeline.tell.rows import row_of
from pipeline.tell.screen import changed_items, shows_changes

COUNTS = (
    ("ok", "ok", constants.COLOR_OK),
    ("changed", "changed", constants.COLOR_CHANGED),
    ("unreachable", "unreachable", constants.COLOR_UNREACHABLE),
    ("failed", "failures", constants.COLOR_ERROR),
    ("skipped", "skipped", constants.COLOR_SKIP),
    ("rescued", "rescued", constants.COLOR_OK),
    ("ignored", "ignored", constants.COLOR_WARN),
)


def _verbose(name: str) -> Callable[..., None]:
    """A method of Ansible's callback that does nothing while the screen is quiet."""
    original = getattr(Default, name)

    def method(self: CallbackModule, *words: Any, **options: Any) -> None:
        if not self.quiet:
            original(self, *words, **options)

    return method


class CallbackModule(Default):
    """Ansible's own callback, silent about what is no change unless the operator asks for more."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "pipeline_screen"

    def __init__(self) -> None:
        super().__init__()
        self._shows_changes = True
        self._printed: tuple[str, str] = ("", "")

    v2_playbook_on_task_start = _verbose("v2_playbook_on_task_start")
    v2_playbook_on_handler_task_start = _verbose("v2_playbook_on_handler_task_start")
    v2_playbook_on_include = _verbose("v2_playbook_on_include")
    v2_playbook_on_no_hosts_matched = _verbose("v2_playbook_on_no_hosts_matched")
    v2_playbook_on_no_hosts_remaining = _verbose("v2_playbook_on_no_hosts_remaining")
    v2_runner_item_on_failed = _verbose("v2_runner_item_on_failed")
    v2_runner_item_on_ok = _verbose("v2_runner_item_on_ok")
    v2_runner_item_on_skipped = _verbose("v2_runner_item_on_skipped")
    v2_runner_on_skipped = _verbose("v2_runner_on_skipped")
    v2_runner_on_unreachable = _verbose("v2_runner_on_unreachable")
    v2_runner_retry = _verbose("v2_runner_retry")

    @property
    def quiet(self) -> bool:
        return bool(self._display.verbosity == 0)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._play = play
        asked = bool(context.CLIARGS.get("check") or context.CLIARGS.get("diff"))
        self._shows_changes = asked or shows_changes(play.get_path())
        if not self.quiet:
            super().v2_playbook_on_play_start(play)

    def v2_runner_on_ok(self, result: Any) -> None:
        if not self.quiet:
            super().v2_runner_on_ok(result)
            return
        self._handle_warnings(result.result)
        if result.result.get("_ansible_verbose_always") and isinstance(result.result.get("msg"), str):
            self._display.display(result.result["msg"])
        if result.result.get("changed"):
            self._change(result)

    def v2_on_file_diff(self, result: Any) -> None:
        if not self.quiet:
            super().v2_on_file_diff(result)
            return
        parts = result.result["results"] if result.task.loop and "results" in result.result else [result.result]
        diffs = [self._get_diff(part["diff"]) for part in parts if part.get("changed") and part.get("diff")]
        for diff in filter(None, diffs):
            self._change(result)
            self._display.display(diff.rstrip("\n"))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not self.quiet:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        self._handle_warnings(result.result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The counts of each host, in Ansible's form."""
        if not self.quiet:
            super().v2_playbook_on_stats(stats)
            return
        for host in sorted(stats.processed):
            counts = stats.summarize(host)
            cells = [colorize(name, counts[key], color) for name, key, color in COUNTS]
            self._display.display(f"{hostcolor(host, counts)} : {' '.join(cells)}")

    def _change(self, result: Any) -> None:
        """A line for a task that changed something, once; steps have rows instead."""
        key = (result.host.get_name(), result.task._uuid)  # noqa: SLF001  there is no public name
        if not self._shows_changes or key == self._printed or row_of(result.result, 0):
            return
        self._printed = key
        line = f"changed: [{self.host_label(result)}] {result.task.get_name()}{changed_items(result.result)}"
        self._display.display(line, color=constants.COLOR_CHANGED)
