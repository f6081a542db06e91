#!/usr/bin/python
"""Hold: no release is published while it stands."""

DOCUMENTATION = r"""
module: release_hold
short_description: Hold releases, resume them, or stop a run that is held
description:
  - Writes or removes the hold of a signer, one file beside its memory of the heads. While it stands, no run of this
    signer stages or publishes a release, and one that would ends before it builds. Rollback, yank and prune work as
    ever.
author: mistralrs-rpm
options:
  state:
    description:
      - V(present) holds releases. Again with another reason, it keeps its beginning.
      - V(absent) resumes them.
      - V(respected) fails if releases are on hold, and then returns RV(held).
    type: str
    choices: [present, absent, respected]
    default: present
  reason:
    description: Why; required by V(present).
    type: str
    default: ""
extends_documentation_fragment: [signer]
attributes:
  check_mode:
    description: Returns what would change. V(respected) only warns, since a dry run publishes nothing.
    support: full
  diff_mode:
    description: Shows the hold before and after.
    support: full
"""

EXAMPLES = r"""
- name: Hold releases
  release_hold:
    reason: "0.9.2 answers nonsense"
    signer: "{{ signer }}"

- name: Stop if releases are on hold
  release_hold:
    state: respected
    signer: "{{ signer }}"
"""

RETURN = r"""
held:
  description: Whether releases are on hold afterwards.
  returned: always
  type: bool
hold:
  description: The hold's C(reason), C(by) and C(since) (seconds since 1970); empty without one.
  returned: success
  type: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

import os
import pwd
import socket
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.channel.hold import Held, Hold, expect_none, lifted, placed
from ansible.module_utils.pipeline.sign.signer import Signer
from ansible.module_utils.pipeline_module import SIGNER, ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "state": {"type": "str", "choices": ["present", "absent", "respected"], "default": "present"},
    "reason": {"type": "str", "default": ""},
    **SIGNER,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p, check = module.params, module.check_mode
    root = Signer.of(p["signer"]).root
    after: Hold | None = None
    # 1. A run that would publish.
    if p["state"] == "respected":
        try:
            expect_none(root, "Nothing was built, signed or published")
        except Held as held:
            if not check:
                raise
            module.warn(str(held))
        return {"changed": False, "held": False, "hold": {}}
    # 2. Hold or resume.
    if p["state"] == "present":
        before, after = placed(root, p["reason"], account(), time.time(), check=check)
    else:
        before = lifted(root, check=check)
    # 3. The result.
    result = f"releases are {after}" if after else "releases are not on hold"
    return {
        "changed": before != after,
        "held": after is not None,
        "hold": after.to_dict() if after else {},
        "diff": {"before": f"{before}\n" if before else "", "after": f"{after}\n" if after else ""},
        "step": step("hold" if after else "resume", result),
    }


def account() -> str:
    """Who asks: the account before sudo, and this machine."""
    name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    return f"{name}@{socket.gethostname()}"


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
