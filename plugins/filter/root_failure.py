"""Why a task that becomes root failed."""

from __future__ import annotations

DOCUMENTATION = """
name: root_failure
author: mistralrs-rpm
short_description: The message of a failed task, with the remedy where the account cannot become root
description:
  - Returns the message as it is, unless Ansible could not become root. That becomes a message with the reason and
    C(-K).
options:
  _input:
    description: The message of the failed task.
    type: str
    required: true
  host:
    description: The host's name.
    type: str
    required: true
  purpose:
    description: What requires root there, such as C(the proof).
    type: str
    required: true
"""
EXAMPLES = """
- name: Fail
  ansible.builtin.fail:
    msg: "{{ ansible_failed_result.msg | root_failure(inventory_hostname, 'the proof') }}. Nothing was built"
"""
RETURN = """
_value:
  description: The message.
  type: str
"""

import sys
from pathlib import Path
from typing import Any

# Ansible puts module_utils on the path of modules only.
sys.path.append(str(Path(__file__).resolve().parents[2] / "module_utils"))


def root_failure(message: object, host: str, purpose: str) -> str:
    from pipeline.hosts.root import root_failure as explain

    return explain(str(message), host, purpose)


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"root_failure": root_failure}
