#!/usr/bin/python
"""The signing key's life: made, replaced, retired."""

DOCUMENTATION = r"""
module: signing_key
short_description: Make, replace and retire the key that the signer signs with
description:
  - V(present) sees that a GnuPG home has a signing key, and that the file of trusted keys holds the public half.
    A new one is a certify-only primary key with a signing subkey. The home gets the subkey only; the primary's
    secret, with its revocation certificate, goes to O(primary), which the operator takes offline.
  - V(next) introduces the certificate that is to follow, made or imported. It is trusted, and signs nothing yet.
  - V(scheduled) says from when on it signs. Between the two, clients must be brought to trust it; the playbook
    rotate_key.yml does all of it in this order.
  - V(retired) takes a certificate out of the home and of the trusted keys.
  - V(examined) changes nothing and returns RV(findings), such as a key that ends within 60 days. It does not fail for
    one that does not fit. Where there is no home yet there are none.
  - An existing key is never changed. A home without a key whose public half is trusted has lost it; that is an error.
author: mistralrs-rpm
options:
  state:
    description: What is to be true afterwards.
    type: str
    choices: [present, next, scheduled, retired, examined]
    default: present
  home:
    description: The GnuPG home, made with mode 0700. Its path may be of any length.
    type: path
    required: true
  trusted_keys:
    description: The file of the armored public keys that everyone trusts, with mode 0644.
    type: path
    required: true
  name:
    description: The name in a new key's user id. Needed for V(present) and V(next).
    type: str
  email:
    description: The address in a new key's user id. Needed for V(present) and V(next).
    type: str
  primary:
    description:
      - The folder, with mode 0700, where the primary key's secret of a new certificate is left, as
        C(FINGERPRINT.asc) and C(FINGERPRINT.rev) with mode 0600. By default the folder C(primary) beside O(home).
      - A key that is imported has its primary key elsewhere.
    type: path
  passphrase_file:
    description: A file whose first line is the passphrase of all keys; without it they have none.
    type: path
  algorithm:
    description: The kind of a new key. RSA with 4096 bits is what the oldest clients verify.
    type: str
    choices: [rsa4096, rsa3072, ed25519]
    default: rsa4096
  expires:
    description: How long a new key is valid, as gpg writes it, such as V(2y) or V(90d); V(0) is for ever.
    type: str
    default: 2y
  import_file:
    description: For V(next), the file of a certificate's secret signing subkey, armored, instead of making one.
    type: path
  import_key:
    description:
      - For V(present), an armored secret signing subkey to take where O(home) has no key, instead of making one. It may
        be the backup of one that clients trust.
    type: str
  again:
    description:
      - For V(next), make another certificate although the last one began to sign less than 30 days ago.
      - Without it a run soon after a rotation is taken for a repetition.
    type: bool
    default: false
  overlap_days:
    description:
      - For V(scheduled), how many days clients have until the next key signs; V(0) is at once.
      - A day that was set before is only ever made an earlier one. It is at least a day before the present key ends.
    type: int
    default: 30
  fingerprint:
    description: For V(retired), the certificate. Whoever asks has seen that no channel's head needs it.
    type: str
attributes:
  check_mode:
    description: Says what would be made or changed.
    support: full
  diff_mode:
    description: Shows what is made or changed.
    support: full
"""

EXAMPLES = r"""
- name: See that there is a key to sign with
  signing_key:
    home: /var/lib/mistralrs-rpm/signer/gnupg
    trusted_keys: /var/lib/mistralrs-rpm/signer/public.asc
    primary: /media/offline/mistralrs-rpm
    passphrase_file: /var/lib/mistralrs-rpm/signer/passphrase
    name: mistralrs-rpm
    email: rpm@example.org

- name: Let the next key sign in 30 days
  signing_key:
    state: scheduled
    home: /var/lib/mistralrs-rpm/signer/gnupg
    trusted_keys: /var/lib/mistralrs-rpm/signer/public.asc
    overlap_days: 30
"""

