#!/usr/bin/python
"""The doctor's report: the findings of all hosts as JSON, and an error if one fails."""

DOCUMENTATION = r"""
module: doctor_report
short_description: Report every problem that would make a release fail
description:
  - Checks that the signer can package. Writes the findings of M(builder_check) and of the signer as one JSON file, then
    fails with every failed check.
  - Writes the file in either case, whole or not at all.
author: mistralrs-rpm
options:
  path:
    description: The file to write; its folder is created.
    type: path
    required: true
  source:
    description: The Source record that would be built; empty where it could not be resolved.
    type: dict
    default: {}
  signer:
    description: The findings about the signer's key.
    type: list
    elements: dict
    default: []
  failure:
    description: The failure that kept the builders from being checked, with C(task) and C(message); empty without one.
    type: dict
    default: {}
  builders:
    description: The names of the builders.
    type: list
    elements: str
    default: []
  answers:
    description: For each builder, in the same order, the registered result of a ping; empty for one that got none.
    type: list
    elements: dict
    default: []
  outcomes:
    description:
      - For each builder, in the same order, its fact C(outcomes). By flavour it has the check's C(findings), or C(task)
        and C(message) of a check that failed itself.
    type: list
    elements: dict
    default: []
  verifiers:
    description: The names of the verifiers.
    type: list
    elements: str
    default: []
  proofs:
    description:
      - For each verifier, in the same order, the C(findings) of M(verifier_check), or the C(message) of a check that
        failed itself; empty for one that gave no answer.
    type: list
    elements: dict
    default: []
extends_documentation_fragment: [no_diff]
attributes:
  check_mode:
    description: Writes nothing in check mode, and fails in the same way.
    support: full
"""

EXAMPLES = r"""
- name: Write the report, and fail if a check failed
  doctor_report:
    path: /var/tmp/doctor.json
    source: "{{ resolved.source }}"
    builders: "{{ groups.builders }}"
    answers: "{{ groups.builders | map('extract', hostvars) | map(attribute='answered', default={}) }}"
    outcomes: "{{ groups.builders | map('extract', hostvars) | map(attribute='outcomes', default={}) }}"
"""

RETURN = r"""
doctor:
  description:
    - The report (time, version, commit, fits, signer, builders, verifiers).
    - C(builders) has an entry for each builder and flavour (builder, flavour, fits, findings).
  returned: success
  type: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.findings import Finding
from ansible.module_utils.pipeline.check import doctor
from ansible.module_utils.pipeline.package.rpm import tools_finding
from ansible.module_utils.pipeline_module import ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "path": {"type": "path", "required": True},
    "source": {"type": "dict", "default": {}},
    "signer": {"type": "list", "elements": "dict", "default": []},
    "failure": {"type": "dict", "default": {}},
    "builders": {"type": "list", "elements": "str", "default": []},
    "answers": {"type": "list", "elements": "dict", "default": []},
    "outcomes": {"type": "list", "elements": "dict", "default": []},
    "verifiers": {"type": "list", "elements": "str", "default": []},
    "proofs": {"type": "list", "elements": "dict", "default": []},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p, path = module.params, Path(module.params["path"])
    # 1. The findings of the hosts.
    signer = [*(Finding.from_dict(row) for row in p["signer"]), tools_finding()]
    if p["failure"]:
        signer.append(doctor.unresolved(p["failure"]))
    hosts = zip(p["builders"], p["answers"], p["outcomes"], strict=True)
    builders = [entry for host in hosts for entry in doctor.builder_findings(*host)]
    verifiers = [doctor.verifier_findings(*host) for host in zip(p["verifiers"], p["proofs"], strict=True)]
    made = doctor.report(int(time.time()), p["source"], signer, builders, verifiers)
    # 2. Write them, whatever they are.
    if not module.check_mode:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.write(path)
        except OSError as error:
            reason = f"the report cannot be written: {error}"
            raise PipelineError(reason, str(path), "Name another file with -e report=") from error
    # 3. Fail if a check failed.
    made.refuse(str(path))
    return {"changed": False, "doctor": made.to_dict(), "step": step("doctor", made.summary, where=path)}


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
