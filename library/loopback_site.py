#!/usr/bin/python
"""Local default: serve a folder by nginx on loopback."""

DOCUMENTATION = r"""
module: loopback_site
short_description: Serve a folder by nginx on 127.0.0.1
description:
  - Runs the system's nginx program with a configuration of its own; the system's nginx does not change.
  - Does nothing if this very site, recognised by its C(X-Served-By) header, already answers.
  - Refuses dotfiles. Snapshots, packages and metadata with a digest in its name are immutable for caches; everything
    else is C(no-cache).
author: mistralrs-rpm
options:
  root:
    description: The folder to serve. Required for O(state=started).
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
    description: Reports whether nginx would be started or stopped; fails if the port is taken.
    support: full
  diff_mode:
    description: Shows whether the site is served before and after.
    support: full
"""

EXAMPLES = r"""
- name: Serve the local repositories on loopback
  loopback_site:
    root: "{{ channel_root }}"
    port: "{{ local_port }}"
    state_dir: "{{ project_root }}/.local/nginx"
"""

RETURN = r"""
url:
  description: The URL of the folder.
  returned: success
  type: str
  sample: http://127.0.0.1:8643
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.hosts.loopback_site import Site, started, stopped
from ansible.module_utils.pipeline_module import ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "root": {"type": "path"},
    "port": {"type": "int", "default": 8643},
    "state_dir": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    # 1. Describe the site.
    wanted = str(module.params["state"])
    state_dir = Path(str(module.params["state_dir"])).resolve()
    site = Site(Path(str(module.params["root"] or state_dir)).resolve(), module.params["port"], state_dir)

    # 2. Start or stop it.
    if wanted == "started":
        changed = started(site, check=module.check_mode)
    else:
        changed = stopped(state_dir, check=module.check_mode)

    # 3. Report.
    summary = wanted if changed else f"already {wanted}"
    if changed and module.check_mode:
        summary = "would be stopped" if wanted == "stopped" else f"port {site.port} is free"
    before = {"started": "stopped", "stopped": "started"}[wanted] if changed else wanted
    return {
        "changed": changed,
        "url": site.url,
        "diff": {"before": f"{before}\n", "after": f"{wanted}\n"},
        "step": step("serve", summary, where=site.url),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC, required_if=[("state", "started", ["root"])])


if __name__ == "__main__":
    main()
