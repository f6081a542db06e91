"""The controller's proxies, for tasks on this machine that become another account."""

from __future__ import annotations

DOCUMENTATION = """
name: proxies
author: mistralrs-rpm
short_description: The variables of the controller's proxies
description:
  - Returns the variables of proxies that this process has, each in both spellings (C(http_proxy), C(HTTPS_PROXY),
    C(all_proxy), C(no_proxy) ...), and those of certificate authorities.
  - sudo drops them from the environment of a task that becomes another account. Pass them as an option that is not
    logged, never as C(environment), which is part of a command line. A proxy's URL may hold a password.
  - Returns nothing for a host that is reached by another connection than C(local), whose proxies are its own.
options:
  _terms:
    description: The host's connection, C(ansible_connection).
    required: true
"""
EXAMPLES = """
- name: Prove a package
  client_proof:
    proxies: "{{ lookup('proxies', ansible_connection | default('ssh')) }}"
"""
RETURN = """
_raw:
  description: The variables, by name.
  type: list
  elements: dict
"""

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

# Ansible adds module_utils to the path of modules, not of plugins.
sys.path.append(str(Path(__file__).resolve().parents[2] / "module_utils"))

from pipeline.base.environment import reaching


class LookupModule(LookupBase):
    """``lookup('proxies', CONNECTION)``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, str]]:
        found = reaching() if terms[0] == "local" else {}
        # Without a proxy all is reached directly. As an option that is not logged, hosts of no_proxy would be blanked
        # in every result.
        used = any(name.lower().endswith("_proxy") and name.lower() != "no_proxy" for name in found)
        return [found if used and found.get("no_proxy") != "*" else {}]
