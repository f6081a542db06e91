#!/usr/bin/python
"""Make sure that the signer has a signing key."""

DOCUMENTATION = r"""
module: signing_key
short_description: Make sure that the signer has a signing key
description:
  - Makes a certify-only primary key with a signing subkey in a GnuPG home, unless one of this user id is
    there, and exports the armored public key that everyone trusts.
  - An existing key is never changed. One that has expired is an error.
author: mistralrs-rpm
options:
  home:
    description: The GnuPG home, made with mode 0700. Its path may be of any length.
    type: path
    required: true
  public_key:
    description: Where the armored public key goes, with mode 0644.
    type: path
    required: true
  name:
    description: The name in the key's user id.
    type: str
    required: true
  email:
    description: The address in the key's user id.
    type: str
    required: true
  passphrase_file:
    description: A file whose first line is the key's passphrase; without it the key has none.
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
attributes:
  check_mode:
    description: Says whether a key would be made.
    support: full
  diff_mode:
    description: Shows what is made.
    support: full
"""

EXAMPLES = r"""
- name: See that there is a key to sign with
  signing_key:
    home: /var/lib/mistralrs-rpm/signer/gnupg
    public_key: /var/lib/mistralrs-rpm/signer/public.asc
    passphrase_file: /var/lib/mistralrs-rpm/signer/passphrase
    name: mistralrs-rpm
    email: rpm@example.org
"""

RETURN = r"""
fingerprint:
  description: The primary key's fingerprint; empty where check mode would make the key.
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
public_key:
  description: The file of the armored public key.
  returned: success
  type: str
stage:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.errors import PipelineError
from ansible.module_utils.pipeline.keys import ALGORITHMS, ensure


def main():
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "public_key": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "email": {"type": "str", "required": True},
            # The file's name, not the secret.
            "passphrase_file": {"type": "path", "no_log": False},
            "algorithm": {"type": "str", "choices": list(ALGORITHMS), "default": "rsa4096"},
            "expires": {"type": "str", "default": "2y"},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        done = ensure(
            Path(p["home"]),
            Path(p["public_key"]),
            name=p["name"],
            email=p["email"],
            passphrase_file=Path(p["passphrase_file"]) if p["passphrase_file"] else None,
            algorithm=p["algorithm"],
            expires=p["expires"],
            check=module.check_mode,
        )
    except PipelineError as error:
        module.fail_json(**error.failure())
    fingerprint = done.key.fingerprint if done.key else ""
    module.exit_json(
        changed=bool(done.changes),
        fingerprint=fingerprint,
        subkey=done.key.subkey if done.key else "",
        expires=done.key.expires if done.key else 0,
        public_key=p["public_key"],
        diff={"before": "", "after": "".join(f"{change}\n" for change in done.changes)},
        stage={
            "name": "key",
            "flavour": "",
            "result": f"signing key {fingerprint[-16:]}" if fingerprint else "would make a signing key",
            "where": p["public_key"],
        },
    )


if __name__ == "__main__":
    main()
