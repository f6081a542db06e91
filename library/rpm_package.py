#!/usr/bin/python
"""Package: an unsigned RPM from what a build left."""

DOCUMENTATION = r"""
module: rpm_package
short_description: Package a built binary as an RPM
description:
  - Runs C(rpmbuild) on the project's spec with the artifact's binary, licence and chat templates, reads the
    package back and checks that it is what was asked for.
  - The same inputs give the same bytes. A package that is already there for these inputs is not built again.
author: mistralrs-rpm
options:
  artifact:
    description: The Artifact record, as the build stage returns it.
    type: dict
    required: true
  root:
    description: The builder's root. Packages are kept in its folder C(packages).
    type: path
    required: true
  spec_folder:
    description: This project's folder C(rpm), or a copy of it on the builder.
    type: path
    required: true
  package_release:
    description: The package's release number. Raise it to publish the same version again.
    type: str
    default: "1"
  dist:
    description: What follows the release number, such as V(.fc43).
    type: str
    required: true
attributes:
  check_mode:
    description: Says whether a package would be built; O(artifact) has to exist.
    support: full
  diff_mode:
    description: Shows the package's name and the digest of its file.
    support: full
"""

EXAMPLES = r"""
- name: Package the build
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
    - In check mode, path and sha256 are empty where the package is still to be built.
  returned: success
  type: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Artifact
from ansible.module_utils.pipeline.package.rpm import Packaging


def main():
    module = AnsibleModule(
        argument_spec={
            "artifact": {"type": "dict", "required": True},
            "root": {"type": "path", "required": True},
            "spec_folder": {"type": "path", "required": True},
            "package_release": {"type": "str", "default": "1"},
            "dist": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        # 1. What is wanted, and whether it is there.
        packaging = Packaging(
            artifact=Artifact.from_dict(p["artifact"]),
            root=Path(p["root"]),
            spec_folder=Path(p["spec_folder"]),
            package_release=str(p["package_release"]),
            dist=str(p["dist"]),
        )
        package = packaging.finished()
        changed = package is None
        # 2. Build it. One that is there is about to be used: pruning goes by its time.
        if package is None:
            package = packaging.expected() if module.check_mode else packaging.build()
        elif not module.check_mode:
            Path(package.path).touch()
    except PipelineError as error:
        module.fail_json(**error.failure())
    # 3. Tell.
    name, digest = package.filename, package.sha256
    module.exit_json(
        changed=changed,
        package=package.to_dict(),
        diff={
            "before": "" if changed else f"{name} {digest}\n",
            "after": f"{name} {digest or 'to be built'}\n",
        },
        step={
            "name": "package",
            "flavour": packaging.artifact.flavour.name,
            "result": f"{name}, {package.size / 1e6:.1f} MB" if digest else f"would build {name}",
            "where": package.path,
        },
    )


if __name__ == "__main__":
    main()
