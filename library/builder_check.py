#!/usr/bin/python
"""Check: what this builder lacks for a flavour of a commit."""

DOCUMENTATION = r"""
module: builder_check
short_description: Check a builder before anything is compiled
description:
  - Brings the commit to the builder, reads what it asks for, and compares that with the host, its memory included.
  - Compiles a kernel and links a program as the build will; what passed is remembered until the compilers or the
    libraries change.
  - Asks over the network only for what must be downloaded, and the compile cache.
  - Fails with every finding and its remedy at once. What only makes a build slower is a warning.
author: mistralrs-rpm
options:
  root:
    description: The builder's root.
    type: path
    required: true
  source:
    description: The Source record to build.
    type: dict
    required: true
  flavour:
    description: The Flavour record to build.
    type: dict
    required: true
  package:
    description: The cargo package that holds the binary.
    type: str
    required: true
  toolkit:
    description: The CUDA toolkit to use, as M(cuda_toolkit) returns it.
    type: dict
    default: {}
  cargo:
    description: The cargo program; the one on PATH or in C(~/.cargo/bin) when empty.
    type: str
    default: ""
  rustflags:
    description: The flags that rustc will get.
    type: str
    required: true
  free_gib:
    description: How much space a build needs, in GiB.
    type: float
    required: true
  compatibility:
    description:
      - What fits together, as inventory/group_vars/all/compatibility.yml has it. What no row speaks of is not refused.
    type: dict
    default: {}
  toolkit_failure:
    description: Why there is no O(toolkit), for a flavour that needs one.
    type: str
    default: ""
  jobs:
    description: How many jobs cargo will run at once; planned from the host's processors and memory when 0.
    type: int
    default: 0
  low_memory:
    description: One compiler at a time, nvcc included, whatever O(jobs) says.
    type: bool
    default: false
  cache:
    description: The compile cache, whose levels are asked; there is none where this is left out.
    type: dict
    suboptions:
      program:
        description: The path of sccache.
        type: path
        required: true
      settings:
        description: A file of sccache's settings; without it the cache is one on disk.
        type: path
  mirrors:
    description:
      - Where crates come from, and what is fetched beside them.
      - Mirrors of git are taken from the task's environment, as the filter P(git_environment#filter) makes it.
    type: dict
    default: {}
    suboptions:
      registry:
        description: A sparse index that replaces crates.io, or a folder on the builder; crates.io itself when empty.
        type: str
        default: ""
      cutlass_commits:
        description: The commits of CUTLASS that the build needs; those that the build scripts name when empty.
        type: list
        elements: str
        default: []
  registry:
    description: The sparse index that crates come from where there is no mirror.
    type: str
    default: https://index.crates.io/
  builder:
    description: What the table calls this host.
    type: str
    default: ""
  report_only:
    description: Return the findings without failing, and ask also for what need not be downloaded.
    type: bool
    default: false
attributes:
  check_mode:
    description: Makes every finding in check mode too. The commit may be fetched, the checkout moved, and what passed
      is noted below the root, which nothing else sees.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Check the builder
  builder_check:
    root: /var/lib/mistralrs-rpm
    source: "{{ resolved.source }}"
    flavour: "{{ item }}"
    package: mistralrs-cli
    rustflags: -C target-cpu=x86-64
    free_gib: 20
"""

RETURN = r"""
findings:
  description: Each check with what was found, what is needed, whether that fits, the remedy, whether it is a warning.
  returned: always
  type: list
  elements: dict
table:
  description: The findings as lines for a person, with O(report_only); the run's summary prints them.
  returned: success
  type: list
  elements: str
tree:
  description: What the commit says of itself (commit, crate_version, rust_version, features, lock).
  returned: success, where the commit could be had
  type: dict
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base import findings
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Flavour, Source
from ansible.module_utils.pipeline.cache.compile_cache import Cache
from ansible.module_utils.pipeline.check import builder
from ansible.module_utils.pipeline.check.compatibility import Compatibility
from ansible.module_utils.pipeline.source.mirrors import Mirrors, git_mirrors


def main():
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "source": {"type": "dict", "required": True},
            "flavour": {"type": "dict", "required": True},
            "package": {"type": "str", "required": True},
            "toolkit": {"type": "dict", "default": {}},
            "toolkit_failure": {"type": "str", "default": ""},
            "cargo": {"type": "str", "default": ""},
            "rustflags": {"type": "str", "required": True},
            "free_gib": {"type": "float", "required": True},
            "compatibility": {"type": "dict", "default": {}},
            "jobs": {"type": "int", "default": 0},
            "low_memory": {"type": "bool", "default": False},
            "cache": {
                "type": "dict",
                "options": {"program": {"type": "path", "required": True}, "settings": {"type": "path"}},
            },
            "mirrors": {
                "type": "dict",
                "default": {},
                "options": {
                    "registry": {"type": "str", "default": ""},
                    "cutlass_commits": {"type": "list", "elements": "str", "default": []},
                },
            },
            "registry": {"type": "str", "default": "https://index.crates.io/"},
            "builder": {"type": "str", "default": ""},
            "report_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    p = module.params
    root, cache, found = Path(p["root"]), p["cache"], []
    try:
        # 1. Say what would be built here, and how.
        source, flavour = Source.from_dict(p["source"]), Flavour.from_dict(p["flavour"])
        question = builder.Question(
            root=root,
            source=source,
            flavour=flavour,
            package=p["package"],
            facts=Compatibility.from_dict(p["compatibility"]),
            rustflags=p["rustflags"],
            free_gib=p["free_gib"],
            toolkit=p["toolkit"],
            toolkit_failure=p["toolkit_failure"],
            # Check mode would still bring the toolkit: there is nothing to run yet.
            toolkit_planned=module.check_mode
            and bool(flavour.cuda)
            and not p["toolkit_failure"]
            and not Path(p["toolkit"].get("nvcc") or "/").is_file(),
            cargo=p["cargo"],
            jobs=p["jobs"],
            low_memory=p["low_memory"],
            cache=Cache(
                Path(cache["program"]), Path(cache["settings"]) if cache["settings"] else None, root / "cache/sccache"
            )
            if cache
            else None,
            mirrors=Mirrors(git_mirrors(os.environ), **p["mirrors"]),
            registry=p["registry"],
            ask=p["report_only"],
        )
        # 2. Look at the host, and at what the commit asks for.
        found, tree = builder.examine(question)
        # 3. Refuse, or report.
        if not p["report_only"]:
            remedy = "Nothing was compiled. Mend these, then run again"
            findings.refuse(found, "this host cannot build", str(root), remedy)
    except PipelineError as error:
        module.fail_json(findings=[f.to_dict() for f in found], **error.failure())
    base = source.version.split("-")[0]
    if source.kind == "tag" and tree and tree.crate_version != base:
        module.warn(f"{source.ref}: upstream's Cargo.toml says {tree.crate_version}; the tag's version counts")
    title = " ".join(word for word in (p["builder"], flavour.name, source.rpm_version) if word)
    for finding in found:
        if finding.warning and not p["report_only"]:
            module.warn(f"{title}, {finding.check}: {finding.found}. {finding.remedy}")
    module.exit_json(
        changed=False,
        findings=[f.to_dict() for f in found],
        table=[title, *findings.table(found)] if p["report_only"] else [],
        tree=tree.to_dict() if tree else {},
        step={
            "name": "check",
            "flavour": flavour.name,
            "result": findings.summary(found),
            "where": str(root),
        },
    )


if __name__ == "__main__":
    main()
