#!/usr/bin/python
"""Toolchain: Rust of one release."""

DOCUMENTATION = r"""
module: rust_toolchain
short_description: Provide Rust on a builder
description:
  - Installs rustc, cargo and the standard library of one release below the builder's root, from archives that are
    pinned by SHA-256; or checks that the system's release is recent enough.
  - A release from archives is complete or absent. While the pins stay the same, nothing runs. Other releases stay
    untouched.
author: mistralrs-rpm
options:
  version:
    description: The release, such as V(1.95.0); for the system's Rust the oldest accepted one.
    type: str
    required: true
  source:
    description: V(dist) installs from the archives, V(system) uses C(/usr/bin).
    type: str
    choices: [dist, system]
    default: dist
  url:
    description: The folder that holds the archives.
    type: str
    default: ""
  pins:
    description: The SHA-256 and names of the archives, in the format of sha256sum.
    type: str
    default: ""
extends_documentation_fragment: [builder_root]
attributes:
  check_mode:
    description: Reports whether a release would be installed.
    support: full
  diff_mode:
    description: Shows the record before and after.
    support: full
"""

EXAMPLES = r"""
- name: Provide Rust
  rust_toolchain:
    version: 1.95.0
    root: /var/lib/mistralrs-rpm
    url: https://static.rust-lang.org/dist
    pins: "{{ lookup('ansible.builtin.file', 'rust-1.95.0.txt') }}"
  register: rust
"""

RETURN = r"""
toolchain:
  description: The toolchain (version, cargo, source, inputs).
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.toolchain.rust import Dist, provide
from ansible.module_utils.pipeline_module import BUILDER_ROOT, ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    **BUILDER_ROOT,
    "version": {"type": "str", "required": True},
    "source": {"type": "str", "choices": ["dist", "system"], "default": "dist"},
    "url": {"type": "str", "default": ""},
    "pins": {"type": "str", "default": ""},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    dist = Dist(version=p["version"], root=Path(p["root"]), url=p["url"], pins=p["pins"])
    toolchain, changed = provide(dist, p["source"], check=module.check_mode)
    return {
        "changed": changed,
        "toolchain": toolchain.to_dict(),
        "diff": {"before": {}, "after": toolchain.to_dict()} if changed else {},
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
