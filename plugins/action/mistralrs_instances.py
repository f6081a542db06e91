"""Reads the token files of instances on the controller and passes their content to the module as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


def with_tokens(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The instances with ``token``, the content of their file, instead of ``token_file``."""
    return [_with_token(dict(row)) for row in rows]


def _with_token(row: dict[str, Any]) -> dict[str, Any]:
    file = row.pop("token_file", None)
    if not file:
        return row
    path = Path(file).expanduser()
    try:
        return row | {"token": path.read_text(encoding="utf-8").strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise AnsibleActionFail(
            f"{row.get('name')}: the token file cannot be read: {error} (mistralrs_instances). "
            "Correct token_file: a file on the controller"
        ) from error


class ActionModule(ActionBase):
    """Runs the module of the same name."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        arguments["instances"] = with_tokens(arguments.get("instances") or [])
        return result | self._execute_module("mistralrs_instances", module_args=arguments, task_vars=task_vars)
