#!/usr/bin/python
"""Spread: which builder builds what."""

DOCUMENTATION = r"""
module: flavour_spread
short_description: Spread flavours over the builders, and collect what they handed over
description:
  - Returns the share of each builder. The same builders and flavours always give the same shares.
  - Called again after a round, it gives the flavours of a lost builder, and those that a builder's check refused, to
    another builder, and returns what was handed over.
  - Before the first round it checks that this host, the signer, can package.
  - With O(agreement) above 1, that many builders build each flavour at once.
  - A flavour that did not compile is not tried elsewhere.
author: mistralrs-rpm
options:
  flavours:
    description: The Flavour records to build.
    type: list
    elements: dict
    required: true
  table:
    description: All Flavour records. The published ones decide the home of each flavour.
    type: list
    elements: dict
    required: true
  builders:
    description: The builders in the inventory's order, each as the variable C(builder) of the inventory describes it.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The builder's name.
        type: str
        required: true
      flavours:
        description: The flavours that it may build; all when empty.
        type: list
        elements: str
        default: []
      weight:
        description: How many flavours it builds in the time in which a builder of weight 1 builds one.
        type: int
        default: 1
  answers:
    description:
      - For each builder, in the same order, the registered result of a ping; empty for one that C(--limit) leaves out.
    type: list
    elements: dict
    required: true
  outcomes:
    description: For each builder, in the same order, its fact C(outcomes), by flavour; empty before it built anything.
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
    description: No round follows. Flavours that could still be built then count as missing.
    type: bool
    default: false
  agreement:
    description: The number of builders that must build each flavour. More than the inventory has is an error.
    type: int
    default: 1
extends_documentation_fragment: [read_only]
"""

EXAMPLES = r"""
- name: Spread the flavours over the builders
  flavour_spread:
    flavours: "{{ compared.missing }}"
    table: "{{ flavours }}"
    builders: "{{ groups.builders | map('extract', hostvars, 'builder') }}"
    answers: "{{ groups.builders | map('extract', hostvars) | map(attribute='answered', default={}) }}"
    outcomes: "{{ groups.builders | map('extract', hostvars) | map(attribute='outcomes', default={}) }}"
  register: spread
"""

RETURN = r"""
shares:
  description: The Flavour records that each builder builds now, by its name; builders without a share are left out.
  returned: success
  type: dict
missing:
  description: The flavours that nobody will build, each with C(flavour) and C(reason).
  returned: success
  type: list
  elements: dict
handed:
  description:
    - The flavours for the signer to package, each with C(flavour), its record, and C(builders), a list of C(builder)
      and C(file).
  returned: success
  type: list
  elements: dict
lost:
  description: The builders that are gone.
  returned: success
  type: list
  elements: str
step:
  description: The row of the run's summary table.
  returned: success, with several builders
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.records import Flavour
from ansible.module_utils.pipeline.package.rpm import require_tools
from ansible.module_utils.pipeline.plan.outcomes import outcomes_of
from ansible.module_utils.pipeline.plan.spread import Builder, handed_over, spread
from ansible.module_utils.pipeline_module import ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "flavours": {"type": "list", "elements": "dict", "required": True},
    "table": {"type": "list", "elements": "dict", "required": True},
    "builders": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "flavours": {"type": "list", "elements": "str", "default": []},
            "weight": {"type": "int", "default": 1},
        },
    },
    "answers": {"type": "list", "elements": "dict", "required": True},
    "outcomes": {"type": "list", "elements": "dict", "required": True},
    "given": {"type": "dict", "default": {}},
    "lost": {"type": "list", "elements": "str", "default": []},
    "last": {"type": "bool", "default": False},
    "agreement": {"type": "int", "default": 1},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    # 1. The signer must be able to package what they build.
    if not p["given"]:
        require_tools()
    # 2. The flavours, and the builders with their outcomes so far.
    wanted = {row["name"]: row for row in p["flavours"]}
    table = [flavour.name for flavour in map(Flavour.from_dict, p["table"])]
    builders = [
        Builder(
            name=row["name"],
            flavours=tuple(row["flavours"]),
            weight=row["weight"],
            answers=not answer.get("unreachable"),
            in_run=bool(answer),
            outcomes=outcomes_of(outcomes),
        )
        for row, answer, outcomes in zip(p["builders"], p["answers"], p["outcomes"], strict=True)
    ]
    # 3. The shares of the next round.
    given = {name: [row["name"] for row in rows] for name, rows in p["given"].items()}
    found = spread(list(wanted), builders, table, given=given, lost=p["lost"], last=p["last"], agreement=p["agreement"])
    # 4. What the signer can package.
    handed = handed_over(list(wanted), builders, p["agreement"])
    return {
        "changed": False,
        "shares": {name: [wanted[flavour] for flavour in share] for name, share in found.shares.items()},
        "missing": [row.to_dict() for row in found.missing],
        "handed": [
            {"flavour": wanted[flavour], "builders": [one.to_dict() for one in some]}
            for flavour, some in handed.items()
        ],
        "lost": list(found.lost),
        # With one builder the row would only repeat the flavours.
        **({"step": step("spread", found.summary)} if len(builders) > 1 else {}),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
