"""Ends a run that is held with an exit status of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
name: run_status
type: aggregate
short_description: The exit status 75 of a run that is held
description:
  - A module that fails with C(held) did not publish because the operator holds releases. That is no fault, and no
    release either. The run ends with status 75, EX_TEMPFAIL of sysexits.h (try again later).
  - The name comes after P(pipeline_summary#callback), so that the summary is complete.
author: mistralrs-rpm
"""

from typing import Any

from ansible.plugins.callback import CallbackBase

HELD = 75


class CallbackModule(CallbackBase):
    """Watches for one kind of failure."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "run_status"

    def __init__(self) -> None:
        super().__init__()
        self.held = False

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self.held |= bool(result.result.get("held")) and not ignore_errors

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self.held:
            raise SystemExit(HELD)
