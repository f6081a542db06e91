#!/usr/bin/python
"""Hand over: lay an artifact ready for the signer, and bring it there."""

DOCUMENTATION = r"""
module: artifact_handover
short_description: Hand an artifact over to the signer
description:
  - Writes the binary, the licence, the chat templates and the manifest of an artifact into one tar file,
    C(<root>/handover/<name>.tar). The same artifact gives the same bytes.
  - With O(dest) its action plugin copies the file to the machine that runs Ansible, up to a size limit, unless it is
    there already.
author: mistralrs-rpm
options:
  artifact:
    description: The Artifact record, as M(cargo_build) returns it.
    type: dict
    required: true
  name:
    description: The file's name without C(.tar), which the signer chooses.
    type: str
    required: true
  units:
    description:
      - Add the digest of each compiled unit, so that the signer can name the crate that differs between builders.
    type: bool
    default: false
  dest:
    description: The file on the machine that runs Ansible. Without it the signer reads the builder's own file.
    type: path
extends_documentation_fragment: [builder_root, no_diff]
attributes:
  check_mode:
    description: Writes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Hand the artifact over
  artifact_handover:
    artifact: "{{ built.artifact }}"
    root: "{{ builder_root }}"
    name: ada-0.9.2-1.fc43
    dest: "{{ signer_root }}/incoming/builder-1/ada-0.9.2-1.fc43.tar"
"""

RETURN = r"""
file:
  description: The file on the builder; empty in check mode.
  returned: success
  type: str
sha256:
  description: Its SHA-256; empty in check mode.
  returned: success
  type: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.records import Artifact, sha256_file
from ansible.module_utils.pipeline.build.agreement import units_of
from ansible.module_utils.pipeline.package.handover import pack
from ansible.module_utils.pipeline_module import BUILDER_ROOT, ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    **BUILDER_ROOT,
    "artifact": {"type": "dict", "required": True},
    "name": {"type": "str", "required": True},
    "units": {"type": "bool", "default": False},
    "dest": {"type": "path"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    artifact, root = Artifact.from_dict(p["artifact"]), Path(p["root"])
    if module.check_mode:
        return {"changed": False, "file": "", "sha256": ""}
    # 1. List the digests of the units, if builders are compared.
    units = units_of(artifact) if p["units"] else ""
    # 2. Write the file.
    file = pack(artifact, root, p["name"], units)
    return {"changed": False, "file": str(file), "sha256": sha256_file(file)}


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
