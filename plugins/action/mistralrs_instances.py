"""Reads the token files of instances on the controller and passes their content to the module as tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase


def with_tokens(rows: Iterable[Mapping[str, Any]], read: Callable[[str], str]) -> list[dict[str, Any]]:
    """The instances with ``token``, the content of their file, instead of ``token_file``; ``read`` reads a file."""
    return [_with_token(dict(row), read) for row in rows]


def _with_token(row: dict[str, Any], read: Callable[[str], str]) -> dict[str, Any]:
    file = row.pop("token_file", None)
    if not file:
        return row
    try:
        return row | {"token": read(str(file)).strip()}
    except (OSError, AnsibleError) as error:
        raise AnsibleActionFail(
            f"{row.get('name')}: the token file cannot be read: {error} (mistralrs_instances). "
            "Correct token_file: a file on the controller"
        ) from error


class ActionModule(ActionBase):
    """Runs the module of the same name."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        arguments["instances"] = with_tokens(arguments.get("instances") or [], self._read)
        return result | self._execute_module("mistralrs_instances", module_args=arguments, task_vars=task_vars)

    def _read(self, name: str) -> str:
        """A file of the controller, found and decrypted as Ansible does for every action."""
        return str(self._loader.get_text_file_contents(self._find_needle("files", name)))
