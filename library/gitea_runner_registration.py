#!/usr/bin/python
"""Builder: a runner of Gitea Actions is known to Gitea."""

DOCUMENTATION = r"""
module: gitea_runner_registration
short_description: Register a runner with Gitea, once
description:
  - Does nothing where the runner's file tells of a registration with this very Gitea.
  - The token is given to the runner by its environment, so that it is in no list of processes.
author: mistralrs-rpm
options:
  program:
    description: The runner's program.
    type: path
    required: true
  config:
    description: Its configuration, which names O(file) and the labels.
    type: path
    required: true
  file:
    description: What the runner leaves when it is registered; its folder is where it runs.
    type: path
    required: true
  instance:
    description: The address of Gitea.
    type: str
    required: true
  name:
    description: What Gitea calls the runner.
    type: str
    required: true
  token:
    description: What registers it. A runner that is registered needs none.
    type: str
    default: ""
attributes:
  check_mode:
    description: Tells whether it would be registered; the program need not be there yet.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
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

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.hosts.gitea_runner import Registration


def main():
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "path", "required": True},
            "config": {"type": "path", "required": True},
            "file": {"type": "path", "required": True},
            "instance": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "token": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    p = module.params
    registration = Registration(Path(p["program"]), Path(p["config"]), Path(p["file"]), p["instance"], p["name"])
    # 1. It is registered with this Gitea, or it is registered now.
    changed = not registration.done
    if changed and not module.check_mode:
        try:
            registration.register(p["token"])
        except PipelineError as error:
            module.fail_json(**error.failure())
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
