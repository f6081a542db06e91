"""The failures among a builder's outcomes."""

from __future__ import annotations

DOCUMENTATION = """
name: failures
author: mistralrs-rpm
short_description: The failures among the outcomes of a builder's flavours
description:
  - Returns one line for each failed flavour of the fact C(outcomes), with the failed task and its message.
options:
  _input:
    description: The fact C(outcomes) of a builder, by flavour; pipeline/plan/outcomes.py describes it.
    type: dict
    required: true
  upstream:
    description:
      - V(true) returns only the flavours whose code a compiler refused, V(false) only the others.
      - Without it all failures are returned.
    type: bool
"""
EXAMPLES = """
- name: Fail if the builder is at fault
  ansible.builtin.fail:
    msg: "Not warmed: {{ outcomes | failures(upstream=false) | join('; ') }}"
  when: outcomes | failures(upstream=false)
"""
RETURN = """
_value:
  description: The lines, in the order of the outcomes.
  type: list
  elements: str
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

# Ansible puts module_utils on the path of modules only.
sys.path.append(str(Path(__file__).resolve().parents[2] / "module_utils"))


def failures(outcomes: Mapping[str, Mapping[str, Any]], upstream: bool | None = None) -> list[str]:
    from pipeline.base.errors import PipelineError
    from pipeline.plan import outcomes as plan

    try:
        return plan.failures(plan.outcomes_of(outcomes), upstream=upstream)
    except PipelineError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"failures": failures}
