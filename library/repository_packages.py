#!/usr/bin/python
"""Compare: the packages of a commit that a repository has, and those that it lacks."""

DOCUMENTATION = r"""
module: repository_packages
short_description: Find the flavours of a commit that a repository lacks
description:
  - Reads the repository's signed metadata from a folder or over HTTP, and compares it with the flavours of a commit.
  - The published packages are the only state. A tag that is published from another commit is an error. Unless O(asked),
    so are a package that would sort below a published one, and a published release that upstream no longer has.
  - Compares the head with what the signer knows, and remembers it outside check mode. An older, rewritten or unrelated
    head is an error.
  - If a flavour is missing, asks the agent once for the room on the repo host, and looks at the signer's disk. Too
    little is an error before anything is built, and so is a signer whose clock is ahead of the repo host's.
  - Read-only.
author: mistralrs-rpm
options:
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
    description: The wanted flavour, or V(all) for every published one.
    type: str
    default: all
  only_first:
    description: Skip each flavour of which the repository has a package of any version.
    type: bool
    default: false
  asked:
    description: Whether the operator named this version or commit, instead of taking the newest one.
    type: bool
    default: false
  releases:
    description: The versions of upstream's releases, as M(upstream_source) returns them. Required unless O(asked).
    type: list
    elements: str
    default: []
  package_release:
    description: The packages' release number.
    type: str
    default: "1"
  dist:
    description: The suffix of the release number, such as V(.fc43).
    type: str
    required: true
  report_only:
    description: Too little room is not an error. RV(room) has the findings.
    type: bool
    default: false
extends_documentation_fragment: [signer, repository, read_only]
"""

EXAMPLES = r"""
- name: Compare the newest release with the stable channel
  repository_packages:
    signer: "{{ signer }}"
    repository: "{{ repository }}"
    source: "{{ resolved.source }}"
    releases: "{{ resolved.releases }}"
    flavours: "{{ flavours }}"
    flavour: ada
    dist: .fc43
  register: compared
"""

RETURN = r"""
head:
  description: The id of the repository's head; empty for an empty repository.
  returned: success
  type: str
packages:
  description: All packages of the repository, as Package records.
  returned: success
  type: list
  elements: dict
wanted:
  description: The Flavour records of the wanted flavours.
  returned: success
  type: list
  elements: dict
missing:
  description: The Flavour records of the flavours to build.
  returned: success
  type: list
  elements: dict
previous:
  description: For each missing flavour the Package record of the highest published version below this one, if any.
  returned: success
  type: list
  elements: dict
present:
  description: The Package records of the published ones.
  returned: success
  type: list
  elements: dict
room:
  description: The findings about room on the repo host and the signer; empty if nothing is missing.
  returned: success
  type: list
  elements: dict
sizes:
  description: The expected size of each missing flavour's package in bytes, by the package's name. 0 is unknown.
  returned: success
  type: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.findings import refuse
from ansible.module_utils.pipeline.base.records import Flavour, Source
from ansible.module_utils.pipeline.channel.agent_client import check_repo_host
from ansible.module_utils.pipeline.channel.heads import Memory
from ansible.module_utils.pipeline.channel.reader import Repository
from ansible.module_utils.pipeline.plan import room
from ansible.module_utils.pipeline.plan.compare import ALL, plan, predecessors, refuse_lost, select_flavours, unknown
from ansible.module_utils.pipeline.sign.signer import Signer
from ansible.module_utils.pipeline_module import REPOSITORY, SIGNER, ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "source": {"type": "dict", "required": True},
    "flavours": {"type": "list", "elements": "dict", "required": True},
    "flavour": {"type": "str", "default": ALL},
    "only_first": {"type": "bool", "default": False},
    "asked": {"type": "bool", "default": False},
    "releases": {"type": "list", "elements": "str", "default": []},
    "package_release": {"type": "str", "default": "1"},
    "dist": {"type": "str", "required": True},
    "report_only": {"type": "bool", "default": False},
    **SIGNER,
    **REPOSITORY,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    location, signer = str(p["repository"]["location"]), Signer.of(p["signer"])
    # 1. The wanted flavours.
    source = Source.from_dict(p["source"])
    flavours = [Flavour.from_dict(row) for row in p["flavours"]]
    wanted = select_flavours(flavours, p["flavour"])
    # 2. The published packages.
    channel = str(p["repository"]["channel"])
    memory = Memory.of(signer, channel, location, module.warn, keep=not module.check_mode)
    published = Repository(location, signer.trusted_keys, memory).read()
    if p["only_first"]:
        wanted = unknown(wanted, published.packages)
    # 3. The missing ones.
    if wanted and not p["asked"]:
        refuse_lost(source, flavours, published.packages, p["releases"])
    found = plan(
        source, wanted, published.packages, p["package_release"], p["dist"], yanked=published.yanked, asked=p["asked"]
    )
    for sentence in found.below:
        module.warn(sentence)
    # 4. The room for them.
    sizes = room.expected(found.missing, published.packages)
    findings = []
    if found.missing:
        on_signer = room.on_signer(room.free(signer.root), sizes, str(signer.root))
        findings = [on_signer, *check_repo_host(p["repository"], sizes)]
    if not p["report_only"]:
        refuse(findings, "the release cannot be published", channel, "Nothing was built")
    missing = ", ".join(flavour.name for flavour in found.missing)
    return {
        "changed": False,
        "head": published.head,
        "packages": [package.to_dict() for package in published.packages],
        "wanted": [flavour.to_dict() for flavour in wanted],
        "missing": [flavour.to_dict() for flavour in found.missing],
        "previous": [package.to_dict() for package in predecessors(source, found.missing, published.packages)],
        "present": [package.to_dict() for package in found.present],
        "room": [finding.to_dict() for finding in findings],
        "sizes": sizes,
        "step": step(
            "compare",
            summary(source, missing, only_first=p["only_first"]),
            flavour="" if p["flavour"] == ALL else p["flavour"],
            where=location,
        ),
    }


def summary(source: Source, missing: str, *, only_first: bool) -> str:
    if missing:
        return f"{source.rpm_version} lacks {missing}"
    return "it has packages of every flavour" if only_first else f"{source.rpm_version} is published"


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
