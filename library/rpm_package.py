#!/usr/bin/python
"""Package: an unsigned RPM from a built binary."""

DOCUMENTATION = r"""
module: rpm_package
short_description: Package a built binary as an RPM
description:
  - Runs C(rpmbuild) on the project's spec with the artifact's binary, licence and chat templates, reads the package
    back and checks its name, version and commit.
  - The same inputs give the same bytes. An existing package of the same inputs is not built again.
author: mistralrs-rpm
options:
  artifact:
    description: The Artifact record, as M(cargo_build) returns it.
    type: dict
    required: true
  root:
    description: The builder's root. Packages are in its folder C(packages).
    type: path
    required: true
  spec_folder:
    description: The project's folder C(rpm), or a copy of it on the builder.
    type: path
    required: true
  package_release:
    description: The package's release number. Raise it to publish the same version again.
    type: str
    default: "1"
  dist:
    description: The suffix of the release number, such as V(.fc43).
    type: str
    required: true
attributes:
  check_mode:
    description: Reports whether a package would be built. O(artifact) must exist.
    support: full
  diff_mode:
    description: Shows the package's name and the digest of its file.
    support: full
"""

EXAMPLES = r"""
- name: Package the binary
  rpm_package:
    artifact: "{{ built.artifact }}"
    root: "{{ builder_root }}"
    spec_folder: "{{ project_root }}/rpm"
    dist: "{{ dist }}"
  register: packaged
"""

RETURN = r"""
package:
  description:
    - The Package record (name, version, release, arch, commit, path, sha256, size).
    - In check mode path and sha256 are empty if the package would be built.
  returned: success
  type: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.records import Artifact
from ansible.module_utils.pipeline.base.text import size
from ansible.module_utils.pipeline.package.rpm import Packaging
from ansible.module_utils.pipeline_module import ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "artifact": {"type": "dict", "required": True},
    "root": {"type": "path", "required": True},
    "spec_folder": {"type": "path", "required": True},
    "package_release": {"type": "str", "default": "1"},
    "dist": {"type": "str", "required": True},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    # 1. Look for an existing package of these inputs.
    packaging = Packaging(
        artifact=Artifact.from_dict(p["artifact"]),
        root=Path(p["root"]),
        spec_folder=Path(p["spec_folder"]),
        package_release=p["package_release"],
        dist=p["dist"],
    )
    package = packaging.finished()
    changed = package is None

    # 2. Build one, or renew the time of the existing one: pruning keeps the packages in use by it.
    if package is None:
        package = packaging.expected() if module.check_mode else packaging.build()
    elif not module.check_mode:
        Path(package.path).touch()

    # 3. Report.
    name, digest = package.filename, package.sha256
    summary = f"{name}, {size(package.size)}" if digest else f"would build {name}"
    return {
        "changed": changed,
        "package": package.to_dict(),
        "diff": {
            "before": "" if changed else f"{name} {digest}\n",
            "after": f"{name} {digest or 'to be built'}\n",
        },
        "step": step("package", summary, flavour=packaging.artifact.flavour.name, where=package.path),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
