#!/usr/bin/python
"""Status: what a channel holds, and what is wrong with it."""

DOCUMENTATION = r"""
module: repository_status
short_description: Tell what a channel holds and what is wrong with it
description:
  - Reads the channel as clients do, asks the publisher agent, and looks at the signing keys.
  - Returns a finding for each check; it does not fail for one that does not fit, so that all channels are told.
    Let M(ansible.builtin.assert) look at RV(findings).
  - Changes nothing.
author: mistralrs-rpm
options:
  channel:
    description: The channel's name, as the publisher agent knows it.
    type: str
    required: true
  location:
    description: Where the channel is read, a folder or an http(s) URL.
    type: str
    required: true
  home:
    description: The GnuPG home with the signing key.
    type: path
    required: true
  trusted_keys:
    description: The armored public keys that everyone trusts.
    type: path
    required: true
  publisher:
    description: How the publisher agent is reached.
    type: dict
    required: true
    suboptions:
      rsh:
        description: The remote shell and its options, such as C(ssh), or the agent itself with C(--rsh).
        type: list
        elements: str
        required: true
      host:
        description: What the remote shell takes as the host.
        type: str
        required: true
  deep:
    description: Let the agent read every byte of the pool and every signature, too.
    type: bool
    default: false
attributes:
  check_mode:
    description: Runs in check mode, and does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: See whether the stable channel is well
  repository_status:
    channel: stable
    location: https://rpm.example.org/fedora/43/x86_64
    home: /var/lib/mistralrs-rpm/signer/gnupg
    trusted_keys: /var/lib/mistralrs-rpm/signer/public.asc
    publisher:
      rsh: [ssh, -oBatchMode=yes]
      host: gitea_ci@rpm.example.org
  register: status
"""

RETURN = r"""
report:
  description:
    - C(channel), C(head), C(findings), C(packages) (Package records of the head) and C(host).
    - C(host) is the agent's answer (snapshots, pool, orphans, missing, incoming, journal, refusals, room), and empty
      if it gave none.
  returned: success
  type: dict
findings:
  description: Each check with what was found, what is needed, whether that fits, and the remedy.
  returned: success
  type: list
  elements: dict
table:
  description: The report as lines for a person; the run's summary prints them.
  returned: success
  type: list
  elements: str
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base import findings
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.channel import status
from ansible.module_utils.pipeline.channel.agent_client import Publisher
from ansible.module_utils.pipeline.channel.reader import Channel
from ansible.module_utils.pipeline.channel.release_package import check_head
from ansible.module_utils.pipeline.sign import keyring


def main():
    module = AnsibleModule(
        argument_spec={
            "channel": {"type": "str", "required": True},
            "location": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "trusted_keys": {"type": "path", "required": True, "no_log": False},
            "publisher": {
                "type": "dict",
                "required": True,
                "options": {
                    "rsh": {"type": "list", "elements": "str", "required": True},
                    "host": {"type": "str", "required": True},
                },
            },
            "deep": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    p = module.params
    name, home, trusted_keys = str(p["channel"]), Path(p["home"]), Path(p["trusted_keys"])
    channel = Channel(str(p["location"]), trusted_keys)
    agent = Publisher([str(word) for word in p["publisher"]["rsh"]], str(p["publisher"]["host"]))
    found = status.report(
        name,
        attempt(channel.read),
        attempt(agent.status, name),
        [*keyring.findings(home, trusted_keys), check_head(name, channel, home)],
        attempt(agent.verify, name) if p["deep"] else None,
    )
    bad = [finding for finding in found.findings if not finding.fits]
    module.exit_json(
        changed=False,
        report=found.to_dict(),
        findings=[finding.to_dict() for finding in found.findings],
        table=[*status.lines(found), "", *findings.table(found.findings)],
        step={
            "name": "status",
            "flavour": "",
            "result": f"{name}: {', '.join(finding.check for finding in bad)} wrong" if bad else f"{name} is well",
            "where": str(p["location"]),
        },
    )


def attempt(ask, *words):
    """The answer, or the error as one: every part is told, whatever the others say."""
    try:
        return ask(*words)
    except PipelineError as error:
        return error


if __name__ == "__main__":
    main()
