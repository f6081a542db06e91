#!/usr/bin/python
"""Audit: is the binary what its manifest says?"""

DOCUMENTATION = r"""
module: binary_audit
short_description: Refuse a binary that must not be packaged
description:
  - Reads the GPU architectures, the needed libraries, the library paths and the hardening out of the binary, starts it
    for its version, commit and features, and fails with everything that does not fit its flavour.
  - Where qemu-user is installed it also starts it on an emulated processor that has the baseline's instructions alone.
  - A size far from the last build's, and a path of the builder in the binary, are warnings.
  - Where no driver is installed, a stub of libcuda stands in so that the binary starts.
author: mistralrs-rpm
options:
  artifact:
    description: The Artifact record, as M(cargo_build) returns it.
    type: dict
    required: true
  toolkit:
    description: The CUDA toolkit that it was built with; its libraries and stub are used to start it.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Audit the binary
  binary_audit:
    artifact: "{{ built.artifact }}"
    toolkit: "{{ cuda.toolkit }}"
"""

RETURN = r"""
findings:
  description: Each check with what was found, what is needed, whether that fits, the remedy, and if it is a warning.
  returned: always
  type: list
  elements: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.findings import refuse
from ansible.module_utils.pipeline.base.records import Artifact
from ansible.module_utils.pipeline.package import audit


def main():
    module = AnsibleModule(
        argument_spec={
            "artifact": {"type": "dict", "required": True},
            "toolkit": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    toolkit = module.params["toolkit"]
    findings = []
    try:
        artifact = Artifact.from_dict(module.params["artifact"])
        # 1. Read, start and judge.
        cuobjdump = f"{toolkit.get('folder', '')}/bin/cuobjdump" if artifact.flavour.cuda else ""
        audited = audit.examine(artifact, cuobjdump=cuobjdump, library_path=toolkit.get("library_path", []))
        findings = audited.findings
        # 2. Refuse.
        where = str(Path(artifact.folder) / artifact.binary)
        refuse(findings, "the binary may not be packaged", where, "Nothing was packaged or published")
    except PipelineError as error:
        # The next run builds it again, and does not take it for what it is not.
        if findings and not module.check_mode:
            Path(artifact.folder, "manifest.json").unlink(missing_ok=True)
        module.fail_json(findings=[f.to_dict() for f in findings], **error.failure())
    # 3. Warn, report.
    for finding in findings:
        if finding.warning:
            module.warn(f"{artifact.flavour.name}, {finding.check}: {finding.found}. {finding.remedy}")
    module.exit_json(
        changed=False,
        findings=[f.to_dict() for f in findings],
        step={"name": "audit", "flavour": artifact.flavour.name, "result": audited.summary, "where": ""},
    )


if __name__ == "__main__":
    main()
