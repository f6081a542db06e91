#!/usr/bin/python
"""Resolve: a commit of a local clone, its uncommitted work, or any commit of upstream."""

DOCUMENTATION = r"""
module: dev_source
short_description: Find the commit of a development build
description:
  - Takes a commit of a local clone, the uncommitted work of one, or a commit of upstream, and tells the version that
    its package will carry.
  - For a clone it leaves a pack of what the builder lacks of that commit, which is empty of history.
  - The clone is read and never written. Changes nothing but its own cache of commits and the pack, also in check mode.
  - What does not go together is refused before anything is done.
author: mistralrs-rpm
options:
  source:
    description: The top folder of a clone, which may be a worktree or bare; or empty, and then O(commit) is needed.
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
    description: The channel to publish to. Only V(unstable) is possible; empty is not to publish.
    type: str
    default: ""
  incremental:
    description:
      - Whether to compile it incrementally, which what is published is not.
      - Without it, whether it is not published.
    type: bool
  channel:
    description: The channel whose rules hold, which has to be V(unstable).
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
    description: Upstream's git repository, whose releases name the version.
    type: str
    required: true
  mirror:
    description: The folder of the cache of upstream's commits, that of M(upstream_source).
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
attributes:
  check_mode:
    description: Runs in check mode, and does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Take what the developer has in the work tree
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
  description: The pack to bring to the builder; empty where it has the commit, or upstream gives it.
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

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Flavour
from ansible.module_utils.pipeline.source.local_clone import CHANNEL, Asked, one_flavour, resolve_local
from ansible.module_utils.pipeline.source.upstream import resolve_commit


def main():
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "default": ""},
            "ref": {"type": "str", "default": ""},
            "uncommitted": {"type": "bool", "default": False},
            "commit": {"type": "str", "default": ""},
            "publish": {"type": "str", "default": ""},
            "incremental": {"type": "bool"},
            "channel": {"type": "str", "default": CHANNEL},
            "flavour": {"type": "str", "required": True},
            "flavours": {"type": "list", "elements": "dict", "required": True},
            "url": {"type": "str", "required": True},
            "mirror": {"type": "path", "required": True},
            "known": {"type": "list", "elements": "str", "default": []},
            "packs": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    p = module.params
    pack = None
    try:
        # 1. What is asked for, as far as it can be told from the words.
        asked = Asked(
            p["source"], p["ref"], p["commit"].lower(), p["uncommitted"], p["publish"], p["incremental"], p["channel"]
        )
        asked.refuse()
        row = one_flavour([Flavour.from_dict(one) for one in p["flavours"]], p["flavour"])
        # 2. The commit, and what the builder lacks of it.
        if asked.commit:
            source, branches = resolve_commit(p["url"], Path(p["mirror"]), asked.commit)
            warnings = [] if branches else [f"{source.commit} is on no branch of upstream, maybe of a fork alone"]
        else:
            found = resolve_local(asked, p["url"], Path(p["mirror"]), p["known"], Path(p["packs"]))
            source, pack, warnings = found.source, found.pack, found.warnings
    except PipelineError as error:
        module.fail_json(**error.failure())
    for warning in warnings:
        module.warn(warning)
    # 3. Tell.
    brought = f", {pack.stat().st_size / 1000:.0f} kB to bring" if pack else ""
    module.exit_json(
        changed=False,
        source=source.to_dict(),
        row=row.to_dict(),
        pack=str(pack or ""),
        incremental=asked.incrementally,
        step={
            "name": "resolve",
            "flavour": row.name,
            "result": f"{source.ref} is {source.rpm_version}, commit {source.commit[:12]}{brought}",
            "where": source.url,
        },
    )


if __name__ == "__main__":
    main()
