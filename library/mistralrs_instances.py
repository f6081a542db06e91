#!/usr/bin/python
"""GPU hosts: the configuration of the servers, from the operator's data."""

DOCUMENTATION = r"""
module: mistralrs_instances
short_description: Write the configuration of mistral.rs servers
description:
  - Makes C(NAME.conf) and, where there is a token or a variable, C(NAME.env) of each instance, mode 0600. Files of
    instances that are no longer in the data are removed. Files that the role did not make are never touched.
  - It starts and stops nothing, and tells which units are to be stopped first and which to be started. So run it in
    check mode, stop what leaves, and run it again.
  - Everything that is wrong with the data is told at once, before anything is touched.
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
        description: What is merged into the TOML. Tables are merged, anything else is replaced.
        type: dict
        default: {}
      config:
        description: The whole TOML, in place of O(instances[].model), O(instances[].port) and O(instances[].settings).
        type: str
      environment:
        description: Environment variables of the server.
        type: dict
        default: {}
      token:
        description: The token of an account at Hugging Face.
        type: str
      token_file:
        description: Not read here. O(tokens) has what is in it.
        type: str
  tokens:
    description: Tokens by the instance's name; they come before O(instances[].token).
    type: dict
    default: {}
  flavour:
    description: The flavour whose unit serves them.
    type: str
    required: true
  folder:
    description: Where the units look for their configuration.
    type: path
    default: /etc/mistralrs
attributes:
  check_mode:
    description: Tells the same and writes nothing.
    support: full
  diff_mode:
    description: Shows the files before and after, without secrets.
    support: full
"""

EXAMPLES = r"""
- name: See what is to be stopped
  mistralrs_instances:
    instances: "{{ mistralrs_instances }}"
    flavour: ada
  check_mode: true
  register: planned
"""

RETURN = r"""
instances:
  description:
    - The wanted ones, each with name, unit, health (its URL), state (V(started), or V(restarted) where it runs with an
      older configuration).
  returned: success
  type: list
  elements: dict
leaving:
  description: The units that are no longer wanted and are to be stopped and disabled.
  returned: success
  type: list
  elements: str
given_up:
  description: The units that systemd has given up.
  returned: success
  type: list
  elements: str
ports:
  description: The ports that others reach, each with port and state (V(enabled) or V(disabled)).
  returned: success
  type: list
  elements: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.hosts import instances as logic


def main():
    module = AnsibleModule(
        argument_spec={
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
                    "token_file": {"type": "str", "no_log": False},
                },
            },
            "tokens": {"type": "dict", "default": {}, "no_log": True},
            "flavour": {"type": "str", "required": True},
            "folder": {"type": "path", "default": "/etc/mistralrs"},
        },
        supports_check_mode=True,
    )
    p = module.params
    folder = Path(p["folder"])
    try:
        # 1. What is wanted, and what is there.
        wanted = logic.instances(p["instances"], p["flavour"], p["tokens"])
        found = logic.look(folder)
        plan = logic.plan(wanted, found)
        leaving, links = logic.known(plan.leaving), logic.aliases(plan.leaving)
        # 2. The files.
        if not module.check_mode:
            logic.carry_out(plan, folder, links)
        closed = logic.close_modes(wanted, folder, check=module.check_mode)
        # 3. What the units need then.
        states = logic.states(wanted, folder, plan.write)
        given_up = logic.given_up(wanted)
    except PipelineError as error:
        module.fail_json(**error.failure())
    module.exit_json(
        changed=bool(plan.write or plan.remove or links or closed),
        instances=[{"name": i.name, "unit": i.unit, "health": i.health, "state": states[i.unit]} for i in wanted],
        leaving=list(leaving),
        given_up=list(given_up),
        ports=[
            *({"port": f"{port}/tcp", "state": "disabled"} for port in plan.closing),
            *({"port": f"{port}/tcp", "state": "enabled"} for port in plan.opening),
        ],
        diff=[
            {
                "before_header": str(folder / name),
                "after_header": str(folder / name),
                "before": logic.shown(name, found.texts.get(name, "")),
                "after": logic.shown(name, plan.write.get(name, "")),
            }
            for name in (*plan.write, *plan.remove)
        ],
    )


if __name__ == "__main__":
    main()
