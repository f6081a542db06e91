"""A secret of the operator: from a file, else from the environment."""

from __future__ import annotations

DOCUMENTATION = """
name: secret
author: mistralrs-rpm
short_description: Read a secret from a file or from the environment
description:
  - Reads the file I(folder)/NAME, which only its owner may access. Without that file, reads the environment variable
    C(MISTRALRS_RPM_NAME), in capitals.
  - A vault may set the inventory variable that calls this lookup; the lookup is then never called.
options:
  _terms:
    description: The secret's name, or names.
    required: true
  folder:
    description: The folder of the files, on the controller.
    type: path
    required: true
  default:
    description: The value to return without a secret. If it is not set, a missing secret is an error.
    type: str
"""
EXAMPLES = """
- name: Read a secret
  ansible.builtin.set_fact:
    token: "{{ lookup('secret', 'cloudflare_token', folder=secrets_folder) }}"
  no_log: true
"""
RETURN = """
_raw:
  description: The secrets, without white space around them.
  type: list
  elements: str
"""

import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

_OTHERS = 0o077


def find(name: str, folder: Path, default: str | None) -> str:
    """The secret, or ``default``. Refuses a file that other accounts may access, whatever the environment has."""
    file, variable = folder / name, f"MISTRALRS_RPM_{name.upper()}"
    try:
        if file.stat().st_mode & _OTHERS:
            raise AnsibleLookupError(f"The file of the secret {file} is open to other accounts. Run chmod 0600 {file}")
        found = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        found = os.environ.get(variable, "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AnsibleLookupError(f"The secret {file} cannot be read: {error}") from error
    if found or default is not None:
        return found or str(default)
    raise AnsibleLookupError(
        f"There is no secret {name}: neither the file {file} nor the environment variable {variable} holds one. "
        f"Create the file (mode 0600), set the variable, or use a vault (docs/variables.md, Secrets)"
    )


class LookupModule(LookupBase):
    """``lookup('secret', NAME, folder=...)``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        folder = Path(self.get_option("folder")).expanduser()
        return [find(name, folder, self.get_option("default")) for name in terms]
