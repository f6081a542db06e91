#!/usr/bin/python
"""The life of a signing key: made, replaced, retired."""

DOCUMENTATION = r"""
module: signing_key
short_description: Make, replace and retire the signing key
description:
  - V(present) ensures that the signer's GnuPG home has a signing key, and that the file of trusted keys holds its
    public half. A new key is a certify-only primary key with a signing subkey. The home gets the subkey only; the
    primary's secret, with its revocation certificate, goes to O(primary), which the operator takes offline.
  - V(next) adds the next certificate, made or imported. It is trusted, and signs nothing yet.
  - V(scheduled) sets the day from which the next key signs. Between the two, the trusted keys must reach the clients;
    the playbook rotate_key.yml does all of this in order.
  - V(retired) removes a certificate from the home and from the trusted keys.
  - V(checked) is read-only and returns RV(findings), such as a key that expires within 60 days. It does not fail for a
    bad one. Without a home there are none.
  - An existing key never changes. A home without the secret of a trusted key has lost it, which is an error.
author: mistralrs-rpm
options:
  state:
    description: The state to reach.
    type: str
    choices: [present, next, scheduled, retired, checked]
    default: present
  name:
    description: The name in a new key's user id. Required for V(present) and V(next).
    type: str
  email:
    description: The address in a new key's user id. Required for V(present) and V(next).
    type: str
  primary:
    description:
      - The folder, with mode 0700, for the primary key's secret of a new certificate, as C(FINGERPRINT.asc) and
        C(FINGERPRINT.rev) with mode 0600. By default the folder C(primary) beside the signer's home.
      - The primary key of an imported key stays elsewhere.
    type: path
  algorithm:
    description: The algorithm of a new key. The oldest clients verify RSA with 4096 bits.
    type: str
    choices: [rsa4096, rsa3072, ed25519]
    default: rsa4096
  expires:
    description: The lifetime of a new key in gpg's notation, such as V(2y) or V(90d); V(0) is unlimited.
    type: str
    default: 2y
  import_file:
    description: For V(next), the file of a certificate's secret signing subkey, armored, to import.
    type: path
  import_key:
    description:
      - For V(present), an armored secret signing subkey to import into a home without a key. It may be the backup of a
        trusted one.
    type: str
  again:
    description:
      - For V(next), make another certificate although the last one began to sign less than 30 days ago.
      - Without it, a run soon after a rotation counts as a repetition.
    type: bool
    default: false
  overlap_days:
    description:
      - For V(scheduled), the number of days until the next key signs; V(0) is at once.
      - A day that is set already only moves to an earlier one. It is at least a day before the present key expires.
    type: int
    default: 30
  fingerprint:
    description: For V(retired), the certificate. The caller has checked that no channel's head needs it.
    type: str
extends_documentation_fragment: [signer]
attributes:
  check_mode:
    description: Returns what would be made or changed.
    support: full
  diff_mode:
    description: Shows what is made or changed.
    support: full
"""

EXAMPLES = r"""
- name: Ensure that there is a signing key
  signing_key:
    signer: "{{ signer }}"
    primary: /media/offline/mistralrs-rpm
    name: mistralrs-rpm
    email: rpm@example.org

- name: Let the next key sign in 30 days
  signing_key:
    state: scheduled
    signer: "{{ signer }}"
    overlap_days: 30
"""

RETURN = r"""
fingerprint:
  description: The fingerprint of the certificate that signs; empty without one.
  returned: success
  type: str
subkey:
  description: The signing subkey's fingerprint.
  returned: success
  type: str
expires:
  description: The key's expiry in seconds since 1970 UTC; 0 is never.
  returned: success
  type: int
successor:
  description: The fingerprint of the certificate that signs next; empty without one.
  returned: success
  type: str
trusted_keys:
  description: The file of the trusted keys.
  returned: success
  type: str
findings:
  description: Each check with the value found, the value needed, if it fits, and the remedy.
  returned: for V(checked)
  type: list
  elements: dict
table:
  description: The findings as lines for the run's summary.
  returned: for V(checked)
  type: list
  elements: str
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base import findings
from ansible.module_utils.pipeline.sign import key_checks
from ansible.module_utils.pipeline.sign.keyring import ALGORITHMS
from ansible.module_utils.pipeline.sign.rotation import Recipe, Rotation, ensure, introduce, retire, schedule
from ansible.module_utils.pipeline.sign.signer import Signer
from ansible.module_utils.pipeline_module import SIGNER, ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "state": {"type": "str", "choices": ["present", "next", "scheduled", "retired", "checked"], "default": "present"},
    "name": {"type": "str"},
    "email": {"type": "str"},
    "primary": {"type": "path"},
    "algorithm": {"type": "str", "choices": list(ALGORITHMS), "default": "rsa4096"},
    "expires": {"type": "str", "default": "2y"},
    "import_file": {"type": "path"},
    "import_key": {"type": "str", "no_log": True},
    "again": {"type": "bool", "default": False},
    "overlap_days": {"type": "int", "default": 30},
    "fingerprint": {"type": "str"},
    **SIGNER,
}
REQUIRED_IF = [
    ("state", "present", ("name", "email")),
    ("state", "next", ("name", "email")),
    ("state", "retired", ("fingerprint",)),
]


def work(module: AnsibleModule) -> dict[str, Any]:
    signer = Signer.of(module.params["signer"])
    if module.params["state"] == "checked":
        return check(signer)
    # 1. The change.
    done = change(signer, module.params, check=module.check_mode)
    # 2. The result.
    key, successor = done.signing, done.successor
    result = f"signing key {key.fingerprint[-16:]}" if key and module.params["state"] == "present" else str(done)
    if not (key or successor) and module.check_mode:
        result = "would make a signing key"
    return {
        "changed": bool(done.changes),
        "fingerprint": key.fingerprint if key else "",
        "subkey": key.subkey if key else "",
        "expires": key.expires if key else 0,
        "successor": successor.fingerprint if successor else "",
        "trusted_keys": str(signer.trusted_keys),
        "diff": {"before": "", "after": "".join(f"{line}\n" for line in done.changes)},
        "step": step("key", result, where=signer.trusted_keys),
    }


def change(signer: Signer, p: dict[str, Any], *, check: bool) -> Rotation:
    primary = Path(p["primary"]) if p["primary"] else signer.home.with_name("primary")
    recipe = Recipe(p["name"] or "", p["email"] or "", primary, p["algorithm"], p["expires"])
    match p["state"]:
        case "present":
            return ensure(signer, recipe, imported=p["import_key"] or "", check=check)
        case "next":
            imported = Path(p["import_file"]) if p["import_file"] else None
            return introduce(signer, recipe, imported=imported, again=p["again"], check=check)
        case "scheduled":
            return schedule(signer, overlap_days=p["overlap_days"], check=check)
        case _:
            return retire(signer, p["fingerprint"], check=check)


def check(signer: Signer) -> dict[str, Any]:
    """The findings of the keys, none without a home."""
    found = key_checks.findings(signer) if signer.home.is_dir() else []
    bad = [finding.check for finding in found if not finding.fits]
    return {
        "changed": False,
        "findings": [finding.to_dict() for finding in found],
        "table": findings.table(found) if found else [],
        "step": step(
            "key", f"{', '.join(bad)} wrong" if bad else "well" if found else "no key was made yet", where=signer.home
        ),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC, required_if=REQUIRED_IF)


if __name__ == "__main__":
    main()
