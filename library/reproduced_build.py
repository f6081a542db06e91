#!/usr/bin/python
"""Reproduce: the second root of a builder, and the comparison of what was built twice."""

DOCUMENTATION = r"""
module: reproduced_build
short_description: Build again from nothing in another folder, and compare the bytes
description:
  - With O(state=prepared) it makes a second root beside the builder's own, with an empty target directory, without a
    compile cache, and with copies of the downloads. M(cargo_build) and M(rpm_package) then work there. The account
    must be able to make a folder beside O(root).
  - With O(state=compared) it compares the binaries and the unsigned packages of both, leaves a report in the builder's
    folder C(log), and fails where a byte differs, naming where and which crates it comes from.
  - With O(state=absent) it takes the second root away.
author: mistralrs-rpm
options:
  root:
    description: The builder's root. The second one is C(reproduce) below it.
    type: path
    required: true
  state:
    description: What to do.
    type: str
    choices: [prepared, compared, absent]
    required: true
  artifacts:
    description: The Artifact records of both builds, the first one first. Needed to compare.
    type: list
    elements: dict
  packages:
    description: The Package records of both builds, in the same order. Needed to compare.
    type: list
    elements: dict
attributes:
  check_mode:
    description: Says whether a second root would be made or taken away; a comparison changes nothing but the report.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Make a second root
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

- name: Take the second root away
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
  description: For the binary and the package, both digests; where they differ, the sections, strings and crates.
  returned: with O(state=compared)
  type: list
  elements: dict
step:
  description: The row of the run's summary table.
  returned: with O(state=compared), success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Artifact, Package
from ansible.module_utils.pipeline.build import reproduce


def main():
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["prepared", "compared", "absent"], "required": True},
            "artifacts": {"type": "list", "elements": "dict"},
            "packages": {"type": "list", "elements": "dict"},
        },
        required_if=[("state", "compared", ("artifacts", "packages"))],
        supports_check_mode=True,
    )
    p = module.params
    root = Path(p["root"])
    second = reproduce.second_root(root)
    comparisons = []
    try:
        # 1. The second root comes or goes.
        if p["state"] != "compared":
            changed = p["state"] == "prepared" or second.exists()
            if changed and not module.check_mode:
                (reproduce.prepare if p["state"] == "prepared" else reproduce.remove)(root)
            module.exit_json(changed=changed, root=str(second))
        # 2. Compare, report.
        artifacts = [Artifact.from_dict(data) for data in p["artifacts"]]
        packages = [Package.from_dict(data) for data in p["packages"]]
        comparisons, report = reproduce.compared(root, artifacts, packages)
        # 3. Refuse.
        reproduce.refuse(comparisons, str(report))
    except PipelineError as error:
        module.fail_json(comparisons=[c.to_dict() for c in comparisons], **error.failure())
    module.exit_json(
        changed=False,
        root=str(second),
        comparisons=[c.to_dict() for c in comparisons],
        step={
            "name": "reproduce",
            "flavour": artifacts[0].flavour.name,
            "result": f"binary {artifacts[0].sha256[:16]}, package {packages[0].sha256[:16]}: the same again",
            "where": str(report),
        },
    )


if __name__ == "__main__":
    main()
