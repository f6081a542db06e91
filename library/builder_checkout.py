#!/usr/bin/python
"""The builder's checkout: which commits it has, and one that is brought to it."""

DOCUMENTATION = r"""
module: builder_checkout
short_description: Tell the commits of a builder's checkout, or take one in
description:
  - Without O(pack) it tells which commits the checkout has, and changes nothing.
  - With O(pack) it takes a commit in that upstream has not, made by M(dev_source) for this checkout. Nothing that
    is checked out changes; a build of the commit moves there.
author: mistralrs-rpm
options:
  root:
    description: The builder's root.
    type: path
    required: true
  commit:
    description: The commit that O(pack) holds.
    type: str
  pack:
    description: A file with what the checkout lacks of O(commit).
    type: path
attributes:
  check_mode:
    description: Runs in check mode, and does the same, since the check of a builder looks into the commit.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Ask the builder what it has
  builder_checkout:
    root: /var/lib/mistralrs-rpm
  register: builder

- name: Take in the developer's commit
  builder_checkout:
    root: /var/lib/mistralrs-rpm
    commit: "{{ resolved.source.commit }}"
    pack: /tmp/brought.pack
"""

RETURN = r"""
commits:
  description: The commits that the checkout has with all their files.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.lock import held
from ansible.module_utils.pipeline.source import checkout


def main():
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "commit": {"type": "str"},
            "pack": {"type": "path"},
        },
        required_together=[("commit", "pack")],
        supports_check_mode=True,
    )
    p = module.params
    root = Path(p["root"])
    try:
        # 1. Take the commit in; what a build sees does not change by it.
        if p["pack"]:
            with held(root / "lock"):
                checkout.receive(root / "src", p["commit"], Path(p["pack"]))
        # 2. Tell what is there.
        commits = checkout.known(root / "src")
    except PipelineError as error:
        module.fail_json(**error.failure())
    module.exit_json(changed=False, commits=commits)


if __name__ == "__main__":
    main()
