#!/usr/bin/python
"""Ansible module: serve a folder by nginx on loopback."""

from __future__ import annotations

DOCUMENTATION = r"""
module: loopback_site
short_description: Serve a folder by nginx on 127.0.0.1
description:
  - Runs the system's nginx program with a configuration of its own; the system's nginx is not touched.
  - Nothing is started when this very site, told by its C(X-Served-By) header, already answers.
  - Dotfiles are refused. Snapshots, packages and metadata named by digest are served as immutable,
    all else as C(no-cache).
author: mistralrs-rpm
options:
  root:
    description: The folder to serve. Needed for O(state=started).
    type: path
  port:
    description: The port on 127.0.0.1.
    type: int
    default: 8643
  state_dir:
    description: The folder for nginx's configuration, pid file and logs.
    type: path
    required: true
  state:
    description: Whether the site is served.
    type: str
    choices: [started, stopped]
    default: started
attributes:
  check_mode:
    support: full
    description: Says whether something would be started or stopped.
  diff_mode:
    support: full
    description: Shows whether the site is served before and after.
"""

EXAMPLES = r"""
- name: The local channel is served on loopback
  loopback_site:
    root: "{{ channel_root }}"
    port: "{{ local_port }}"
    state_dir: "{{ project_root }}/.local/nginx"
"""

RETURN = r"""
url:
  description: Where the folder is served.
  type: str
  returned: success
  sample: http://127.0.0.1:8643
step:
  description: The line for the run's summary.
  type: dict
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.hosts.loopback_site import Site, started, stopped


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path"},
            "port": {"type": "int", "default": 8643},
            "state_dir": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
        },
        required_if=[("state", "started", ["root"])],
        supports_check_mode=True,
    )
    wanted = str(module.params["state"])
    state_dir = Path(str(module.params["state_dir"])).resolve()
    try:
        # 1. Which site.
        site = Site(Path(str(module.params["root"] or state_dir)).resolve(), module.params["port"], state_dir)

        # 2. Start or stop it, unless that is so already.
        if wanted == "started":
            changed = started(site, check=module.check_mode)
        else:
            changed = stopped(state_dir, check=module.check_mode)
    except PipelineError as error:
        module.fail_json(**error.failure())

    # 3. Tell.
    result = wanted if changed else f"already {wanted}"
    if changed and module.check_mode:
        result = "would be stopped" if wanted == "stopped" else f"port {site.port} is free"
    before = {"started": "stopped", "stopped": "started"}[wanted] if changed else wanted
    module.exit_json(
        changed=changed,
        url=site.url,
        diff={"before": f"{before}\n", "after": f"{wanted}\n"},
        step={
            "name": "serve",
            "flavour": "",
            "result": result,
            "where": site.url,
        },
    )


if __name__ == "__main__":
    main()
