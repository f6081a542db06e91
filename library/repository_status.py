#!/usr/bin/python
"""Status: the contents and faults of a repository."""

DOCUMENTATION = r"""
module: repository_status
short_description: Report the contents and faults of a repository
description:
  - Reads the repository as clients do, asks the agent, and checks the signing keys.
  - Compares the head with what the signer knows, and remembers it outside check mode.
  - Returns a finding for each check and does not fail for one that is bad, so that every channel is reported. Let
    M(ansible.builtin.assert) test RV(findings).
  - Read-only.
author: mistralrs-rpm
options:
  deep:
    description: Let the agent read every byte of the pool and verify every signature.
    type: bool
    default: false
extends_documentation_fragment: [signer, repository, read_only]
"""

EXAMPLES = r"""
- name: Check the stable channel
  repository_status:
    signer: "{{ signer }}"
    repository: "{{ repository }}"
  register: status
"""

RETURN = r"""
status:
  description:
    - C(channel), C(head), C(findings), C(packages) (Package records of the head), C(host) and C(hold).
    - C(hold) is why, by whom and since when releases are on hold; empty if they are not.
    - C(host) is the agent's answer (snapshots, pool, orphans, missing, incoming, journal, refusals, room); empty if it
      did not answer.
  returned: success
  type: dict
findings:
  description: Each check with the value found, the value needed, if it fits, and the remedy.
  returned: success
  type: list
  elements: dict
table:
  description: The status as lines for the run's summary.
  returned: success
  type: list
  elements: str
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from collections.abc import Callable
from typing import Any, TypeVar

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base import findings
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.channel import status
from ansible.module_utils.pipeline.channel.agent_client import AgentClient
from ansible.module_utils.pipeline.channel.heads import Memory
from ansible.module_utils.pipeline.channel.hold import Hold
from ansible.module_utils.pipeline.channel.reader import Repository
from ansible.module_utils.pipeline.channel.signatures import check_head
from ansible.module_utils.pipeline.sign import key_checks
from ansible.module_utils.pipeline.sign.signer import Signer
from ansible.module_utils.pipeline_module import REPOSITORY, SIGNER, ArgumentSpec, run, step

T = TypeVar("T")
ARGUMENT_SPEC: ArgumentSpec = {"deep": {"type": "bool", "default": False}, **SIGNER, **REPOSITORY}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    channel, location = str(p["repository"]["channel"]), str(p["repository"]["location"])
    # 1. The repository, its agent and the signer's keys.
    signer, agent = Signer.of(p["signer"]), AgentClient.of(p["repository"])
    repository = Repository(location, signer.trusted_keys)
    memory = Memory.of(signer, channel, location, module.warn, keep=not module.check_mode)
    # 2. Their status.
    found = status.status_of(
        channel,
        attempt(repository.read),
        attempt(agent.status, channel),
        [*key_checks.findings(signer), check_head(channel, repository, signer.home)],
        attempt(agent.verify, channel) if p["deep"] else None,
        attempt(Repository(location, signer.trusted_keys, memory).head_state),
        attempt(Hold.of, signer.root),
    )
    # 3. The result.
    bad = [finding.check for finding in found.findings if not finding.fits]
    return {
        "changed": False,
        "status": found.to_dict(),
        "findings": [finding.to_dict() for finding in found.findings],
        "table": [*status.lines(found), "", *findings.table(found.findings)],
        "step": step("status", f"{channel}: {', '.join(bad)} wrong" if bad else f"{channel} is well", where=location),
    }


def attempt(ask: Callable[..., T], *words: object) -> T | PipelineError:
    """The answer, or the error as a value: one failing part does not hide the others."""
    try:
        return ask(*words)
    except PipelineError as error:
        return error


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
