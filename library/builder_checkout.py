#!/usr/bin/python
"""The builder's checkout: its commits, and importing one."""

DOCUMENTATION = r"""
module: builder_checkout
short_description: List the commits of a builder's checkout, or import one
description:
  - It is the checkout of builds of trust V(try), since no release comes from a developer's clone.
  - Without O(pack) it lists the commits of the checkout and changes nothing.
  - With O(pack) it imports a commit that upstream lacks, packed by M(dev_source) for this checkout. The files that are
    checked out stay as they are until a build moves there.
author: mistralrs-rpm
options:
  commit:
    description: The commit in O(pack).
    type: str
  share_trust:
    description: Use the checkout that builds of both trusts share.
    type: bool
    default: false
  pack:
    description: A git pack with the objects of O(commit) that the checkout lacks.
    type: path
extends_documentation_fragment: [builder_root, no_diff]
attributes:
  check_mode:
    description: Imports the commit in check mode too, since the check of a builder reads it.
    support: full
"""

EXAMPLES = r"""
- name: List the builder's commits
  builder_checkout:
    root: /var/lib/mistralrs-rpm
  register: builder

- name: Import the developer's commit
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
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.lock import held
from ansible.module_utils.pipeline.source import checkout
from ansible.module_utils.pipeline.source.trust import TRY, state_of
from ansible.module_utils.pipeline_module import BUILDER_ROOT, TRUST, ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    **BUILDER_ROOT,
    "commit": {"type": "str"},
    "pack": {"type": "path"},
    "share_trust": TRUST["share_trust"],
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    root = Path(p["root"])
    folder = state_of(root, TRY, shared=p["share_trust"]) / "src"
    # 1. Import the commit. Its objects alone change nothing that a build reads.
    if p["pack"]:
        with held(root / "lock"):
            checkout.receive(folder, p["commit"], Path(p["pack"]))
    # 2. List the commits.
    return {"changed": False, "commits": checkout.known(folder, root / "lock")}


def main() -> None:
    run(work, ARGUMENT_SPEC, required_together=[("commit", "pack")])


if __name__ == "__main__":
    main()
