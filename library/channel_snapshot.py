#!/usr/bin/python
"""Publish: add signed packages to a channel by a new snapshot."""

DOCUMENTATION = r"""
module: channel_snapshot
short_description: Publish signed packages in a channel
description:
  - Composes a snapshot from the channel's head and the given packages, signs it, uploads both to the
    publisher agent and has it committed, whole or not at all.
  - If somebody else publishes meanwhile, it composes again on the new head, so nobody's packages are lost.
  - Packages that the channel has already are left out; if it has all of them, nothing happens.
author: mistralrs-rpm
options:
  packages:
    description: The signed packages, as Package records; each path is a file on the signer.
    type: list
    elements: dict
    required: true
  channel:
    description: The channel's name, as the publisher agent knows it.
    type: str
    required: true
  location:
    description: Where the signer reads the channel, a folder or an http(s) URL.
    type: str
    required: true
  root:
    description: The signer's root. The snapshot is composed in its folder C(compose).
    type: path
    required: true
  home:
    description: The GnuPG home with the signing subkey.
    type: path
    required: true
  passphrase_file:
    description: A file whose first line is the key's passphrase.
    type: path
  public_key:
    description: The armored public key that everyone trusts.
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
  reason:
    description: Why the snapshot is made; it is told in snapshot.json and in the agent's journal.
    type: str
    default: release
attributes:
  check_mode:
    description: Says what would be added; asks the agent for the head and changes nothing.
    support: full
  diff_mode:
    description: Shows the channel's packages before and after.
    support: full
"""

EXAMPLES = r"""
- name: Publish what was signed
  channel_snapshot:
    packages: "{{ signed.results | map(attribute='package') }}"
    channel: stable
    location: https://rpm.example.org/fedora/43/x86_64
    root: /var/lib/mistralrs-rpm/signer
    home: /var/lib/mistralrs-rpm/signer/gnupg
    public_key: /var/lib/mistralrs-rpm/signer/public.asc
    publisher:
      rsh: [ssh, -oBatchMode=yes]
      host: gitea_ci@rpm.example.org
    reason: release 0.9.2
  register: published
"""

RETURN = r"""
head:
  description: The id of the channel's snapshot afterwards.
  returned: success
  type: str
snapshot:
  description: The Snapshot record of the new snapshot; empty where none was made.
  returned: success
  type: dict
url:
  description: Where the head's snapshot is, below O(location); empty for an empty channel.
  returned: success
  type: str
packages:
  description: The Package records that were given; after success the channel has them all.
  returned: success
  type: list
  elements: dict
added:
  description: The file names that were added, or in check mode would be.
  returned: success
  type: list
  elements: str
stage:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.channel import Channel
from ansible.module_utils.pipeline.errors import PipelineError
from ansible.module_utils.pipeline.publisher import Publisher
from ansible.module_utils.pipeline.records import Package
from ansible.module_utils.pipeline.snapshot import Signer, publish


def main():
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "dict", "required": True},
            "channel": {"type": "str", "required": True},
            "location": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "home": {"type": "path", "required": True},
            # The file's name, not the secret.
            "passphrase_file": {"type": "path", "no_log": False},
            "public_key": {"type": "path", "required": True},
            "publisher": {
                "type": "dict",
                "required": True,
                "options": {
                    "rsh": {"type": "list", "elements": "str", "required": True},
                    "host": {"type": "str", "required": True},
                },
            },
            "reason": {"type": "str", "default": "release"},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        # 1. Who signs, who publishes, and what.
        packages = [Package.from_dict(package) for package in p["packages"]]
        passphrase_file = Path(p["passphrase_file"]) if p["passphrase_file"] else None
        signer = Signer(Path(p["home"]), passphrase_file, Path(p["public_key"]))
        agent = Publisher([str(word) for word in p["publisher"]["rsh"]], str(p["publisher"]["host"]))
        # 2. Compose, sign, upload, commit.
        done = publish(
            str(p["channel"]),
            packages,
            channel=Channel(str(p["location"]), signer.public_key),
            agent=agent,
            signer=signer,
            root=Path(p["root"]),
            reason=str(p["reason"]),
            check=module.check_mode,
        )
    except PipelineError as error:
        module.fail_json(**error.failure())
    # 3. Tell.
    added = [name for name in done.after if name not in done.before]
    url = f"{p['location'].rstrip('/')}/snapshots/{done.head}/" if done.head else ""
    if done.snapshot:
        result = f"{p['channel']} {done.head}: {len(added)} added, {len(done.after)} packages"
    else:
        result = f"would add {', '.join(added)}" if added else "all packages are published"
    module.exit_json(
        changed=done.changed,
        head=done.head,
        snapshot=done.snapshot.to_dict() if done.snapshot else {},
        url=url,
        packages=[package.to_dict() for package in packages],
        added=added,
        diff={
            "before": "".join(f"{name}\n" for name in done.before),
            "after": "".join(f"{name}\n" for name in done.after),
        },
        stage={"name": "publish", "flavour": "", "result": result, "where": url},
    )


if __name__ == "__main__":
    main()
