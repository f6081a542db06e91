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
  root:
    description: The signer's root. Signed packages are kept in its folder C(signed).
    type: path
    required: true
  home:
    description: The GnuPG home with the signing subkey.
    type: path
    required: true
  passphrase_file:
    description: A file whose first line is the key's passphrase.
    type: path
  trusted_keys:
    description: The armored public key that everyone trusts.
    type: path
    required: true
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
    root: /var/lib/mistralrs-rpm/signer
    home: /var/lib/mistralrs-rpm/signer/gnupg
    trusted_keys: /var/lib/mistralrs-rpm/signer/public.asc
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

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Package
from ansible.module_utils.pipeline.sign.rpm_signature import sign_package


def main():
    module = AnsibleModule(
        argument_spec={
            "package": {"type": "dict", "required": True},
            "root": {"type": "path", "required": True},
            "home": {"type": "path", "required": True},
            # The file's name, not the secret.
            "passphrase_file": {"type": "path", "no_log": False},
            "trusted_keys": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        unsigned = Package.from_dict(p["package"])
        done = sign_package(
            unsigned,
            Path(p["root"]),
            home=Path(p["home"]),
            passphrase_file=Path(p["passphrase_file"]) if p["passphrase_file"] else None,
            trusted_keys=Path(p["trusted_keys"]),
            check=module.check_mode,
        )
    except PipelineError as error:
        module.fail_json(**error.failure())
    name = unsigned.filename
    would = done.changed and module.check_mode
    module.exit_json(
        changed=done.changed,
        package=done.package.to_dict(),
        diff={
            "before": "" if done.changed else f"{name} {done.package.sha256}\n",
            "after": f"{name} {'to be signed' if would else done.package.sha256}\n",
        },
        step={
            "name": "sign",
            "flavour": unsigned.name.removeprefix("mistralrs-"),
            "result": f"would sign {name}" if would else f"{name} signed and verified",
            "where": done.package.path,
        },
    )


if __name__ == "__main__":
    main()
