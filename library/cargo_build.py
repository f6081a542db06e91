#!/usr/bin/python
"""Build: one flavour of one commit of upstream."""

DOCUMENTATION = r"""
module: cargo_build
short_description: Build a flavour of upstream with cargo
description:
  - Moves the builder's checkout to the commit, downloads the crates and CUTLASS, compiles with a whitelisted
    environment in one target directory for all flavours, and leaves the binary with its manifest, the log, and a
    report as a page and as JSON.
  - Does nothing when an artifact of the same inputs is there (commit, version, flavour, rustc, CUDA, flags).
  - What depends on the GPU is kept apart by variant. No more nvcc run at once than the host's memory allows.
  - Warns of a compile cache that is not there, or that gave less than in the build before, with the likely cause.
  - Through its action plugin it shows the build's progress while it runs, and stops when the run is stopped.
author: mistralrs-rpm
options:
  root:
    description: The builder's root; the checkout, the caches and the artifacts lie below it.
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
  binary:
    description: The binary's name.
    type: str
    required: true
  toolkit:
    description: The CUDA toolkit to use, as M(cuda_toolkit) returns it. Flavours without CUDA need none.
    type: dict
    default: {}
  cargo:
    description: The cargo program; the one on PATH or in C(~/.cargo/bin) when empty.
    type: str
    default: ""
  rustflags:
    description: The flags for rustc, in place of all that upstream's configuration sets.
    type: str
    default: -C target-cpu=x86-64
  locked:
    description: V(always) fails where Cargo.lock does not fit; V(prefer) goes on without it and records that.
    type: str
    choices: [always, prefer]
    default: always
  cache:
    description:
      - The compile cache; there is none where this is left out.
      - A cache that does not work is told in the log and never fails the build.
    type: dict
    suboptions:
      program:
        description: The path of sccache, as M(compile_cache) provides it.
        type: path
        required: true
      settings:
        description:
          - A file of sccache's settings, lines of NAME=VALUE, as the role compile_cache writes it.
          - Without it the cache lies on disk, in C(cache/sccache) below O(root), with sccache's own limit of 10 GB.
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
        description: The commits of CUTLASS to have before the compile; those that the build scripts name when empty.
        type: list
        elements: str
        default: []
  jobs:
    description:
      - How many jobs cargo runs at once; planned from the host's processors and memory when 0.
      - How many nvcc run beside them is planned from the memory in either case.
    type: int
    default: 0
  low_memory:
    description: One compiler at a time, nvcc included, whatever O(jobs) says.
    type: bool
    default: false
  incremental:
    description:
      - Whether rustc keeps, for upstream's own crates, what it found out and uses it again at the next build of them.
      - The artifact is another than that of a release, in its bytes and a little in its speed. All else is shared.
    type: bool
    default: false
  logs_kept:
    description: How many logs and reports of the flavour are kept.
    type: int
    default: 20
  log:
    description: The file that the build's output is added to. The action plugin names one.
    type: path
  alive:
    description: A file that is touched while somebody watches; used with O(lease).
    type: path
  lease:
    description: Stop when O(alive) was not touched for so many seconds; never when 0.
    type: int
    default: 0
attributes:
  check_mode:
    description: Tells whether it would build.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Build the flavour
  cargo_build:
    root: /var/lib/mistralrs-rpm
    source: "{{ resolved.source }}"
    flavour: "{{ item }}"
    package: mistralrs-cli
    binary: mistralrs
    toolkit: "{{ cuda.toolkit }}"
  register: built
"""

