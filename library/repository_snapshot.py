#!/usr/bin/python
"""Publish, and take back: whatever is done to a channel is done by its next snapshot."""

DOCUMENTATION = r"""
module: repository_snapshot
short_description: Change what a channel holds, by a new signed snapshot
description:
  - Composes a snapshot from the channel's head and what is asked for, signs it, uploads it to the publisher agent
    and has it committed, whole or not at all.
  - If somebody else publishes meanwhile, it composes again on the new head, so nobody's packages are lost.
  - What is so already is left as it is.
author: mistralrs-rpm
options:
  state:
    description:
      - V(added) sees that the channel has O(packages). A name that it has with other bytes, or that was yanked, is
        refused. With O(hold) the snapshot is only staged, complete under its final URL; no client is told of it.
      - V(committed) publishes the staged O(transaction) of O(packages).
      - V(dropped) takes the staged O(transaction) back.
      - V(removed) takes the packages that O(names) mean out of the head. Older snapshots still have them; with O(yank)
        they leave the pool too.
      - V(rolled_back) publishes the packages of the older O(snapshot) again, but for those yanked since.
      - V(pruned) takes out of the head what O(retention) does not keep. Then the publisher agent removes old snapshots,
        and files of the pool that none names, by its own configuration.
      - V(verified) reads all metadata, signatures and packages, and fails if it finds anything that is not as it must
        be. Changes nothing.
    type: str
    choices: [added, committed, dropped, removed, rolled_back, pruned, verified]
    default: added
  packages:
    description: The signed packages, as Package records; each path is a file on the signer.
    type: list
    elements: dict
  hold:
    description: Stop when the snapshot is staged, and return RV(transaction).
    type: bool
    default: false
  transaction:
    description: The Transaction record that an earlier call with O(hold) returned.
    type: dict
  names:
    description:
      - Packages of the channel by file name, C(name-version-release.arch), or a pattern of either with C(*) and C(?).
      - One that means nothing is an error, and so is a pattern that would leave the channel without a package.
    type: list
    elements: str
  yank:
    description: Delete the packages from the pool too. Their names can never be published again in this channel.
    type: bool
    default: false
  snapshot:
    description: The id of the snapshot to go back to; the one before the head if empty.
    type: str
    default: ""
  retention:
    description: How many of each package name stay in the head, by rpm's order. One always does.
    type: dict
    suboptions:
      versions:
        description: How many distinct versions; 0 for all.
        type: int
        default: 0
      builds:
        description: How many builds, that is versions with their releases; 0 for all.
        type: int
        default: 0
      snapshots:
        description: Not used here. The publisher agent reads this and the next two from its own configuration.
        type: int
      days:
        description: Not used here.
        type: int
      grace_hours:
        description: Not used here.
        type: int
  dry_run:
    description: Only tell what would be done, as check mode does.
    type: bool
    default: false
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
  reason:
    description:
      - Why the snapshot is made; it is told in snapshot.json and in the agent's journal. If empty, it says what was
        done.
    type: str
    default: ""
attributes:
  check_mode:
    description: Says what would be added and removed; asks the agent and changes nothing.
    support: full
  diff_mode:
    description: Shows the channel's packages before and after.
    support: full
"""

EXAMPLES = r"""
- name: Stage what was signed, to be proved
  repository_snapshot: &channel
    packages: "{{ signed.results | map(attribute='package') }}"
    hold: true
    channel: stable
    location: https://rpm.example.org/fedora/43/x86_64
    root: /var/lib/mistralrs-rpm/signer
    home: /var/lib/mistralrs-rpm/signer/gnupg
    trusted_keys: /var/lib/mistralrs-rpm/signer/public.asc
    publisher:
      rsh: [ssh, -oBatchMode=yes]
      host: gitea_ci@rpm.example.org
    reason: release 0.9.2
  register: staged

- name: Publish it
  repository_snapshot:
    <<: *channel
    state: committed
    transaction: "{{ staged.transaction }}"

- name: Take a release out of the channel and delete its packages
  repository_snapshot:
    <<: *channel
    state: removed
    names: ["mistralrs-*-0.9.2-*"]
    yank: true
    reason: a token in its template

- name: Go back to what was published before
  repository_snapshot:
    <<: *channel
    state: rolled_back

- name: Keep ten builds of each flavour
  repository_snapshot:
    <<: *channel
    state: pruned
    retention: {builds: 10}
"""