RETURN = r"""
fingerprint:
  description: The fingerprint of the certificate that signs; empty where none does.
  returned: success
  type: str
subkey:
  description: The signing subkey's fingerprint.
  returned: success
  type: str
expires:
  description: When the key ends, in seconds since 1970 UTC; 0 is never.
  returned: success
  type: int
successor:
  description: The fingerprint of the certificate that is to sign next; empty where none waits.
  returned: success
  type: str
trusted_keys:
  description: The file of the trusted public keys.
  returned: success
  type: str
findings:
  description: Each check with what was found, what is needed, whether that fits, and the remedy.
  returned: for V(examined)
  type: list
  elements: dict
table:
  description: The findings as lines for a person; the run's summary prints them.
  returned: for V(examined)
  type: list
  elements: str
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base import findings
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.sign import keyring
from ansible.module_utils.pipeline.sign.keyring import ALGORITHMS, Recipe, Rotation, ensure, introduce, retire, schedule


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": [*STATES, "examined"], "default": "present"},
            "home": {"type": "path", "required": True},
            "trusted_keys": {"type": "path", "required": True, "no_log": False},
            "name": {"type": "str"},
            "email": {"type": "str"},
            "primary": {"type": "path"},
            # The file's name, not the secret.
            "passphrase_file": {"type": "path", "no_log": False},
            "algorithm": {"type": "str", "choices": list(ALGORITHMS), "default": "rsa4096"},
            "expires": {"type": "str", "default": "2y"},
            "import_file": {"type": "path"},
            "import_key": {"type": "str", "no_log": True},
            "again": {"type": "bool", "default": False},
            "overlap_days": {"type": "int", "default": 30},
            "fingerprint": {"type": "str"},
        },
        required_if=[
            ("state", "present", ("name", "email")),
            ("state", "next", ("name", "email")),
            ("state", "retired", ("fingerprint",)),
        ],
        supports_check_mode=True,
    )
    if module.params["state"] == "examined":
        examine(module)
    try:
        # 1. See that it is so.
        done = STATES[module.params["state"]](module.params, module.check_mode)
    except PipelineError as error:
        module.fail_json(**error.failure())
    # 2. Tell.
    key, successor = done.signing, done.successor
    result = f"signing key {key.fingerprint[-16:]}" if key and module.params["state"] == "present" else str(done)
    module.exit_json(
        changed=bool(done.changes),
        fingerprint=key.fingerprint if key else "",
        subkey=key.subkey if key else "",
        expires=key.expires if key else 0,
        successor=successor.fingerprint if successor else "",
        trusted_keys=module.params["trusted_keys"],
        diff={"before": "", "after": "".join(f"{change}\n" for change in done.changes)},
        step={
            "name": "key",
            "flavour": "",
            "result": result if key or successor or not module.check_mode else "would make a signing key",
            "where": module.params["trusted_keys"],
        },
    )


def examine(module):
    """Ends the module with what there is to say of the keys."""
    home = Path(module.params["home"])
    found = keyring.findings(home, Path(module.params["trusted_keys"])) if home.is_dir() else []
    bad = [finding.check for finding in found if not finding.fits]
    module.exit_json(
        changed=False,
        findings=[finding.to_dict() for finding in found],
        table=findings.table(found) if found else [],
        step={
            "name": "key",
            "flavour": "",
            "result": f"{', '.join(bad)} wrong" if bad else "well" if found else "none was made yet",
            "where": str(home),
        },
    )


def path(value):
    return Path(value) if value else None


def present(p, check):
    done = ensure(
        Path(p["home"]),
        Path(p["trusted_keys"]),
        name=p["name"],
        email=p["email"],
        primary=path(p["primary"]),
        passphrase_file=path(p["passphrase_file"]),
        algorithm=p["algorithm"],
        expires=p["expires"],
        imported=p["import_key"] or "",
        check=check,
    )
    return Rotation(done.key, None, done.changes)


def follow(p, check):
    home = Path(p["home"])
    return introduce(
        home,
        Path(p["trusted_keys"]),
        recipe=Recipe(
            p["name"], p["email"], path(p["primary"]) or home.with_name("primary"), p["algorithm"], p["expires"]
        ),
        passphrase_file=path(p["passphrase_file"]),
        imported=path(p["import_file"]),
        again=p["again"],
        check=check,
    )


def schedule_next(p, check):
    return schedule(Path(p["home"]), overlap_days=p["overlap_days"], check=check)


def retired(p, check):
    return retire(Path(p["home"]), Path(p["trusted_keys"]), p["fingerprint"], check=check)


STATES = {"present": present, "next": follow, "scheduled": schedule_next, "retired": retired}

if __name__ == "__main__":
    main()
