#!/usr/bin/python
"""Resolve: which commit of upstream a run builds."""

DOCUMENTATION = r"""
module: upstream_source
short_description: Find the commit of upstream to package, and the flavours to build
description:
  - Reads upstream's refs with one C(git ls-remote), chooses a tag or the newest commit of a branch, and returns its
    commit, its time and the version that the package will carry.
  - Changes nothing but its own cache of commits, also in check mode.
author: mistralrs-rpm
options:
  url:
    description: The URL of upstream's git repository; anything that git can fetch from.
    type: str
    required: true
  kind:
    description: V(tag) for a release, V(branch) for the newest commit of a branch.
    type: str
    choices: [tag, branch]
    default: tag
  version:
    description: The release to take, such as V(0.8.0) or V(0.8.4-rc4); the newest final one when empty.
    type: str
    default: ""
  branch:
    description: The branch to follow with O(kind=branch); upstream's own default branch when empty.
    type: str
    default: ""
  flavour:
    description: With O(flavours), the flavour to build, or V(all) for every published one.
    type: str
    default: all
  flavours:
    description: All flavours, as Flavour records.
    type: list
    elements: dict
    default: []
  mirror:
    description: A folder for the cache of commits. It can be deleted and comes back.
    type: path
    required: true
extends_documentation_fragment: [read_only]
"""

EXAMPLES = r"""
- name: Take the newest release
  upstream_source:
    url: https://github.com/EricLBuehler/mistral.rs.git
    mirror: /var/cache/mistralrs-rpm/upstream
  register: resolved
"""

RETURN = r"""
source:
  description: The Source record (url, ref, kind, commit, commit_time, version, rpm_version).
  returned: success
  type: dict
releases:
  description: The versions of upstream's releases, oldest first, as rpm spells them.
  returned: success
  type: list
  elements: str
wanted:
  description: The Flavour records of O(flavour).
  returned: success, with O(flavours)
  type: list
  elements: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.records import Flavour
from ansible.module_utils.pipeline.plan.compare import select_flavours
from ansible.module_utils.pipeline.source.upstream import released, resolve
from ansible.module_utils.pipeline_module import ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "url": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": ["tag", "branch"], "default": "tag"},
    "version": {"type": "str", "default": ""},
    "branch": {"type": "str", "default": ""},
    "flavour": {"type": "str", "default": "all"},
    "flavours": {"type": "list", "elements": "dict", "default": []},
    "mirror": {"type": "path", "required": True},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    # 1. The flavours: an unknown one fails before the network is used.
    flavours = [Flavour.from_dict(row) for row in p["flavours"]]
    wanted = select_flavours(flavours, p["flavour"]) if flavours else ()
    # 2. The commit.
    source = resolve(p["url"], Path(p["mirror"]), kind=p["kind"], version=p["version"], branch=p["branch"])
    result = f"{source.ref} is {source.rpm_version}, commit {source.commit[:12]}"
    return {
        "changed": False,
        "source": source.to_dict(),
        "releases": released(Path(p["mirror"])),
        **({"wanted": [flavour.to_dict() for flavour in wanted]} if wanted else {}),
        "step": step("resolve", result, where=source.url),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
