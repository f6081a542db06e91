"""The one error an operator can meet."""

from __future__ import annotations

from typing import Any


class PipelineError(Exception):
    """Something the operator can act on.

    Rules: ``what`` says what is wrong, as a sentence without its full stop; ``where`` names the file,
    host, URL or package concerned; ``remedy`` says what to do next. Modules hand its text
    to ``fail_json`` and never show a traceback for it. ``details`` are results that a failed
    module returns beside the message, such as its findings.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        self.details: dict[str, Any] = {}
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.what} ({self.where})" if self.where else self.what
        return f"{text}. {self.remedy}" if self.remedy else text

    def failure(self) -> dict[str, Any]:
        """The keyword arguments for ``AnsibleModule.fail_json``."""
        return {**self.details, "msg": str(self)}