RETURN = r"""
artifact:
  description:
    - The Artifact record, with C(cache_hits) and C(cache_misses) among others; empty in check mode where it would
      be built.
  returned: success
  type: dict
log:
  description: The build's log, on the builder.
  returned: always
  type: str
upstreams:
  description: Whether the sources are at fault, and not the builder.
  returned: when the compile failed
  type: bool
report:
  description: The build's report, a page on the builder; empty in check mode where it would be built.
  returned: success
  type: str
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.records import Flavour, Source
from ansible.module_utils.pipeline.build import cargo
from ansible.module_utils.pipeline.build.limits import of_this_host
from ansible.module_utils.pipeline.build.progress import clock
from ansible.module_utils.pipeline.cache.compile_cache import Cache
from ansible.module_utils.pipeline.source.mirrors import Mirrors, git_mirrors
from ansible.module_utils.pipeline.toolchain.rustc import find_rust


def cache_of(p, root):
    settings = Path(p["settings"]) if p["settings"] else None
    return Cache(Path(p["program"]), settings, root / "cache" / "sccache")


def main():
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "source": {"type": "dict", "required": True},
            "flavour": {"type": "dict", "required": True},
            "package": {"type": "str", "required": True},
            "binary": {"type": "str", "required": True},
            "toolkit": {"type": "dict", "default": {}},
            "cargo": {"type": "str", "default": ""},
            "rustflags": {"type": "str", "default": "-C target-cpu=x86-64"},
            "locked": {"type": "str", "choices": ["always", "prefer"], "default": "always"},
            "cache": {
                "type": "dict",
                "options": {
                    "program": {"type": "path", "required": True},
                    "settings": {"type": "path"},
                },
            },
            "mirrors": {
                "type": "dict",
                "default": {},
                "options": {
                    "registry": {"type": "str", "default": ""},
                    "cutlass_commits": {"type": "list", "elements": "str", "default": []},
                },
            },
            "jobs": {"type": "int", "default": 0},
            "low_memory": {"type": "bool", "default": False},
            "incremental": {"type": "bool", "default": False},
            "logs_kept": {"type": "int", "default": 20},
            "log": {"type": "path"},
            "alive": {"type": "path"},
            "lease": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    p = module.params
    root = Path(p["root"])
    log = Path(p["log"] or root / "log" / f"{p['flavour'].get('name', 'build')}.log")
    try:
        # 1. Say what decides the artifact's bytes.
        plan = cargo.Plan(
            root=root,
            source=Source.from_dict(p["source"]),
            flavour=Flavour.from_dict(p["flavour"]),
            package=p["package"],
            binary=p["binary"],
            rust=find_rust(p["cargo"]),
            toolkit=p["toolkit"].get("folder", ""),
            toolkit_version=p["toolkit"].get("compiler", ""),
            rustflags=p["rustflags"],
            locked=p["locked"],
            parallel=of_this_host(cuda=bool(p["toolkit"]), jobs=p["jobs"], low_memory=p["low_memory"]),
            mirrors=Mirrors(git_mirrors(os.environ), **p["mirrors"]),
            logs_kept=p["logs_kept"],
            incremental=p["incremental"],
            cache=cache_of(p["cache"], root) if p["cache"] else None,
        )
        # 2. Recognise what was built already, or build it.
        artifact = cargo.existing(plan)
        changed = artifact is None
        if changed and not module.check_mode:
            alive = Path(p["alive"]) if p["alive"] else None
            artifact = cargo.build(plan, log, alive=alive, lease=p["lease"], warn=module.warn)
    except PipelineError as error:
        module.fail_json(log=str(log), **error.failure())
    # 3. Report.
    if artifact is None:
        result = "would be compiled"
    elif changed:
        result = f"compiled {artifact.compiled} units in {clock(artifact.seconds)}, {artifact.fresh} were fresh"
        asked = artifact.cache_hits + artifact.cache_misses
        result += f", {artifact.cache_hits} of {asked} from the cache" if asked else ""
    else:
        result = "already built"
    result += ", incremental" if plan.incremental else ""
    module.exit_json(
        changed=changed,
        report=artifact.report if artifact else "",
        artifact=artifact.to_dict() if artifact else {},
        log=str(log),
        step={"name": "build", "flavour": plan.flavour.name, "result": result, "where": str(plan.folder)},
    )


if __name__ == "__main__":
    main()
