"""git mirrors as a task's environment."""

from __future__ import annotations

DOCUMENTATION = """
name: git_environment
author: mistralrs-rpm
short_description: The environment that makes git use mirrors
description:
  - Turns C(git_mirrors), a mapping of prefixes of addresses to their replacements, into the environment variables that
    configure git (C(url.MIRROR.insteadOf)). They apply to every process that the task starts, and replace such
    variables of the caller, also where there are no mirrors.
  - Fails for an invalid address, or one that holds a password.
options:
  _input:
    description: The mapping.
    type: dict
    required: true
"""
EXAMPLES = """
- name: Resolve the commit of upstream
  upstream_source:
    url: https://github.com/EricLBuehler/mistral.rs.git
    mirror: /var/cache/mistralrs-rpm/upstream
  environment: "{{ {'https://github.com/': 'https://git.example.org/github/'} | git_environment }}"
"""
RETURN = """
_value:
  description: The variables.
  type: dict
"""

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

# Ansible puts module_utils on the path of modules only.
sys.path.append(str(Path(__file__).resolve().parents[2] / "module_utils"))

from pipeline.base.errors import PipelineError
from pipeline.source.mirrors import Mirrors


def git_environment(mirrors: Any) -> dict[str, str]:
    if not isinstance(mirrors, dict):
        raise AnsibleFilterError(f"git_mirrors must map addresses to mirrors, not be {mirrors!r}")
    try:
        wanted = Mirrors({str(prefix): str(mirror) for prefix, mirror in mirrors.items()})
    except PipelineError as error:
        raise AnsibleFilterError(str(error)) from error
    return {"GIT_CONFIG_COUNT": "0", **wanted.environment}


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"git_environment": git_environment}
