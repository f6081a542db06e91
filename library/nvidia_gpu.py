#!/usr/bin/python
"""GPU hosts: which GPUs there are, and which flavour fits them."""

DOCUMENTATION = r"""
module: nvidia_gpu
short_description: Find the flavour that fits the GPUs of a host
description:
  - Asks C(nvidia-smi) for each GPU's compute capability and the driver's version, and compares them with the table
    of flavours.
  - Fails where no flavour fits, where the GPUs take different ones, and where the driver is older than the
    flavour needs. The message says what there is and what to do.
  - It only reads.
author: mistralrs-rpm
options:
  flavours:
    description:
      - The table of flavours, rows with C(name), C(summary), C(compute_capability), C(driver) and C(cuda).
      - A row without C(compute_capability) needs no GPU, and is never chosen unless O(flavour) names it.
    type: list
    elements: dict
    required: true
  flavour:
    description:
      - The name of the flavour to take, whatever the GPUs are. What speaks against it is a warning.
    type: str
    default: ""
  program:
    description: The program to ask.
    type: str
    default: nvidia-smi
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Find the flavour of this host's GPU
  nvidia_gpu:
    flavours: "{{ flavours }}"
  register: gpu

- name: Say what it is
  ansible.builtin.debug:
    msg: "{{ gpu.flavour.name }}: {{ gpu.reason }}"
"""

RETURN = r"""
gpus:
  description: The GPUs, each with name, compute_capability and driver; empty where none could be asked.
  returned: success
  type: list
  elements: dict
flavour:
  description: The row of the table.
  returned: success
  type: dict
package:
  description: The name of its package.
  returned: success
  type: str
  sample: mistralrs-ada
reason:
  description: Why this one.
  returned: success
  type: str
  sample: "NVIDIA GeForce RTX 4090 (8.9): built for 8.9"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Flavour
from ansible.module_utils.pipeline.hosts.gpu import choose, look


def main():
    module = AnsibleModule(
        argument_spec={
            "flavours": {"type": "list", "elements": "dict", "required": True},
            "flavour": {"type": "str", "default": ""},
            "program": {"type": "str", "default": "nvidia-smi"},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        flavours = [Flavour.from_dict(row) for row in p["flavours"]]
        # 1. What there is. The flavour that is named needs no GPU to be looked at.
        try:
            gpus, unseen = look(p["program"]), ""
        except PipelineError as error:
            if not p["flavour"]:
                raise
            gpus, unseen = (), error.what
        # 2. What fits.
        choice = choose(gpus, flavours, p["flavour"])
    except PipelineError as error:
        module.fail_json(**error.failure())
    # 3. Tell.
    if unseen and choice.flavour.compute_capability:
        module.warn(f"{choice.flavour.package_name} is taken unchecked: {unseen}")
    for warning in choice.warnings:
        module.warn(warning)
    module.exit_json(
        changed=False,
        gpus=[gpu.to_dict() for gpu in gpus],
        flavour=choice.flavour.to_dict(),
        package=choice.flavour.package_name,
        reason=choice.reason,
    )


if __name__ == "__main__":
    main()
