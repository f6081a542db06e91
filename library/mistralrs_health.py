#!/usr/bin/python
"""GPU hosts: wait until the servers answer."""

DOCUMENTATION = r"""
module: mistralrs_health
short_description: Wait until mistral.rs servers answer
description:
  - Waits until the unit of each instance is active and its C(/health) answers, which it does once the model is loaded.
  - Fails after O(timeout), and at once for an instance that systemd has given up. The message ends with its journal.
  - Changes nothing.
author: mistralrs-rpm
options:
  instances:
    description: The instances that M(mistralrs_instances) returns. Their C(unit) and C(health) are used.
    type: list
    elements: dict
    required: true
  timeout:
    description: The number of seconds to wait for all of them together.
    type: int
    default: 600
  lines:
    description: The number of lines of the journal to show for an instance that does not answer.
    type: int
    default: 15
extends_documentation_fragment: [no_diff]
attributes:
  check_mode:
    description: Waits for nothing.
    support: full
"""

EXAMPLES = r"""
- name: Wait for the models
  mistralrs_health:
    instances: "{{ written.instances }}"
    timeout: 3600
"""

RETURN = r"""
seconds:
  description: The duration of the wait.
  returned: success
  type: float
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.hosts.health import wait
from ansible.module_utils.pipeline_module import ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    "instances": {"type": "list", "elements": "dict", "required": True},
    "timeout": {"type": "int", "default": 600},
    "lines": {"type": "int", "default": 15},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    urls = {} if module.check_mode else {row["unit"]: row["health"] for row in p["instances"]}
    return {"changed": False, "seconds": round(wait(urls, p["timeout"], p["lines"]), 1)}


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
