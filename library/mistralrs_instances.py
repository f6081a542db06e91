#!/usr/bin/python
"""GPU hosts: the configuration of the servers, from the operator's data."""

DOCUMENTATION = r"""
module: mistralrs_instances
short_description: Write the configuration of mistral.rs servers
description:
  - Writes C(NAME.conf) of each instance and, for a token or variables, C(NAME.env), both with mode 0600. Removes the
    files of instances that are no longer in the data. Never touches files that it did not write.
  - Starts and stops no unit, but returns which units to stop first and which to start after. Run it in check mode, stop
    the units that leave, and run it again.
  - Reports every fault of the data at once, before it changes anything.
author: mistralrs-rpm
options:
  instances:
    description: The instances.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name; the unit is C(mistralrs-FLAVOUR@NAME.service).
        type: str
        required: true
      model:
        description: A name at Hugging Face, or the path of a folder.
        type: str
      host:
        description: The address to listen on, V(127.0.0.1) by default. There is no authentication.
        type: str
      port:
        description: The port to listen on.
        type: int
      settings:
        description: Settings to merge into the TOML. Tables are merged, other values are replaced.
        type: dict
        default: {}
      config:
        description: The whole TOML, instead of O(instances[].model), O(instances[].port) and O(instances[].settings).
        type: str
      environment:
        description: Environment variables of the server.
        type: dict
        default: {}
      token:
        description: The token of an account at Hugging Face.
        type: str
      token_file:
        description: A file on the controller with the token. It overrides O(instances[].token).
        type: str
  flavour:
    description: The flavour whose units serve the instances.
    type: str
    required: true
  folder:
    description: The folder in which the units look for their configuration.
    type: path
    default: /etc/mistralrs
attributes:
  check_mode:
    description: Returns the same and writes nothing.
    support: full
  diff_mode:
    description: Shows the names of the values and which of them change. Shows no value, since any may be a token.
    support: full
"""

EXAMPLES = r"""
- name: Find the units to stop
  mistralrs_instances:
    instances: "{{ mistralrs_instances }}"
    flavour: ada
  check_mode: true
  register: planned
"""

RETURN = r"""
instances:
  description:
    - The instances, each with name, unit, health (its URL) and state (V(started), or V(restarted) if it runs with an
      older configuration).
  returned: success
  type: list
  elements: dict
leaving:
  description:
    - The units to stop and disable, since their instances are no longer in the data, or since they are of another
      flavour and enabled under the name of an instance.
  returned: success
  type: list
  elements: str
given_up:
  description: The units that systemd has given up, of wanted and of removed instances.
  returned: success
  type: list
  elements: str
ports:
  description: The ports that other hosts reach, each with port and state (V(enabled) or V(disabled)).
  returned: success
  type: list
  elements: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.hosts import instances as logic
from ansible.module_utils.pipeline_module import ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    "instances": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "model": {"type": "str"},
            "host": {"type": "str"},
            "port": {"type": "int"},
            "settings": {"type": "dict", "default": {}},
            "config": {"type": "str"},
            "environment": {"type": "dict", "default": {}},
            "token": {"type": "str", "no_log": True},
            # The action plugin replaces it by the token.
            "token_file": {"type": "str", "no_log": False},
        },
    },
    "flavour": {"type": "str", "required": True},
    "folder": {"type": "path", "default": "/etc/mistralrs"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    folder = Path(p["folder"])
    # 1. Compare the data with the folder.
    wanted = logic.read_instances(p["instances"], p["flavour"])
    found = logic.read_folder(folder)
    changes = logic.changes(wanted, found)
    leave = tuple(dict.fromkeys((*changes.leaving, *logic.others(wanted))))
    leaving, links = logic.installed(leave), logic.aliases(leave)

    # 2. Change the files.
    if not module.check_mode:
        logic.apply(changes, folder, links)
    closed = logic.close_modes(wanted, folder, check=module.check_mode)

    # 3. Report the files and the states that the units need.
    states = logic.unit_states(wanted, folder, changes.write)
    return {
        "changed": bool(changes.write or changes.remove or links or closed),
        "instances": [{"name": i.name, "unit": i.unit, "health": i.health, "state": states[i.unit]} for i in wanted],
        "leaving": list(leaving),
        "given_up": list(logic.given_up([*(i.unit for i in wanted), *leave])),
        "ports": [
            *({"port": f"{port}/tcp", "state": "disabled"} for port in changes.closing),
            *({"port": f"{port}/tcp", "state": "enabled"} for port in changes.opening),
        ],
        "diff": [
            {
                "before_header": str(folder / name),
                "after_header": str(folder / name),
                "before": logic.shown(name, found.texts.get(name, ""), ""),
                "after": logic.shown(name, changes.write.get(name, ""), found.texts.get(name, "")),
            }
            for name in (*changes.write, *changes.remove)
        ],
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
