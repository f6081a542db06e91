"""Validates all inputs of roles against their argument specs, and fails with every missing or wrong one at once."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

PROJECT = Path(__file__).resolve().parents[2]
# Ansible puts module_utils on the path of modules only.
sys.path.append(str(PROJECT / "module_utils"))
from pipeline.base.errors import PipelineError
from pipeline.base.run import run
from pipeline.plan.inputs import address_fault, host_fault, origin
from project_variables import argument_specs, inventory_names


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
        known = inventory_names()
        roles = self._task.args.get("roles") or variables["ansible_play_role_names"]
        wrong = [line for role in roles for line in self._wrong(role, variables, known)]
        if self._connection.transport == "ssh" and (why := unreachable(self._connection)):
            wrong.append(why)
        if wrong:
            host = variables["inventory_hostname"]
            lines = "\n".join(f"  {line}" for line in wrong)
            return result | {
                "failed": True,
                "msg": f"nothing was changed on {host}, its inputs are wrong:\n{lines}\n"
                f"Set them in inventory/group_vars or with -e; ansible-doc -t role -r roles {roles[0]} explains them",
            }
        return result | {"changed": False}

    def _wrong(self, role: str, variables: dict[str, Any], known: set[str]) -> list[str]:
        options = argument_specs(PROJECT / "roles" / role / "meta/argument_specs.yml")["main"].get("options", {})
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
        known_options = {
            name: option for name, option in options.items() if name in values or not self._reported(name, found)
        }
        checked = ArgumentSpecValidator(known_options).validate(values, validate_role_argument_spec=True)
        found += [f"{role}: {message}" for message in checked.error_messages]
        found += [f"{role}: {name}: {why}" for name, value in values.items() if (why := address_fault(name, value))]
        return [line + set_by(line, options, variables, known) for line in found]

    @staticmethod
    def _reported(name: str, found: list[str]) -> bool:
        return any(f": {name}: " in line for line in found)


def set_by(line: str, options: Mapping[str, Any], variables: Mapping[str, Any], known: set[str]) -> str:
    """The variables that an operator sets for the inputs that a line names, if they have another name."""
    sources = [origin(name, variables, known) for name in options if re.search(rf"\b{name}\b", line)]
    other = [source for source in dict.fromkeys(sources) if source not in options]
    return f"; set {', '.join(other)}" if other else ""


def unreachable(connection: Any) -> str:
    """Why this machine has no address for a host, asked as ssh will ask. "" behind a jump host, which knows it."""
    host = str(connection.get_option("host"))
    if why := host_fault(host):
        return f"ansible_host: {why}"
    words = [
        word
        for option in ("ssh_args", "ssh_common_args", "ssh_extra_args")
        for word in connection._split_ssh_args(connection.get_option(option) or "")  # noqa: SLF001
    ]
    try:
        found = run(["ssh", *words, "-G", "--", host], timeout=30)
    except PipelineError:
        return ""  # the connection has the reason
    settings = dict(line.partition(" ")[::2] for line in found.stdout.splitlines())
    if {settings.get("proxyjump", "none"), settings.get("proxycommand", "none")} != {"none"}:
        return ""
    try:
        socket.getaddrinfo(settings.get("hostname", host), None)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return f"ansible_host: this machine has no address for {host}: {reason}. Correct it, or the host's name"
    return ""
