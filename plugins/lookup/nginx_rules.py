"""nginx's rules that every site of the repositories has in common."""

from __future__ import annotations

DOCUMENTATION = """
name: nginx_rules
author: mistralrs-rpm
short_description: Blocks of nginx's configuration that sites of the repositories share
description:
  - Returns blocks of C(module_utils/pipeline/hosts/nginx_rules.py), which the module C(loopback_site) uses as well.
options:
  _terms:
    description: The names of the blocks, V(CACHE_CONTROL) (for the context http), V(TYPES) or V(LINKS) (for server).
    required: true
"""
EXAMPLES = """
- name: Show the content types
  ansible.builtin.debug:
    msg: "{{ lookup('nginx_rules', 'TYPES') }}"
"""
RETURN = """
_raw:
  description: The blocks.
  type: list
  elements: str
"""

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

# Ansible adds module_utils to the path of modules, not of plugins.
sys.path.append(str(Path(__file__).resolve().parents[2] / "module_utils"))

from pipeline.hosts import nginx_rules

BLOCKS = {"CACHE_CONTROL": nginx_rules.CACHE_CONTROL, "TYPES": nginx_rules.TYPES, "LINKS": nginx_rules.LINKS}


class LookupModule(LookupBase):
    """``lookup('nginx_rules', NAME)``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        if unknown := set(terms) - BLOCKS.keys():
            raise AnsibleLookupError(f"nginx_rules has no {', '.join(sorted(unknown))}. It has: {', '.join(BLOCKS)}")
        return [BLOCKS[term] for term in terms]
