#!/usr/bin/python
"""Package: an unsigned RPM from the artifact that a builder handed over."""

DOCUMENTATION = r"""
module: rpm_package
short_description: Package an artifact as an RPM, on the signer
description:
  - Takes what builders handed over with M(artifact_handover). Refuses a file, name, size, manifest or binary that does
    not fit the source and the flavour that the signer asked for.
  - With O(agreement) above 1, fails unless that many builders built the same bytes, and names the crate that differs.
  - Runs C(rpmbuild) on the project's spec in a sandbox, reads the package back and checks its name, version and commit.
  - The same inputs give the same bytes. An existing package of the same inputs is not built again.
author: mistralrs-rpm
options:
  handed:
    description: What was handed over, for each builder.
    type: list
    elements: dict
    required: true
    suboptions:
      builder:
        description: The builder's name, for messages.
        type: str
        required: true
      file:
        description: The file on the signer.
        type: path
        required: true
  source:
    description: The Source record that the signer resolved.
    type: dict
    required: true
  flavour:
    description: The Flavour record, the row of the table.
    type: dict
    required: true
  agreement:
    description: The number of builders that must have built the same bytes.
    type: int
    default: 1
  root:
    description: The signer's root. Packages are in its folder C(packages).
    type: path
    required: true
  spec_folder:
    description: The project's folder C(rpm).
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
    description: Reports whether a package would be built. What was handed over must exist.
    support: full
  diff_mode:
    description: Shows the package's name and the digest of its file.
    support: full
"""

EXAMPLES = r"""
- name: Package the binary
  rpm_package:
    handed: [{builder: builder-1, file: "{{ signer_root }}/incoming/builder-1/ada-0.9.2-1.fc43.tar"}]
    source: "{{ resolved.source }}"
    flavour: "{{ row }}"
    root: "{{ signer_root }}"
    spec_folder: "{{ project_root }}/rpm"
    dist: "{{ dist }}"
  register: packaged
"""

RETURN = r"""
package:
  description:
    - The Package record (name, version, release, arch, commit, path, sha256, size), read back from the RPM.
    - In check mode path and sha256 are empty if the package would be built.
  returned: success
  type: dict
version_line:
  description: The line that C(mistralrs --version) of the packaged binary prints.
  returned: success
  type: str
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.records import Flavour, Source
from ansible.module_utils.pipeline.base.text import size
from ansible.module_utils.pipeline.build.agreement import Built, agreed
from ansible.module_utils.pipeline.package.handover import UNITS, take
from ansible.module_utils.pipeline.package.rpm import Packaging, alone
from ansible.module_utils.pipeline_module import ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "handed": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {"builder": {"type": "str", "required": True}, "file": {"type": "path", "required": True}},
    },
    "source": {"type": "dict", "required": True},
    "flavour": {"type": "dict", "required": True},
    "agreement": {"type": "int", "default": 1},
    "root": {"type": "path", "required": True},
    "spec_folder": {"type": "path", "required": True},
    "package_release": {"type": "str", "default": "1"},
    "dist": {"type": "str", "required": True},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    source, flavour, root = Source.from_dict(p["source"]), Flavour.from_dict(p["flavour"]), Path(p["root"])
    with alone(root / "rpmbuild" / flavour.name) as topdir:
        # 1. Take what the builders handed over.
        handed = [
            take(Path(row["file"]), topdir / f"handed-{place}", row["builder"], source, flavour)
            for place, row in enumerate(p["handed"])
        ]
        # 2. Compare the builders.
        built = [Built(one.builder, one.files, one.binary, one.folder / UNITS) for one in handed]
        line = agreed(built, p["agreement"], flavour.name)

        # 3. Look for an existing package of these inputs, or build one.
        packaging = Packaging(handed[0], root, Path(p["spec_folder"]), p["package_release"], p["dist"])
        package = packaging.finished()
        changed = package is None
        if package is None:
            package = packaging.expected() if module.check_mode else packaging.build(topdir)
        elif not module.check_mode:
            # Renew its time: pruning keeps the packages in use by it.
            Path(package.path).touch()

    # 4. Report.
    name, digest = package.filename, package.sha256
    summary = f"{name}, {size(package.size)}" if digest else f"would build {name}"
    return {
        "changed": changed,
        "package": package.to_dict(),
        "version_line": f"mistralrs {handed[0].artifact.crate_version}",
        "diff": {
            "before": "" if changed else f"{name} {digest}\n",
            "after": f"{name} {digest or 'to be built'}\n",
        },
        "step": step(
            "package", f"{summary}{f'; agreed: {line}' if line else ''}", flavour=flavour.name, where=package.path
        ),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
