"""A secret of the operator: from a file, else from the environment."""

from __future__ import annotations

DOCUMENTATION = """
name: secret
author: mistralrs-rpm
short_description: A secret, from a file or from the environment
description:
  - Reads the file I(folder)/NAME, whose mode must keep it from others. Where there is none, the environment variable
    C(MISTRALRS_RPM_NAME), in capitals.
  - The variable of the inventory that calls this can be set by a vault instead; this is then never called.
options:
  _terms:
    description: The secret's name, or names.
    required: true
  folder:
    description: Where the files are, on the controller.
    type: path
    required: true
  default:
    description: What to return where there is none; without it that is an error, which says where it was looked for.
    type: str
"""
EXAMPLES = """
- name: Look a secret up
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
    """The secret, or ``default``. A file that others may read is refused, even where the environment has it too."""
    file, variable = folder / name, f"MISTRALRS_RPM_{name.upper()}"
    try:
        if file.stat().st_mode & _OTHERS:
            raise AnsibleLookupError(f"The secret {file} may be read by others than its owner. chmod 0600 {file}")
        found = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        found = os.environ.get(variable, "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AnsibleLookupError(f"The secret {file} cannot be read: {error}") from error
    if found or default is not None:
        return found or str(default)
    raise AnsibleLookupError(
        f"There is no secret {name}: no file {file} with something in it, and no environment variable {variable}. "
        f"Make the file (mode 0600), set the variable, or set what asks for it from a vault: docs/variables.md, Secrets"
    )


class LookupModule(LookupBase):
    """``lookup('secret', NAME, folder=...)``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        folder = Path(self.get_option("folder")).expanduser()
        return [find(name, folder, self.get_option("default")) for name in terms]
