#!/usr/bin/python
"""Prune: old artifacts of a builder, and old packages and copies on the signer."""

DOCUMENTATION = r"""
module: builder_artifacts
short_description: Keep the newest artifacts of a builder, and the newest packages and copies on the signer
description:
  - On a builder, removes all artifacts and hand-overs of each flavour except the newest and those in use.
  - On the signer, does the same with the hand-overs in its inbox, and with what it packaged and signed.
  - A later run makes a removed one again, from the caches.
author: mistralrs-rpm
options:
  root:
    description:
      - The root of a builder, with C(artifacts) and C(handover), or of the signer, with C(incoming), C(packages) and
        C(signed).
    type: path
    required: true
  keep:
    description: The number of artifacts, packages and copies of each flavour to keep, at least 1.
    type: int
    required: true
attributes:
  check_mode:
    description: Lists the folders that would be removed.
    support: full
  diff_mode:
    description: Shows the removed folders.
    support: full
"""

EXAMPLES = r"""
- name: Keep the newest artifacts
  builder_artifacts:
    root: /var/lib/mistralrs-rpm
    keep: 5
"""

RETURN = r"""
removed:
  description: The removed folders.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.package.superseded import prune
from ansible.module_utils.pipeline_module import ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    "root": {"type": "path", "required": True},
    "keep": {"type": "int", "required": True},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    removed = [str(path) for path in prune(Path(module.params["root"]), module.params["keep"], check=module.check_mode)]
    return {
        "changed": bool(removed),
        "removed": removed,
        "diff": {"before": "".join(f"{path}\n" for path in removed), "after": ""},
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
