#!/usr/bin/python
"""Change a repository: stage, publish, drop, remove, roll back, prune, verify."""

DOCUMENTATION = r"""
module: repository_snapshot
short_description: Change a repository by a new signed snapshot
description:
  - Composes a snapshot from the repository's head and the requested change, signs it and uploads it to the agent, which
    publishes it whole or not at all.
  - Compares the head with what the signer knows, before and after. An older, rewritten or unrelated head is an error,
    unless O(signer.accept_head) names it; known yanks that it lacks are yanked again.
  - If another publisher is faster, the snapshot is composed again on the new head, so that no package is lost.
  - Idempotent. A repository that is as requested stays as it is.
author: mistralrs-rpm
options:
  state:
    description:
      - V(published) adds O(packages) to the head. A file name that the repository has with other bytes, or that was
        yanked, is an error. With O(transaction), the snapshot that V(staged) left of O(packages) becomes the head.
      - V(staged) uploads the snapshot that V(published) would publish, complete under its final URL, and returns
        RV(transaction). Clients do not use it yet.
      - V(dropped) deletes the staged O(transaction).
      - V(removed) removes the packages that O(names) match from the head. Older snapshots keep them, except with
        O(yank), which deletes them from the pool.
      - V(rolled_back) publishes the packages of the older O(snapshot) again, except those yanked since.
      - V(pruned) removes from the head what O(retention) does not keep. Then the agent deletes old snapshots, and files
        of the pool that no snapshot names, by its own configuration.
      - V(verified) reads all metadata, signatures and packages, and fails if one of them is not intact. Read-only.
    type: str
    choices: [published, staged, dropped, removed, rolled_back, pruned, verified]
    default: published
  packages:
    description: The signed packages, as Package records; each path is a file on the signer.
    type: list
    elements: dict
  transaction:
    description: The Transaction record that V(staged) returned.
    type: dict
  names:
    description:
      - Packages by file name, C(name-version-release.arch), or a pattern of either with C(*) and C(?).
      - A name or pattern without a match is an error, and so is a pattern that would leave no package.
    type: list
    elements: str
  yank:
    description: Delete the packages from the pool too. Their names can never be published again in this repository.
    type: bool
    default: false
  snapshot:
    description: For V(rolled_back), the id of the snapshot; the parent of the head if empty.
    type: str
    default: ""
  retention:
    description: How many of each package name stay in the head, in rpm's order. One always stays.
    type: dict
    suboptions:
      versions:
        description: The number of distinct versions; 0 for all.
        type: int
        default: 0
      builds:
        description: The number of builds, that is versions with their releases; 0 for all.
        type: int
        default: 0
  reason:
    description: The reason in snapshot.json and in the agent's journal. If empty, a description of the change.
    type: str
    default: ""
extends_documentation_fragment: [signer, repository]
attributes:
  check_mode:
    description: Returns what would be added and removed; asks the agent and changes nothing.
    support: full
  diff_mode:
    description: Shows the repository's packages before and after.
    support: full
"""

EXAMPLES = r"""
- name: Stage the signed packages, to be proved
  repository_snapshot: &repository
    state: staged
    packages: "{{ signed.results | map(attribute='package') }}"
    signer: "{{ signer }}"
    repository: "{{ repository }}"
    reason: release 0.9.2
  register: staged

- name: Publish the staged snapshot
  repository_snapshot:
    <<: *repository
    state: published
    transaction: "{{ staged.transaction }}"

- name: Yank a release
  repository_snapshot:
    <<: *repository
    state: removed
    names: ["mistralrs-*-0.9.2-*"]
    yank: true
    reason: a token in its template

- name: Roll back to the snapshot before
  repository_snapshot:
    <<: *repository
    state: rolled_back

- name: Keep ten builds of each flavour
  repository_snapshot:
    <<: *repository
    state: pruned
    retention: {builds: 10}
"""

