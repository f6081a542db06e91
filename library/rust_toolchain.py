#!/usr/bin/python
"""Toolchain: Rust of one release."""

DOCUMENTATION = r"""
module: rust_toolchain
short_description: Provide Rust on a builder
description:
  - Lays out rustc, cargo and the standard library of one release below the builder's root, from archives that are
    pinned by SHA-256, or sees that the system's is recent enough.
  - A release from archives is complete or not there. While the pins stay the same, nothing is run. Other releases are
    left alone.
author: mistralrs-rpm
options:
  version:
    description: The release, such as V(1.95.0). Of the system's the oldest that will do.
    type: str
    required: true
  root:
    description: The builder's root; the release lies at C(toolchain/rust-VERSION) below it.
    type: path
    required: true
  source:
    description: V(dist) takes the archives, V(system) what is installed in C(/usr/bin).
    type: str
    choices: [dist, system]
    default: dist
  url:
    description: The folder that the archives are in.
    type: str
    default: ""
  pins:
    description: The archives, by SHA-256 and name, as sha256sum writes it.
    type: str
    default: ""
attributes:
  check_mode:
    description: Tells whether a release would be installed.
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

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.toolchain.rust import Dist, provide


def main():
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "source": {"type": "str", "choices": ["dist", "system"], "default": "dist"},
            "url": {"type": "str", "default": ""},
            "pins": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    p = module.params
    dist = Dist(version=p["version"], root=Path(p["root"]), url=p["url"], pins=p["pins"])
    try:
        # 1. The one that is there, or a new one.
        toolchain, changed = provide(dist, p["source"], check=module.check_mode)
    except PipelineError as error:
        module.fail_json(**error.failure())
    # 2. Tell what it is.
    module.exit_json(
        changed=changed,
        toolchain=toolchain.to_dict(),
        diff={"before": {}, "after": toolchain.to_dict()} if changed else {},
    )


if __name__ == "__main__":
    main()
