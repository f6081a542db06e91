"""Validates all inputs of roles against their argument specs, and fails with every missing or wrong one at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

ROLES = Path(__file__).resolve().parents[2] / "roles"


def innermost(error: BaseException) -> str:
    """The original message: Ansible wraps the error of a lookup in those of all variables that use it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip()


class ActionModule(ActionBase):
    """Runs on the controller alone, without a connection."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        roles = self._task.args.get("roles") or variables["ansible_play_role_names"]
        wrong = [line for role in roles for line in self._wrong(role, variables)]
        if wrong:
            host = variables["inventory_hostname"]
            lines = "\n".join(f"  {line}" for line in wrong)
            return result | {
                "failed": True,
                "msg": f"nothing was changed on {host}, its inputs are wrong:\n{lines}\n"
                f"Set them in inventory/group_vars or with -e; ansible-doc -t role -r roles {roles[0]} explains them",
            }
        return result | {"changed": False}

    def _wrong(self, role: str, variables: dict[str, Any]) -> list[str]:
        specs = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
        options = specs["argument_specs"]["main"].get("options", {})
        found, values = [], {}
        for name, option in options.items():
            if name not in variables:
                continue
            try:
                values[name] = self._templar.template(variables[name])
            except AnsibleError as error:
                found.append(f"{role}: {name}: {innermost(error)}")
                continue
            if option.get("required") and values[name] in ("", None, []):
                del values[name]
        known = {name: option for name, option in options.items() if name in values or not self._reported(name, found)}
        checked = ArgumentSpecValidator(known).validate(values, validate_role_argument_spec=True)
        return found + [f"{role}: {message}" for message in checked.error_messages]

    @staticmethod
    def _reported(name: str, found: list[str]) -> bool:
        return any(f": {name}: " in line for line in found)
