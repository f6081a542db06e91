#!/usr/bin/python
"""GPU hosts: find the GPUs and the flavour for them."""

DOCUMENTATION = r"""
module: nvidia_gpu
short_description: Find the flavour for the GPUs of a host
description:
  - Asks C(nvidia-smi) for the driver's version and the compute capability of each GPU, and compares them with the
    flavour table.
  - Fails if no flavour fits, if the GPUs need different flavours, or if the driver is older than the flavour requires.
    The message names the GPUs and the remedy.
  - Changes nothing.
author: mistralrs-rpm
options:
  flavours:
    description:
      - The flavour table, rows with C(name), C(summary), C(compute_capability), C(driver) and C(cuda).
      - A row without C(compute_capability) needs no GPU. It is chosen only by O(flavour).
    type: list
    elements: dict
    required: true
  flavour:
    description:
      - The name of the flavour to choose for any GPU. A GPU or driver that does not fit it is a warning.
    type: str
    default: ""
  program:
    description: The program to ask.
    type: str
    default: nvidia-smi
extends_documentation_fragment: [read_only]
"""

EXAMPLES = r"""
- name: Find the flavour for this host's GPU
  nvidia_gpu:
    flavours: "{{ flavours }}"
  register: gpu

- name: Show the flavour
  ansible.builtin.debug:
    msg: "{{ gpu.flavour.name }}: {{ gpu.reason }}"
"""

RETURN = r"""
gpus:
  description: The GPUs, each with name, compute_capability and driver; empty if nvidia-smi could not be asked.
  returned: success
  type: list
  elements: dict
flavour:
  description: The chosen row of the table.
  returned: success
  type: dict
package:
  description: The name of its package.
  returned: success
  type: str
  sample: mistralrs-ada
reason:
  description: The reason for the choice.
  returned: success
  type: str
  sample: "NVIDIA GeForce RTX 4090 (8.9): built for 8.9"
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Flavour
from ansible.module_utils.pipeline.hosts.gpu import Gpu, choose, find_gpus
from ansible.module_utils.pipeline_module import ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    "flavours": {"type": "list", "elements": "dict", "required": True},
    "flavour": {"type": "str", "default": ""},
    "program": {"type": "str", "default": "nvidia-smi"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    # 1. Find the GPUs. A named flavour needs none.
    gpus: tuple[Gpu, ...] = ()
    unseen = ""
    try:
        gpus = find_gpus(p["program"])
    except PipelineError as error:
        if not p["flavour"]:
            raise
        unseen = error.what

    # 2. Choose the flavour.
    choice = choose(gpus, [Flavour.from_dict(row) for row in p["flavours"]], p["flavour"])

    # 3. Warn and report.
    if unseen and choice.flavour.compute_capability:
        module.warn(f"{choice.flavour.package_name} is not checked against the GPUs: {unseen}")
    for warning in choice.warnings:
        module.warn(warning)
    return {
        "changed": False,
        "gpus": [gpu.to_dict() for gpu in gpus],
        "flavour": choice.flavour.to_dict(),
        "package": choice.flavour.package_name,
        "reason": choice.reason,
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
