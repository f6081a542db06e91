#!/usr/bin/python
"""Compare: what of a commit a channel has, and what is missing."""

DOCUMENTATION = r"""
module: repository_packages
short_description: Find what of a commit is missing in a channel
description:
  - Reads the channel's signed metadata from a folder or over HTTP, and says which flavours of a commit are
    published and which are missing.
  - The published packages are the only state. A tag that is published from another commit is an error.
  - Changes nothing.
author: mistralrs-rpm
options:
  location:
    description: The channel, as a folder or as an http(s) URL. One without a mirrorlist is empty.
    type: str
    required: true
  channel:
    description: The channel's name, for the summary.
    type: str
    required: true
  key:
    description: The armored public key that the metadata must be signed by.
    type: path
    required: true
  source:
    description: The Source record, as M(upstream_source) returns it.
    type: dict
    required: true
  flavours:
    description: All flavours, as Flavour records.
    type: list
    elements: dict
    required: true
  flavour:
    description: The flavour that is wanted, or V(all) for every published one.
    type: str
    default: all
  only_first:
    description: A flavour of which the channel has any package, of whatever version, is not wanted.
    type: bool
    default: false
  package_release:
    description: The package's release number.
    type: str
    default: "1"
  dist:
    description: What follows the release number, such as V(.fc43).
    type: str
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
- name: Compare the newest release with the stable channel
  repository_packages:
    location: https://rpm.example.org/fedora/43/x86_64
    channel: stable
    key: /var/lib/mistralrs-rpm/signer/public.asc
    source: "{{ resolved.source }}"
    flavours: "{{ flavours }}"
    flavour: ada
    dist: .fc43
  register: compared
"""

RETURN = r"""
head:
  description: The id of the channel's snapshot; empty for an empty channel.
  returned: success
  type: str
packages:
  description: All packages of the channel, as Package records.
  returned: success
  type: list
  elements: dict
wanted:
  description: The Flavour records of those that were asked for.
  returned: success
  type: list
  elements: dict
missing:
  description: The Flavour records of those that are to be built.
  returned: success
  type: list
  elements: dict
previous:
  description: For each missing flavour the Package record of the highest published one below it, if any.
  returned: success
  type: list
  elements: dict
present:
  description: The Package records of those that are published.
  returned: success
  type: list
  elements: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Flavour, Source
from ansible.module_utils.pipeline.channel.reader import Channel
from ansible.module_utils.pipeline.plan.compare import ALL, plan, predecessors, select_flavours, unknown


def main():
    module = AnsibleModule(
        argument_spec={
            "location": {"type": "str", "required": True},
            "channel": {"type": "str", "required": True},
            "key": {"type": "path", "required": True, "no_log": False},
            "source": {"type": "dict", "required": True},
            "flavours": {"type": "list", "elements": "dict", "required": True},
            "flavour": {"type": "str", "default": ALL},
            "only_first": {"type": "bool", "default": False},
            "package_release": {"type": "str", "default": "1"},
            "dist": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        # 1. What is wanted.
        source = Source.from_dict(p["source"])
        wanted = select_flavours([Flavour.from_dict(row) for row in p["flavours"]], p["flavour"])
        # 2. What is there.
        published = Channel(p["location"], Path(p["key"])).read()
        if p["only_first"]:
            wanted = unknown(wanted, published.packages)
        # 3. What is missing.
        found = plan(source, wanted, published.packages, p["package_release"], p["dist"], yanked=published.yanked)
    except PipelineError as error:
        module.fail_json(**error.failure())
    missing = ", ".join(flavour.name for flavour in found.missing)
    module.exit_json(
        changed=False,
        head=published.head,
        packages=[package.to_dict() for package in published.packages],
        wanted=[flavour.to_dict() for flavour in wanted],
        missing=[flavour.to_dict() for flavour in found.missing],
        previous=[package.to_dict() for package in predecessors(source, found.missing, published.packages)],
        present=[package.to_dict() for package in found.present],
        step={
            "name": "compare",
            "flavour": "" if p["flavour"] == ALL else p["flavour"],
            "result": told(source, missing, only_first=p["only_first"]),
            "where": p["location"],
        },
    )


def told(source, missing, *, only_first):
    if missing:
        return f"{source.rpm_version} lacks {missing}"
    return "it has packages of every flavour" if only_first else f"{source.rpm_version} is published"


if __name__ == "__main__":
    main()
