#!/usr/bin/python
"""Toolchain: a CUDA toolkit of the release that a flavour requires."""

DOCUMENTATION = r"""
module: cuda_toolkit
short_description: Provide a CUDA toolkit on a builder
description:
  - Finds the system's toolkit of exactly the requested release, or installs one below the builder's root from wheels
    that are pinned by version and SHA-256.
  - A toolkit from wheels is complete or absent. While the pins stay the same, nothing runs.
  - Adds the C(libX.so) links, C(lib64) and the stub of C(libcuda.so.1) that the wheels lack.
author: mistralrs-rpm
options:
  version:
    description: The release, such as V(13.0).
    type: str
    required: true
  source:
    description:
      - V(system) uses the system's toolkit only; V(wheels) never searches the system.
      - V(auto) uses the system's toolkit if it is of this release, and wheels otherwise.
      - V(dnf) uses the system's toolkit, which dnf has just installed, and patches its headers for glibc 2.42. The
        patch requires root.
    type: str
    choices: [auto, wheels, system, dnf]
    default: auto
  space_mb:
    description: The free space in MB that an installation requires.
    type: int
    default: 1000
extends_documentation_fragment: [builder_root, pinned_wheels]
attributes:
  check_mode:
    description: Reports whether a toolkit would be installed.
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
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.toolchain.cuda import Wheels, provide
from ansible.module_utils.pipeline_module import BUILDER_ROOT, PINNED_WHEELS, ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    **BUILDER_ROOT,
    **PINNED_WHEELS,
    "version": {"type": "str", "required": True},
    "source": {"type": "str", "choices": ["auto", "wheels", "system", "dnf"], "default": "auto"},
    "space_mb": {"type": "int", "default": 1000},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    wheels = Wheels(
        version=p["version"],
        root=Path(p["root"]),
        pins=p["pins"],
        python=p["python"] or sys.executable,
        space=p["space_mb"] << 20,
    )
    toolkit, changed = provide(wheels, p["source"], check=module.check_mode)
    return {
        "changed": changed,
        "toolkit": toolkit.to_dict(),
        "diff": {"before": {}, "after": toolkit.to_dict()} if changed else {},
        "step": step(
            "toolchain", f"CUDA {toolkit.compiler or toolkit.version} from {toolkit.source}", where=toolkit.folder
        ),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
