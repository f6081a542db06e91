#!/usr/bin/python
"""Toolchain: a CUDA toolkit of the release that a flavour asks for."""

DOCUMENTATION = r"""
module: cuda_toolkit
short_description: Provide a CUDA toolkit on a builder
description:
  - Finds the system's toolkit of exactly the release asked for, or lays one out below the builder's root
    from wheels that are pinned by version and SHA-256.
  - The toolkit from wheels is complete or not there. While the pins stay the same, nothing is run.
  - Adds what the wheels lack, that is the C(libX.so) links, C(lib64) and a stub of C(libcuda.so.1).
author: mistralrs-rpm
options:
  version:
    description: The release, such as V(13.0).
    type: str
    required: true
  root:
    description: The builder's root; the toolkit lies at C(toolchain/cuda-VERSION) below it.
    type: path
    required: true
  source:
    description:
      - V(system) takes the system's only; V(wheels) never looks at the system.
      - V(auto) takes the system's if it has this very release, and wheels otherwise.
      - V(dnf) takes the system's, which a package has just installed, and lets its headers agree with glibc 2.42;
        that needs root.
    type: str
    choices: [auto, wheels, system, dnf]
    default: auto
  pins:
    description: The text that pins the wheels, as a requirements file of pip with hashes.
    type: str
    default: ""
  python:
    description: A Python on the builder with pip to install the wheels; the module's own when empty.
    type: str
    default: ""
  space_mb:
    description: How many MB must be free before anything is installed.
    type: int
    default: 1000
attributes:
  check_mode:
    description: Tells whether a toolkit would be installed.
    support: full
  diff_mode:
    description: Shows the toolkit's record before and after.
    support: full
"""

EXAMPLES = r"""
- name: Provide CUDA 13.0
  cuda_toolkit:
    version: "13.0"
    root: /var/lib/mistralrs-rpm
    pins: "{{ lookup('ansible.builtin.file', 'cuda-13.0.txt') }}"
  register: cuda
"""

RETURN = r"""
toolkit:
  description: The toolkit (version, compiler, folder, nvcc, source, library_path, inputs).
  returned: success
  type: dict
step:
  description: A line of the run's summary.
  returned: success
  type: dict
"""

import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.toolchain.cuda import Wheels, provide


def main():
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "source": {"type": "str", "choices": ["auto", "wheels", "system", "dnf"], "default": "auto"},
            "pins": {"type": "str", "default": ""},
            "python": {"type": "str", "default": ""},
            "space_mb": {"type": "int", "default": 1000},
        },
        supports_check_mode=True,
    )
    p = module.params
    wheels = Wheels(
        version=p["version"],
        root=Path(p["root"]),
        pins=p["pins"],
        python=p["python"] or sys.executable,
        space=p["space_mb"] << 20,
    )
    try:
        # 1. The system's, the one from wheels that is there, or a new one.
        toolkit, changed = provide(wheels, p["source"], check=module.check_mode)
    except PipelineError as error:
        module.fail_json(**error.failure())
    # 2. Tell what it is.
    module.exit_json(
        changed=changed,
        toolkit=toolkit.to_dict(),
        diff={"before": {}, "after": toolkit.to_dict()} if changed else {},
        step={
            "name": "toolchain",
            "flavour": "",
            "result": f"CUDA {toolkit.compiler or toolkit.version} from {toolkit.source}",
            "where": toolkit.folder,
        },
    )


if __name__ == "__main__":
    main()
