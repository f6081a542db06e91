#!/usr/bin/python
"""A verifier's check: whether the proof could run on this host now."""

DOCUMENTATION = r"""
module: verifier_check
short_description: Check that a host can prove releases
description:
  - Makes a throw-away client as M(client_proof) does, without a repository, and looks for the programs that the proof
    runs in it. Compares the memory for the client's files with the expected packages.
  - Requires root, as the proof does. Changes nothing.
author: mistralrs-rpm
options:
  sizes:
    description: The expected sizes of the packages in bytes, by name, as M(repository_packages) returns them.
    type: dict
    default: {}
  system:
    description: The root of the system that the client copies.
    type: path
    default: /
  program:
    description: That system's dnf; by default the newest one.
    type: str
    default: ''
  report_only:
    description: A check that fails is not an error.
    type: bool
    default: false
extends_documentation_fragment: [read_only]
"""

EXAMPLES = r"""
- name: Try a throw-away client
  verifier_check:
  become: true
"""

RETURN = r"""
findings:
  description: The findings, each with check, found, needed, fits and remedy.
  returned: success
  type: list
  elements: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.findings import refuse, summary
from ansible.module_utils.pipeline.plan import room
from ansible.module_utils.pipeline.prove.readiness import client_finding
from ansible.module_utils.pipeline_module import ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "sizes": {"type": "dict", "default": {}},
    "system": {"type": "path", "default": "/"},
    "program": {"type": "str", "default": ""},
    "report_only": {"type": "bool", "default": False},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    # 1. Try what the proof does.
    sizes = {str(name): int(size) for name, size in p["sizes"].items()}
    findings = [client_finding(Path(p["system"]), p["program"]), room.in_client(room.memory(), sizes)]
    # 2. Fail with every check that failed.
    if not p["report_only"]:
        refuse(findings, "a release could not be proved on this verifier", "", "")
    return {
        "changed": False,
        "findings": [finding.to_dict() for finding in findings],
        "step": step("verifier", summary(findings)),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
