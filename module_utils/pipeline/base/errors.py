"""The one error an operator can meet."""

from __future__ import annotations


class PipelineError(Exception):
    """Something the operator can act on.

    Rules: ``what`` says what is wrong, as a sentence without its full stop; ``where`` names the file,
    host, URL or package concerned; ``remedy`` says what to do next. Modules hand its text
    to ``fail_json`` and never show a traceback for it.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.what} ({self.where})" if self.where else self.what
        return f"{text}. {self.remedy}" if self.remedy else text

    def failure(self) -> dict[str, str]:
        """The keyword arguments for ``AnsibleModule.fail_json``."""
        return {"msg": str(self)}
