#!/usr/bin/python
"""Builder: register a runner of Gitea Actions."""

DOCUMENTATION = r"""
module: gitea_runner_registration
short_description: Register a runner with Gitea once
description:
  - Does nothing if the runner's file records a registration with this Gitea.
  - Passes the token to the runner by its environment, so that no list of processes shows it.
author: mistralrs-rpm
options:
  program:
    description: The runner's program.
    type: path
    required: true
  config:
    description: The runner's configuration, with O(file) and the labels.
    type: path
    required: true
  file:
    description: The file that the runner writes when it is registered. The runner runs in its folder.
    type: path
    required: true
  instance:
    description: The URL of Gitea.
    type: str
    required: true
  name:
    description: The runner's name in Gitea.
    type: str
    required: true
  token:
    description: The registration token. A registered runner needs none.
    type: str
    default: ""
extends_documentation_fragment: [no_diff]
attributes:
  check_mode:
    description: Reports whether the runner would be registered. O(program) need not exist yet.
    support: full
"""

EXAMPLES = r"""
- name: Register the runner
  gitea_runner_registration:
    program: /usr/local/bin/gitea-runner
    config: /etc/gitea-runner/config.yaml
    file: /var/lib/gitea-runner/.runner
    instance: https://git.example.org
    name: forge
    token: "{{ secret_gitea_runner_token }}"
  become_user: gitea-runner
"""

RETURN = r"""
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.hosts.gitea_runner import Registration
from ansible.module_utils.pipeline_module import ArgumentSpec, run

ARGUMENT_SPEC: ArgumentSpec = {
    "program": {"type": "path", "required": True},
    "config": {"type": "path", "required": True},
    "file": {"type": "path", "required": True},
    "instance": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "token": {"type": "str", "default": "", "no_log": True},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    registration = Registration(Path(p["program"]), Path(p["config"]), Path(p["file"]), p["instance"], p["name"])
    changed = not registration.done
    if changed and not module.check_mode:
        registration.register(p["token"])
    return {"changed": changed}


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
