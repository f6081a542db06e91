"""The certificates that one file of trusted keys lacks of another."""

from __future__ import annotations

DOCUMENTATION = """
name: lost_certificates
author: mistralrs-rpm
short_description: The certificates that the next file of trusted keys lacks
description:
  - Returns the fingerprints of the certificates in armored public keys that other armored public keys lack.
  - A text that holds no armored key has no certificates.
options:
  _input:
    description: The present trusted keys, armored.
    type: str
    required: true
  _next:
    description: The keys that are to replace them, armored.
    type: str
    required: true
  retired:
    description: The fingerprint of a certificate that may leave; spaces and lower case are accepted.
    type: str
    default: ""
"""
EXAMPLES = """
- name: Check that no trusted key is lost
  ansible.builtin.assert:
    that: present | lost_certificates(next) | length == 0
"""
RETURN = """
_value:
  description: The fingerprints.
  type: list
  elements: str
"""

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

# Ansible puts module_utils on the path of modules only.
sys.path.append(str(Path(__file__).resolve().parents[2] / "module_utils"))


def lost_certificates(present: str, following: str, retired: str = "") -> list[str]:
    from pipeline.base.errors import PipelineError
    from pipeline.sign.trust import certificates

    try:
        new = certificates(following, "the next trusted keys")
        return sorted({*certificates(present, "the trusted keys")} - {*new, retired.replace(" ", "").upper()})
    except PipelineError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"lost_certificates": lost_certificates}
