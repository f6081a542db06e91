#!/usr/bin/python
"""Sign: add the signer's signature to a package."""

DOCUMENTATION = r"""
module: rpm_signature
short_description: Sign a package and verify the signature
description:
  - Refuses a package that is not in the signer's own folders, and one that is not what its record names.
  - Signs a copy of an unsigned package, and verifies the copy with rpm while every digest and signature is required and
    the trusted keys alone are known. The package itself stays as it is.
  - A signed copy of an earlier run is recognised by its digest and reused as long as its key is trusted, even if
    another key signs now.
author: mistralrs-rpm
options:
  package:
    description: The Package record; its path is the unsigned file on the signer.
    type: dict
    required: true
extends_documentation_fragment: [signer]
attributes:
  check_mode:
    description: Reports whether the package would be signed, which a package that is not built yet would be.
    support: full
  diff_mode:
    description: Shows the digest of the signed package.
    support: full
"""

EXAMPLES = r"""
- name: Sign the package
  rpm_signature:
    package: "{{ packaged.package }}"
    signer: "{{ signer }}"
  register: signed
"""

RETURN = r"""
package:
  description: The Package record of the signed file; in check mode of the unsigned one, if it would be signed.
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
from ansible.module_utils.pipeline.base.records import Package
from ansible.module_utils.pipeline.package.rpm import read_package
from ansible.module_utils.pipeline.sign.rpm_signature import require_own, sign_package
from ansible.module_utils.pipeline.sign.signer import Signer
from ansible.module_utils.pipeline_module import SIGNER, ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {"package": {"type": "dict", "required": True}, **SIGNER}


def work(module: AnsibleModule) -> dict[str, Any]:
    unsigned, signer = Package.from_dict(module.params["package"]), Signer.of(module.params["signer"])
    # 1. Only what this signer made is signed. In check mode there may be no file yet.
    if unsigned.path or not module.check_mode:
        require_own(unsigned, read_package(Path(unsigned.path)), signer)
    # 2. Sign a copy, or find it.
    done = sign_package(unsigned, signer, check=module.check_mode)
    name = unsigned.filename
    would = done.changed and module.check_mode
    return {
        "changed": done.changed,
        "package": done.package.to_dict(),
        "diff": {
            "before": "" if done.changed else f"{name} {done.package.sha256}\n",
            "after": f"{name} {'to be signed' if would else done.package.sha256}\n",
        },
        "step": step(
            "sign",
            f"would sign {name}" if would else f"{name} signed and verified",
            flavour=unsigned.name.removeprefix("mistralrs-"),
            where=done.package.path,
        ),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
