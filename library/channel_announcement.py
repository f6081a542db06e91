#!/usr/bin/python
"""What an operator does after a publication: serve it, install it, announce the key."""

DOCUMENTATION = r"""
module: channel_announcement
short_description: Report the commands and fingerprints for the users of a channel
description:
  - Reads the trusted keys, and returns their fingerprints as users and dnf see them.
  - With O(packages) it also returns the commands that install them, and that serve a site on this machine.
  - Read-only.
author: mistralrs-rpm
options:
  url:
    description: The URL of the site.
    type: str
    required: true
  channel:
    description: The channel's name.
    type: str
    required: true
  repo:
    description: The name of the channel's C(.repo) file.
    type: str
    required: true
  packages:
    description: The names of the published packages.
    type: list
    elements: str
    default: []
extends_documentation_fragment: [signer, read_only]
"""

EXAMPLES = r"""
- name: Report how to install the packages
  channel_announcement:
    url: https://rpm.example.org
    channel: stable
    repo: mistralrs.repo
    packages: [mistralrs-ada]
    signer: "{{ signer }}"
"""

RETURN = r"""
keys:
  description: The trusted keys, each with C(fingerprint), C(subkey), C(uid), C(created) and C(expires).
  returned: success
  type: list
  elements: dict
next:
  description: Lines for a person; the run's summary ends with them.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.channel.announcement import commands, fingerprints
from ansible.module_utils.pipeline.sign.keyring import parse_keys
from ansible.module_utils.pipeline.sign.signer import Signer
from ansible.module_utils.pipeline.sign.trust import list_public_keys
from ansible.module_utils.pipeline_module import SIGNER, ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    "url": {"type": "str", "required": True},
    "channel": {"type": "str", "required": True},
    "repo": {"type": "str", "required": True},
    "packages": {"type": "list", "elements": "str", "default": []},
    **SIGNER,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    # 1. The keys that clients trust.
    keys = parse_keys(list_public_keys(Signer.of(p["signer"]).trusted_keys))
    # 2. What to do with them.
    lines = commands(p["url"], p["channel"], p["repo"], p["packages"]) if p["packages"] else []
    title = "What now" if lines else "The keys of this site"
    return {
        "changed": False,
        "keys": [key.to_dict() for key in keys],
        "next": [title, *lines, *fingerprints(keys)],
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
