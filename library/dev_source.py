#!/usr/bin/python
"""Resolve: a commit of a local clone, its uncommitted work, or any commit of upstream."""

DOCUMENTATION = r"""
module: dev_source
short_description: Find the commit of a development build
description:
  - Takes a commit of a local clone, the uncommitted work of one, or a commit of upstream, and returns the version that
    its package will carry.
  - For a clone it writes a pack of the objects that the builder lacks, without history.
  - Never writes to the clone. Changes nothing but its own cache of commits and the pack, also in check mode.
  - Options that contradict each other fail first.
author: mistralrs-rpm
options:
  source:
    description:
      - The top folder of a clone, which may be a worktree or bare. Empty requires O(commit).
      - A relative path counts from the folder where make or ansible-playbook was started.
    type: path
    default: ""
  ref:
    description: A branch, tag or id in O(source); its HEAD when empty.
    type: str
    default: ""
  uncommitted:
    description: Take the work tree of O(source) as it is, untracked files too unless they are ignored.
    type: bool
    default: false
  commit:
    description: A commit of upstream, by its id or the first seven or more digits of it.
    type: str
    default: ""
  publish:
    description: The channel to publish to, V(unstable) or none when empty.
    type: str
    default: ""
  incremental:
    description:
      - Whether to compile incrementally. A package to publish is never compiled incrementally.
      - Without this option, a package that is not published is.
    type: bool
  channel:
    description: The channel whose rules apply; it must be V(unstable).
    type: str
    default: unstable
  flavour:
    description: The one flavour to build.
    type: str
    required: true
  flavours:
    description: All flavours, as Flavour records.
    type: list
    elements: dict
    required: true
  url:
    description: The URL of upstream's git repository, whose releases give the version.
    type: str
    required: true
  mirror:
    description: The folder of the cache of upstream's commits, shared with M(upstream_source).
    type: path
    required: true
  known:
    description: The commits that the builder has, as M(builder_checkout) returns them.
    type: list
    elements: str
    default: []
  packs:
    description: The folder for the pack.
    type: path
    required: true
extends_documentation_fragment: [read_only]
"""

EXAMPLES = r"""
- name: Take the uncommitted work of a clone
  dev_source:
    source: /home/me/mistral.rs
    uncommitted: true
    flavour: ada
    flavours: "{{ flavours }}"
    url: https://github.com/EricLBuehler/mistral.rs.git
    mirror: /var/cache/mistralrs-rpm/upstream
    packs: /var/cache/mistralrs-rpm/dev
  register: resolved
"""

RETURN = r"""
source:
  description: The Source record (url, ref, kind, commit, commit_time, version, rpm_version).
  returned: success
  type: dict
row:
  description: The Flavour record to build.
  returned: success
  type: dict
pack:
  description: The pack to bring to the builder; empty if it has the commit, or fetches it from upstream.
  returned: success
  type: str
incremental:
  description: Whether to compile it incrementally.
  returned: success
  type: bool
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.patterns import commits
from ansible.module_utils.pipeline.base.records import Flavour
from ansible.module_utils.pipeline.source.local_clone import DevRequest, from_caller, one_flavour, resolve_local
from ansible.module_utils.pipeline.source.upstream import resolve_commit
from ansible.module_utils.pipeline_module import ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "source": {"type": "path", "default": ""},
    "ref": {"type": "str", "default": ""},
    "uncommitted": {"type": "bool", "default": False},
    "commit": {"type": "str", "default": ""},
    "publish": {"type": "str", "default": ""},
    "incremental": {"type": "bool"},
    "channel": {"type": "str", "default": "unstable"},
    "flavour": {"type": "str", "required": True},
    "flavours": {"type": "list", "elements": "dict", "required": True},
    "url": {"type": "str", "required": True},
    "mirror": {"type": "path", "required": True},
    "known": {"type": "list", "elements": "str", "default": []},
    "packs": {"type": "path", "required": True},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    # 1. The request, refused here if its options contradict each other.
    request = DevRequest(
        source=from_caller(p["source"], os.environ),
        ref=p["ref"],
        commit=p["commit"].lower(),
        uncommitted=p["uncommitted"],
        publish=p["publish"],
        incremental=p["incremental"],
        channel=p["channel"],
    )
    request.refuse()
    row = one_flavour([Flavour.from_dict(one) for one in p["flavours"]], p["flavour"])
    # 2. The commit, and a pack of the objects that the builder lacks.
    pack, warnings = None, tuple[str, ...]()
    if request.commit:
        source, branches = resolve_commit(p["url"], Path(p["mirror"]), request.commit)
        if not branches:
            warnings = (f"{source.commit} is on no branch of upstream; it may be a fork's",)
    else:
        found = resolve_local(request, p["url"], Path(p["mirror"]), commits(p["known"]), Path(p["packs"]))
        source, pack, warnings = found.source, found.pack, found.warnings
    for warning in warnings:
        module.warn(warning)
    size = f", {pack.stat().st_size / 1000:.0f} kB to bring" if pack else ""
    result = f"{source.ref} is {source.rpm_version}, commit {source.commit[:12]}{size}"
    return {
        "changed": False,
        "source": source.to_dict(),
        "row": row.to_dict(),
        "pack": str(pack or ""),
        "incremental": request.incrementally,
        "step": step("resolve", result, flavour=row.name, where=source.url),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
