#!/usr/bin/python
"""GPU hosts: wait until the servers answer."""

DOCUMENTATION = r"""
module: mistralrs_health
short_description: Wait until mistral.rs servers answer
description:
  - Waits until the unit of each instance is active and its C(/health) answers, which it does once the model is loaded.
  - Fails after O(timeout), and at once when systemd has given an instance up. The message ends with the journal.
  - It changes nothing. In check mode it waits for nothing.
author: mistralrs-rpm
options:
  instances:
    description: What the module M(mistralrs_instances) returns, of which C(unit) and C(health) are used.
    type: list
    elements: dict
    required: true
  timeout:
    description: How many seconds to wait for all of them together.
    type: int
    default: 600
  lines:
    description: How many lines of the journal to show for one that is not well.
    type: int
    default: 15
attributes:
  check_mode:
    description: Nothing is waited for.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Wait for the models
  mistralrs_health:
    instances: "{{ written.instances }}"
    timeout: 3600
"""

RETURN = r"""
seconds:
  description: How long it took.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.hosts.health import wait


def main():
    module = AnsibleModule(
        argument_spec={
            "instances": {"type": "list", "elements": "dict", "required": True},
            "timeout": {"type": "int", "default": 600},
            "lines": {"type": "int", "default": 15},
        },
        supports_check_mode=True,
    )
    p = module.params
    urls = {} if module.check_mode else {row["unit"]: row["health"] for row in p["instances"]}
    try:
        seconds = wait(urls, p["timeout"], p["lines"])
    except PipelineError as error:
        module.fail_json(**error.failure())
    module.exit_json(changed=False, seconds=round(seconds, 1))


if __name__ == "__main__":
    main()
