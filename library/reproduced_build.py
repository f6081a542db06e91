#!/usr/bin/python
"""Reproduce: the second root of a builder, and the comparison of two builds."""

DOCUMENTATION = r"""
module: reproduced_build
short_description: Build again from nothing in another folder, and compare the bytes
description:
  - With O(state=prepared) it creates a second root C(reproduce) below the builder's root, with an empty target
    directory, copies of the downloads and no compile cache. M(cargo_build) and M(rpm_package) then run there.
  - With O(state=compared) it compares the binaries and the unsigned packages of both builds and writes a report to
    the builder's folder C(log). It fails if a byte differs, and names the sections and crates that differ.
  - With O(state=absent) it removes the second root.
author: mistralrs-rpm
options:
  state:
    description: The step to run.
    type: str
    choices: [prepared, compared, absent]
    required: true
  artifacts:
    description: The Artifact records of the first and the second build. Required to compare.
    type: list
    elements: dict
  packages:
    description: The Package records of the first and the second build. Required to compare.
    type: list
    elements: dict
extends_documentation_fragment: [builder_root, no_diff]
attributes:
  check_mode:
    description: Reports whether a second root would be created or removed; a comparison still writes its report.
    support: full
"""

EXAMPLES = r"""
- name: Create a second root
  reproduced_build:
    root: /var/lib/mistralrs-rpm
    state: prepared
  register: second

- name: Compare
  reproduced_build:
    root: /var/lib/mistralrs-rpm
    state: compared
    artifacts: ["{{ first.artifact }}", "{{ built.artifact }}"]
    packages: ["{{ first.package }}", "{{ packaged.package }}"]

- name: Remove the second root
  reproduced_build:
    root: /var/lib/mistralrs-rpm
    state: absent
"""

RETURN = r"""
root:
  description: The second root.
  returned: success
  type: str
comparisons:
  description: For the binary and the package both digests; if they differ, also sections, strings and crates.
  returned: with O(state=compared), also when the bytes differ
  type: list
  elements: dict
step:
  description: The row of the run's summary table.
  returned: with O(state=compared), success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.records import Artifact, Package
from ansible.module_utils.pipeline.build import reproduce
from ansible.module_utils.pipeline_module import BUILDER_ROOT, ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    **BUILDER_ROOT,
    "state": {"type": "str", "choices": ["prepared", "compared", "absent"], "required": True},
    "artifacts": {"type": "list", "elements": "dict"},
    "packages": {"type": "list", "elements": "dict"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    root = Path(p["root"])
    second = reproduce.second_root(root)
    # 1. Create or remove the second root.
    if p["state"] != "compared":
        changed = p["state"] == "prepared" or second.exists()
        if changed and not module.check_mode:
            (reproduce.prepare if p["state"] == "prepared" else reproduce.remove)(root)
        return {"changed": changed, "root": str(second)}
    # 2. Compare, and write the report.
    artifacts = [Artifact.from_dict(data) for data in p["artifacts"]]
    packages = [Package.from_dict(data) for data in p["packages"]]
    comparisons, report = reproduce.compared(root, artifacts, packages)
    # 3. Fail if a byte differs.
    reproduce.refuse(comparisons, str(report))
    return {
        "changed": False,
        "root": str(second),
        "comparisons": [c.to_dict() for c in comparisons],
        "step": step(
            "reproduce",
            f"binary {artifacts[0].sha256[:16]}, package {packages[0].sha256[:16]}: identical",
            flavour=artifacts[0].flavour.name,
            where=report,
        ),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC, required_if=[("state", "compared", ("artifacts", "packages"))])


if __name__ == "__main__":
    main()