RETURN = r"""
head:
  description: The id of the repository's head afterwards; empty for an empty repository.
  returned: success
  type: str
snapshot:
  description: The Snapshot record of the new snapshot; empty without one.
  returned: success
  type: dict
transaction:
  description: The Transaction record of the staged snapshot, for V(published) and V(dropped); empty without one.
  returned: success
  type: dict
url:
  description: The location of RV(snapshot), or else of the head; empty for an empty repository.
  returned: success
  type: str
packages:
  description: The given Package records; after V(published) the repository has all of them.
  returned: success
  type: list
  elements: dict
added:
  description: The added file names.
  returned: success
  type: list
  elements: str
removed:
  description: The removed file names.
  returned: success
  type: list
  elements: str
pruned:
  description:
    - The C(snapshots) and C(packages) that the agent deleted, and those C(waiting) for the end of their grace time, by
      file name with that time.
  returned: state is pruned
  type: dict
findings:
  description: The faults, each with its place and remedy.
  returned: state is verified, also when it fails
  type: list
  elements: str
table:
  description: The removed and restored packages, as lines for the run's summary.
  returned: success
  type: list
  elements: str
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Package, Transaction
from ansible.module_utils.pipeline.channel import wording
from ansible.module_utils.pipeline.channel.agent_client import AgentClient
from ansible.module_utils.pipeline.channel.engine import Engine, Result
from ansible.module_utils.pipeline.channel.heads import Memory
from ansible.module_utils.pipeline.channel.reader import Repository
from ansible.module_utils.pipeline.channel.retention import Retention
from ansible.module_utils.pipeline.sign.signer import Signer
from ansible.module_utils.pipeline_module import REPOSITORY, SIGNER, ArgumentSpec, run, step

STEPS = {
    "published": "publish",
    "staged": "stage",
    "dropped": "drop",
    "removed": "remove",
    "rolled_back": "rollback",
    "pruned": "prune",
    "verified": "verify",
}
ARGUMENT_SPEC: ArgumentSpec = {
    "state": {"type": "str", "choices": list(STEPS), "default": "published"},
    "packages": {"type": "list", "elements": "dict"},
    "transaction": {"type": "dict"},
    "names": {"type": "list", "elements": "str"},
    "yank": {"type": "bool", "default": False},
    "snapshot": {"type": "str", "default": ""},
    "retention": {
        "type": "dict",
        "options": {"versions": {"type": "int", "default": 0}, "builds": {"type": "int", "default": 0}},
    },
    "reason": {"type": "str", "default": ""},
    **SIGNER,
    **REPOSITORY,
}
REQUIRED_IF = [
    ("state", "published", ["packages"]),
    ("state", "staged", ["packages"]),
    ("state", "dropped", ["transaction"]),
    ("state", "removed", ["names"]),
    ("state", "pruned", ["retention"]),
]


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    state, channel, location = p["state"], str(p["repository"]["channel"]), str(p["repository"]["location"])
    # 1. The signer, the repository and its agent.
    signer = Signer.of(p["signer"])
    memory = Memory.of(signer, channel, location, module.warn, keep=not module.check_mode)
    engine = Engine(channel, Repository(location, signer.trusted_keys, memory), AgentClient.of(p["repository"]), signer)
    if p["yank"] and not p["reason"]:
        raise PipelineError("a yank needs a reason", remedy="Give it, for users and for the journal: -e reason='...'")
    # 2. The change.
    if state == "verified":
        return verify(engine)
    packages = [Package.from_dict(package) for package in p["packages"] or []]
    done = change(engine, p, packages, check=module.check_mode)
    # 3. The result.
    for note in done.notes:
        module.warn(note)
    shown = done.snapshot.id if done.snapshot else done.head
    url = f"{location.rstrip('/')}/snapshots/{shown}/" if shown else ""
    return {
        "changed": done.changed,
        "head": done.head,
        "snapshot": done.snapshot.to_dict() if done.snapshot else {},
        "transaction": done.transaction.to_dict() if done.transaction else {},
        "url": url,
        "packages": [package.to_dict() for package in packages],
        "added": list(done.added),
        "removed": list(done.removed),
        "diff": {
            "before": "".join(f"{name}\n" for name in done.before),
            "after": "".join(f"{name}\n" for name in done.after),
        },
        "step": step("yank" if p["yank"] else STEPS[state], wording.summary(state, channel, done), where=url),
        "table": wording.listing(state, channel, done),
        **({"pruned": done.pruned} if state == "pruned" else {}),
    }


def change(engine: Engine, p: dict[str, Any], packages: list[Package], *, check: bool) -> Result:
    reason = str(p["reason"])
    match p["state"]:
        case "published" if p["transaction"] is not None:
            return engine.publish_staged(Transaction.from_dict(p["transaction"]), packages, check=check)
        case "published":
            return engine.publish(packages, reason=reason, check=check)
        case "staged":
            return engine.stage(packages, reason=reason, check=check)
        case "dropped":
            return engine.drop(Transaction.from_dict(p["transaction"]), check=check)
        case "removed":
            names = [str(name).strip() for name in p["names"]]
            return engine.remove(names, yank=p["yank"], reason=reason, check=check)
        case "rolled_back":
            return engine.rollback(str(p["snapshot"]), reason=reason, check=check)
        case _:
            return engine.prune(Retention(**p["retention"]), reason=reason, check=check)


def verify(engine: Engine) -> dict[str, Any]:
    """The result of a verification; PipelineError with its findings."""
    done = engine.verify()
    findings = list(done.findings)
    if findings:
        error = PipelineError(f"the repository of {engine.channel} is not intact:\n" + "\n".join(findings))
        error.details = {"findings": findings}
        raise error
    return {
        "changed": False,
        "head": done.head,
        "findings": findings,
        "step": step("verify", wording.verified(engine.channel, done), where=engine.repository.location),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC, required_if=REQUIRED_IF)


if __name__ == "__main__":
    main()
