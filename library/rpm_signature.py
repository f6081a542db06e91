#!/usr/bin/python
"""Sign: a package with the signer's signature."""

DOCUMENTATION = r"""
module: rpm_signature
short_description: Sign a package and verify what came out
description:
  - Signs a copy of an unsigned package, and verifies the copy with rpm while every digest and signature is
    required and the trusted key alone is known. The package itself stays as it is.
  - A package that was signed before is recognised by its digest, and not signed again as long as the key that did it is
    trusted, also when another key signs by now.
author: mistralrs-rpm
options:
  package:
    description: The Package record; its path is the unsigned file on the signer.
    type: dict
    required: true
extends_documentation_fragment: [signer]
attributes:
  check_mode:
    description: Says whether the package would be signed; one that is still to be built counts as yes.
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
  description: The Package record of the signed file; of the unsigned one where check mode would sign it.
  returned: success
  type: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.pipeline.base.records import Package
from ansible.module_utils.pipeline.sign.rpm_signature import sign_package
from ansible.module_utils.pipeline_module import SIGNER, run, step

ARGUMENT_SPEC = {"package": {"type": "dict", "required": True}, **SIGNER}


def work(module):
    unsigned, signer = Package.from_dict(module.params["package"]), module.params["signer"]
    done = sign_package(
        unsigned,
        Path(signer["root"]),
        home=Path(signer["home"]),
        passphrase_file=Path(signer["passphrase_file"]) if signer["passphrase_file"] else None,
        trusted_keys=Path(signer["trusted_keys"]),
        check=module.check_mode,
    )
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


def main():
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
