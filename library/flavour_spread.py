#!/usr/bin/python
"""Spread: which builder builds what."""

DOCUMENTATION = r"""
module: flavour_spread
short_description: Spread flavours over the builders, and take stock of what they made
description:
  - Says for each builder which flavours it builds now. The same builders and flavours always give the same shares.
  - Called again after a round, it gives what a lost builder left, or what a builder's check handed on, to another; and
    holds each package that arrived against the digest that its builder told.
  - A flavour that did not compile is not tried elsewhere.
author: mistralrs-rpm
options:
  flavours:
    description: The Flavour records to build.
    type: list
    elements: dict
    required: true
  table:
    description: All Flavour records; those that are published have their homes by them.
    type: list
    elements: dict
    required: true
  builders:
    description: The builders in the inventory's order, each as C(builder_report) of group_vars/builders.yml tells it.
    type: list
    elements: dict
    required: true
  given:
    description: The shares of the round before, as this module returned them.
    type: dict
    default: {}
  lost:
    description: The builders that were lost by then, as this module returned them.
    type: list
    elements: str
    default: []
  last:
    description: No round follows. What could still be built then counts as missing.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Say which builder builds what
  flavour_spread:
    flavours: "{{ compared.missing }}"
    table: "{{ flavours }}"
    builders: "{{ groups.builders | map('extract', hostvars, 'builder_report') }}"
  register: spread
"""

RETURN = r"""
shares:
  description: The Flavour records that each builder has to build now, by its name; builders without any are left out.
  returned: success
  type: dict
missing:
  description: What nobody will build, each with C(flavour) and C(told), why.
  returned: success
  type: list
  elements: dict
packages:
  description: The Package records that have arrived, verified.
  returned: success
  type: list
  elements: dict
lost:
  description: The builders that are gone.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Flavour
from ansible.module_utils.pipeline.plan.spread import Builder, spread, verified


def main():
    module = AnsibleModule(
        argument_spec={
            "flavours": {"type": "list", "elements": "dict", "required": True},
            "table": {"type": "list", "elements": "dict", "required": True},
            "builders": {"type": "list", "elements": "dict", "required": True},
            "given": {"type": "dict", "default": {}},
            "lost": {"type": "list", "elements": "str", "default": []},
            "last": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        # 1. What is there to build, and who could.
        wanted = {row["name"]: row for row in p["flavours"]}
        table = [flavour.name for flavour in map(Flavour.from_dict, p["table"])]
        builders = [Builder.from_dict(row) for row in p["builders"]]
        # 2. What has arrived.
        packages = verified(builders)
        # 3. Who builds what is left.
        given = {name: [row["name"] for row in rows] for name, rows in p["given"].items()}
        found = spread(list(wanted), builders, table, given=given, lost=p["lost"], last=p["last"])
    except PipelineError as error:
        module.fail_json(**error.failure())
    # With one builder there is nothing to tell of.
    told = {"name": "spread", "flavour": "", "result": found.told, "where": ""} if len(builders) > 1 else None
    module.exit_json(
        changed=False,
        shares={name: [wanted[flavour] for flavour in share] for name, share in found.shares.items()},
        missing=[row.to_dict() for row in found.missing],
        packages=[package.to_dict() for package in packages],
        lost=list(found.lost),
        **({"step": told} if told else {}),
    )


if __name__ == "__main__":
    main()
