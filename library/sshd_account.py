#!/usr/bin/python
"""Whether a host's sshd lets an account log in with its keys."""

DOCUMENTATION = r"""
module: sshd_account
short_description: Check that sshd lets an account log in with its keys
description:
  - Asks sshd for its effective configuration for the account (C(sshd -T -C)), with all drop-ins and C(Match) blocks.
  - Fails if the account is shut out (C(AllowUsers), C(AllowGroups), C(DenyUsers), C(DenyGroups)), or if its keys or
    their forced command are of no use, and names everything that is wrong.
  - Does not ask PAM. Requires root, and changes nothing.
author: mistralrs-rpm
options:
  name:
    description: The account.
    type: str
    required: true
  keys:
    description: The file of its public keys, which sshd must read.
    type: path
    required: true
  connection:
    description: C(SSH_CONNECTION) of a session that came the same way; by default the account comes from this host.
    type: str
    default: ''
extends_documentation_fragment: [read_only]
"""

EXAMPLES = r"""
- name: Check that the signer may publish
  sshd_account:
    name: gitea_ci
    keys: /etc/ssh/authorized_keys.d/gitea_ci
    connection: 192.0.2.7 51234 192.0.2.1 22
"""

RETURN = r""" # """

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.hosts import sshd_account
from ansible.module_utils.pipeline_module import ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    "name": {"type": "str", "required": True},
    "keys": {"type": "path", "required": True},
    "connection": {"type": "str", "default": ""},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    sshd_account.check(p["name"], Path(p["keys"]), p["connection"])
    return {"changed": False}


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
