#!/usr/bin/python
"""Audit: is the binary what its manifest records?"""

DOCUMENTATION = r"""
module: binary_audit
short_description: Fail for a binary that must not be packaged
description:
  - Reads the GPU architectures, the needed libraries, the library paths and the hardening of the binary, runs it for
    its version, commit and features, and fails with every finding that does not fit its flavour.
  - The binary runs in a sandbox without a network, and so do the programs that read it.
  - If qemu-user is installed, it also runs the binary on an emulated processor with only the baseline's instructions.
  - A size far from the last build's, and a path of the builder in the binary, are warnings.
  - Without NVIDIA's driver the binary runs with a stub of libcuda.
author: mistralrs-rpm
options:
  artifact:
    description: The Artifact record, as M(cargo_build) returns it.
    type: dict
    required: true
  toolkit:
    description: The CUDA toolkit of the build. The binary runs with its libraries and its stub.
    type: dict
    default: {}
extends_documentation_fragment: [trust, sandbox, no_diff]
attributes:
  check_mode:
    description: The same, but the manifest of a binary that fails stays.
    support: full
"""

EXAMPLES = r"""
- name: Audit the binary
  binary_audit:
    artifact: "{{ built.artifact }}"
    toolkit: "{{ cuda.toolkit }}"
    trust: release
"""

RETURN = r"""
findings:
  description: The checks, each with check, found, needed, fits, remedy and warning.
  returned: when the binary was read
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
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.findings import refuse
from ansible.module_utils.pipeline.base.records import Artifact
from ansible.module_utils.pipeline.package.audit import audit
from ansible.module_utils.pipeline.source.trust import targets_of
from ansible.module_utils.pipeline_module import SANDBOX, TRUST, ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "artifact": {"type": "dict", "required": True},
    "toolkit": {"type": "dict", "default": {}},
    **TRUST,
    **SANDBOX,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    artifact, toolkit = Artifact.from_dict(module.params["artifact"]), module.params["toolkit"]
    # 1. Read, run and judge.
    cuobjdump = f"{toolkit.get('folder', '')}/bin/cuobjdump" if artifact.flavour.cuda else ""
    root, p = Path(artifact.folder).parents[2], module.params
    targets = targets_of(root, p["trust"], shared=p["share_trust"])
    audited = audit(
        artifact,
        cuobjdump=cuobjdump,
        library_path=toolkit.get("library_path", []),
        targets=targets,
        protected=module.params["sandbox"] != "none",
    )
    rows = [finding.to_dict() for finding in audited.findings]

    # 2. Fail for a binary that does not fit.
    binary = Path(artifact.folder, artifact.binary)
    try:
        refuse(audited.findings, "the binary may not be packaged", str(binary), "Nothing was packaged or published")
    except PipelineError as error:
        # Without its manifest the artifact does not count as built: the next run compiles it again.
        if not module.check_mode:
            binary.with_name("manifest.json").unlink(missing_ok=True)
        module.fail_json(findings=rows, **error.failure())

    # 3. Warn and report.
    flavour = artifact.flavour.name
    for finding in audited.findings:
        if finding.warning:
            module.warn(f"{flavour}, {finding.check}: {finding.found}. {finding.remedy}")
    return {"changed": False, "findings": rows, "step": step("audit", audited.summary, flavour=flavour)}


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