RETURN = r"""
head:
  description: The id of the channel's snapshot afterwards; empty for an empty channel.
  returned: success
  type: str
snapshot:
  description: The Snapshot record of the snapshot that was made or committed; empty where none was.
  returned: success
  type: dict
transaction:
  description: The Transaction record of what was staged, for V(committed) and V(dropped); empty where nothing was.
  returned: success
  type: dict
url:
  description: Where RV(snapshot) is, or else the head; empty for an empty channel.
  returned: success
  type: str
packages:
  description: The Package records that were given; after V(added) and V(committed) the channel has them all.
  returned: success
  type: list
  elements: dict
added:
  description: The file names that were added, or would be.
  returned: success
  type: list
  elements: str
removed:
  description: The file names that were removed, or would be.
  returned: success
  type: list
  elements: str
pruned:
  description:
    - What the publisher agent removed or would remove, C(snapshots) and C(packages), and what it keeps for its grace
      time, C(waiting), by file name with the time of its end.
  returned: state is pruned
  type: dict
findings:
  description: What is not as it must be, each with its place and remedy.
  returned: state is verified, also when it fails
  type: list
  elements: str
table:
  description: What is taken away or brought back, as lines for a person; the run's summary prints them.
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
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Package, Transaction
from ansible.module_utils.pipeline.channel import wording
from ansible.module_utils.pipeline.channel.agent_client import Publisher
from ansible.module_utils.pipeline.channel.engine import Engine, Outcome, Signer
from ansible.module_utils.pipeline.channel.reader import Channel
from ansible.module_utils.pipeline.channel.retention import Retention

ROWS = {
    "added": "publish",
    "committed": "publish",
    "dropped": "drop",
    "removed": "remove",
    "rolled_back": "rollback",
    "pruned": "prune",
    "verified": "verify",
}


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": list(ROWS), "default": "added"},
            "packages": {"type": "list", "elements": "dict"},
            "hold": {"type": "bool", "default": False},
            "transaction": {"type": "dict"},
            "names": {"type": "list", "elements": "str"},
            "yank": {"type": "bool", "default": False},
            "snapshot": {"type": "str", "default": ""},
            "retention": {
                "type": "dict",
                "options": {
                    "versions": {"type": "int", "default": 0},
                    "builds": {"type": "int", "default": 0},
                    "snapshots": {"type": "int"},
                    "days": {"type": "int"},
                    "grace_hours": {"type": "int"},
                },
            },
            "dry_run": {"type": "bool", "default": False},
            "channel": {"type": "str", "required": True},
            "location": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "home": {"type": "path", "required": True},
            # The file's name, not the secret.
            "passphrase_file": {"type": "path", "no_log": False},
            "trusted_keys": {"type": "path", "required": True, "no_log": False},
            "publisher": {
                "type": "dict",
                "required": True,
                "options": {
                    "rsh": {"type": "list", "elements": "str", "required": True},
                    "host": {"type": "str", "required": True},
                },
            },
            "reason": {"type": "str", "default": ""},
        },
        required_if=[
            ("state", "added", ["packages"]),
            ("state", "committed", ["packages", "transaction"]),
            ("state", "dropped", ["transaction"]),
            ("state", "removed", ["names"]),
            ("state", "pruned", ["retention"]),
        ],
        supports_check_mode=True,
    )
    p = module.params
    try:
        # 1. Who signs, who publishes.
        passphrase_file = Path(p["passphrase_file"]) if p["passphrase_file"] else None
        signer = Signer(Path(p["home"]), passphrase_file, Path(p["trusted_keys"]))
        engine = Engine(
            str(p["channel"]),
            Channel(str(p["location"]), signer.trusted_keys),
            Publisher([str(word) for word in p["publisher"]["rsh"]], str(p["publisher"]["host"])),
            signer,
            Path(p["root"]),
        )
        packages = [Package.from_dict(package) for package in p["packages"] or []]
        if p["yank"] and not p["reason"]:
            raise PipelineError(
                "a yank needs a reason", remedy="Say why, for users and for the journal: -e reason='...'"
            )
        # 2. Do it.
        if p["state"] == "verified":
            verify(module, engine)
        done = change(engine, p, packages, check=module.check_mode or p["dry_run"])
    except PipelineError as error:
        module.fail_json(**error.failure())
    # 3. Tell.
    for note in done.notes:
        module.warn(note)
    shown = done.snapshot.id if done.snapshot else done.head
    url = f"{p['location'].rstrip('/')}/snapshots/{shown}/" if shown else ""
    module.exit_json(
        changed=done.changed,
        head=done.head,
        snapshot=done.snapshot.to_dict() if done.snapshot else {},
        transaction=done.transaction.to_dict() if done.transaction else {},
        url=url,
        packages=[package.to_dict() for package in packages],
        added=list(done.added),
        removed=list(done.removed),
        diff={
            "before": "".join(f"{name}\n" for name in done.before),
            "after": "".join(f"{name}\n" for name in done.after),
        },
        step={
            "name": "stage" if p["hold"] else "yank" if p["yank"] else ROWS[p["state"]],
            "flavour": "",
            "result": wording.result(p["state"], p["channel"], done),
            "where": url,
        },
        table=wording.listing(p["state"], p["channel"], done),
        **({"pruned": done.pruned} if p["state"] == "pruned" else {}),
    )


def change(engine: Engine, p, packages: list[Package], *, check: bool) -> Outcome:
    reason = str(p["reason"])
    match p["state"]:
        case "added":
            return engine.add(packages, reason=reason, hold=p["hold"], check=check)
        case "committed":
            return engine.commit(Transaction.from_dict(p["transaction"]), packages, check=check)
        case "dropped":
            return engine.drop(Transaction.from_dict(p["transaction"]), check=check)
        case "removed":
            return engine.remove([str(name).strip() for name in p["names"]], yank=p["yank"], reason=reason, check=check)
        case "rolled_back":
            return engine.rollback(str(p["snapshot"]), reason=reason, check=check)
        case _:
            retention = Retention(p["retention"]["versions"], p["retention"]["builds"])
            return engine.prune(retention, reason=reason, check=check)


def verify(module, engine: Engine) -> None:
    """Ends the module with what reading everything told."""
    verdict = engine.verify()
    findings = list(verdict.findings)
    if findings:
        what = "\n".join(findings)
        module.fail_json(msg=f"the channel {engine.name} is not as it must be:\n{what}", findings=findings)
    module.exit_json(
        changed=False,
        head=verdict.head,
        findings=findings,
        step={
            "name": "verify",
            "flavour": "",
            "result": wording.well(engine.name, verdict),
            "where": engine.channel.location,
        },
    )


if __name__ == "__main__":
    main()
