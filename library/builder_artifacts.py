#!/usr/bin/python
"""Prune: what runs left on a builder or on the signer."""

DOCUMENTATION = r"""
module: builder_artifacts
short_description: Keep the newest artifacts and packages of a builder, and the signer's copies
description:
  - Removes all but the newest artifacts and unsigned packages of each flavour. None that is in use is removed.
  - On the signer, does the same with the packages that were brought to it and with those that it signed.
  - What is gone is made again when it is asked for, from what is in the caches.
author: mistralrs-rpm
options:
  root:
    description:
      - The root of the builder, of which C(artifacts) and C(packages) are pruned, or of the signer, with C(incoming)
        and C(signed).
    type: path
    required: true
  keep:
    description: How many artifacts, packages and copies of each flavour stay, 1 at least.
    type: int
    required: true
attributes:
  check_mode:
    description: Tells what would be removed.
    support: full
  diff_mode:
    description: Shows the folders that are removed.
    support: full
"""

EXAMPLES = r"""
- name: Keep the newest artifacts and packages
  builder_artifacts:
    root: /var/lib/mistralrs-rpm
    keep: 5
"""

RETURN = r"""
removed:
  description: The folders that were removed.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.package.superseded import prune


def main():
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "keep": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        # 1. Remove what is superseded.
        removed = [str(path) for path in prune(Path(p["root"]), p["keep"], check=module.check_mode)]
    except PipelineError as error:
        module.fail_json(**error.failure())
    # 2. Tell.
    module.exit_json(
        changed=bool(removed),
        removed=removed,
        diff={"before": "".join(f"{path}\n" for path in removed), "after": ""},
    )


if __name__ == "__main__":
    main()
