"""Ends a run with a short table: stage, time, result, and where things are."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pipeline_summary
type: aggregate
short_description: A table of the pipeline's stages
description:
  - Collects what each pipeline module returns as C(stage) and prints it, with the time it took, when the run ends.
  - A module's C(table), lines for a person such as the doctor's findings, is printed above it.
  - Prints nothing for a run without such modules.
author: mistralrs-rpm
"""

import time

from ansible.plugins.callback import CallbackBase

FIRST_COLUMNS = ("stage", "flavour", "time")


class CallbackModule(CallbackBase):
    """Collects the stages as they end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "pipeline_summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.began = self.mark = time.monotonic()
        self.rows = []
        self.tables = []
        self.places = {}

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.mark = time.monotonic()

    def v2_runner_on_ok(self, result):
        self._collect(result.result)

    def v2_runner_item_on_ok(self, result):
        self._collect(result.result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        if not ignore_errors:
            self._fail(result)

    def v2_runner_on_unreachable(self, result):
        self._fail(result)

    def v2_playbook_on_stats(self, stats):
        if not self.rows:
            return
        for line in self.tables:
            self._display.display(line)
        widths = [max(len(row[i]) for row in [FIRST_COLUMNS, *self.rows]) for i in range(3)]
        for row in [(*FIRST_COLUMNS, "result"), *self.rows]:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            self._display.display("  ".join([*cells, row[3]]).rstrip())
        for place, stage in self.places.items():
            self._display.display(f"  {stage}: {place}")
        self._display.display(f"In all {time.monotonic() - self.began:.1f} s")

    def _collect(self, result):
        stage = result.get("stage")
        if isinstance(stage, dict):
            self._row(stage["name"], stage.get("flavour", ""), stage["result"])
            self.tables += [*result.get("table", []), ""] if result.get("table") else []
            if stage.get("where"):
                self.places[stage["where"]] = " ".join(filter(None, (stage["name"], stage.get("flavour"))))

    def _fail(self, result):
        what = str(result.result.get("msg") or "failed").strip().splitlines()
        self._row("FAILED", "", f"{result.task.get_name()}: {what[0].rstrip(':')}")

    def _row(self, name, flavour, text):
        now = time.monotonic()
        self.rows.append((name, flavour, f"{now - self.mark:.1f} s", text))
        self.mark = now
