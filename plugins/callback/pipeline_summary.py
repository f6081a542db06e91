"""Ends a run with a short table: step, time, result and places."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pipeline_summary
type: aggregate
short_description: A table of the pipeline's steps
description:
  - Collects what each pipeline module returns as C(step) and prints it, with the time it took, when the run ends.
  - Prints a module's C(table), such as the doctor's findings, above it.
  - Prints below it the paths and URLs of the results, a build's C(report) and a failure's C(log) among them, and again
    the warnings of the steps.
  - Prints nothing for a run without such modules.
author: mistralrs-rpm
"""

import time
from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase

FIRST_COLUMNS = ("step", "flavour", "time")


class CallbackModule(CallbackBase):
    """Collects the steps as they end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "pipeline_summary"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()
        # The start of a host's task, or the end of its latest item: hosts may be at different tasks.
        self.marks: dict[str, float] = {}
        self.rows: list[tuple[str, str, str, str]] = []
        self.tables: list[str] = []
        self.places: dict[str, str] = {}
        self.warnings: dict[str, None] = {}

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self.marks[host.get_name()] = time.monotonic()

    def v2_runner_on_ok(self, result: Any) -> None:
        self._collect(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._collect(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self._fail(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._fail(result, "LOST")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if not self.rows:
            return
        for line in self.tables:
            self._display.display(line)
        widths = [max(len(row[i]) for row in [FIRST_COLUMNS, *self.rows]) for i in range(3)]
        for row in [(*FIRST_COLUMNS, "result"), *self.rows]:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            self._display.display("  ".join([*cells, row[3]]).rstrip())
        for place, step in self.places.items():
            self._display.display(f"  {step}: {place}")
        for warning in self.warnings:
            self._display.display(f"  warning: {warning}", color=constants.COLOR_WARN)
        self._display.display(f"In all {time.monotonic() - self.began:.1f} s")
        if stats.dark:
            self._display.display(f"Lost on the way: {', '.join(sorted(stats.dark))}")

    def _collect(self, result: Any) -> None:
        returned = result.result
        step = returned.get("step")
        if isinstance(step, dict):
            self._row(result.host.get_name(), step["name"], step.get("flavour", ""), step["result"])
            self.tables += [*returned.get("table", []), ""] if returned.get("table") else []
            name = " ".join(filter(None, (step["name"], step.get("flavour"))))
            if step.get("where"):
                self.places[step["where"]] = name
            if returned.get("report"):
                self.places[returned["report"]] = f"{name} report"
            self.warnings |= dict.fromkeys(returned.get("warnings", []))

    def _fail(self, result: Any, name: str = "FAILED") -> None:
        host = result.host.get_name()
        what = str(result.result.get("msg") or "failed").strip().splitlines()
        where = f"{host}: " if name == "LOST" else ""
        self._row(host, name, "", f"{where}{result.task.get_name()}: {what[0].rstrip(':')}")
        if result.result.get("log"):
            self.places[result.result["log"]] = "log"

    def _row(self, host: str, name: str, flavour: str, text: str) -> None:
        now = time.monotonic()
        self.rows.append((name, flavour, f"{now - self.marks.get(host, now):.1f} s", text))
        self.marks[host] = now
