#!/usr/bin/python
"""Build: one flavour of one commit of upstream."""

DOCUMENTATION = r"""
module: cargo_build
short_description: Build a flavour of upstream with cargo
description:
  - Moves the builder's checkout to the commit, downloads the crates and CUTLASS, and compiles in a sandbox, with a
    whitelisted environment, in the one target directory of all flavours. Writes the binary with its manifest, the log,
    and a report as JSON and as a page.
  - Only a tag may be built with O(trust=release).
  - Does nothing when there is an artifact of the same inputs (commit, version, flavour, rustc, CUDA, flags).
  - GPU code is kept apart by variant. Memory limits the number of nvcc that run at once.
  - Warns if the compile cache does not work, or had fewer hits than in the build before, with the likely cause.
  - Its action plugin shows the build's progress, and stops the build when the run stops.
author: mistralrs-rpm
requirements:
  - jinja2 on the builder, for the report's page
options:
  binary:
    description: The binary's name.
    type: str
    required: true
  locked:
    description:
      - V(always) fails if Cargo.lock is stale.
      - V(prefer) then builds without it and records that.
    type: str
    choices: [always, prefer]
    default: always
  incremental:
    description:
      - Whether rustc keeps its incremental state of upstream's own crates for the next build.
      - The artifact differs from a release's in its bytes and slightly in its speed. All other units are shared.
    type: bool
    default: false
  logs_kept:
    description: The number of logs and reports of the flavour to keep.
    type: int
    default: 20
  log:
    description: The file to which the build's output is added. The action plugin sets it.
    type: path
  alive:
    description: A file that the controller touches during the build; used with O(lease).
    type: path
  lease:
    description: Stop when O(alive) was not touched for this number of seconds; never when 0.
    type: int
    default: 0
  repository:
    description:
      - Where the package will be published, for links in the report.
    type: dict
    default: {}
    suboptions:
      url:
        description: The repository's address.
        type: str
        default: ""
      release:
        description: The package's release with its dist tag.
        type: str
        default: ""
extends_documentation_fragment: [builder_root, build, trust, sandbox, no_diff]
attributes:
  check_mode:
    description: Reports whether it would build.
    support: full
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
    rustflags: -C target-cpu=x86-64
    trust: release
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
  description: The path of the build's log on the builder.
  returned: always
  type: str
upstreams:
  description: Whether the sources are known to be at fault, and not the builder.
  returned: when the compile failed
  type: bool
report:
  description: The path of the report's page on the builder; empty in check mode where it would be built.
  returned: success
  type: str
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.git import git_mirrors
from ansible.module_utils.pipeline.base.records import Artifact, Flavour, Source
from ansible.module_utils.pipeline.base.text import clock
from ansible.module_utils.pipeline.build import cargo_build
from ansible.module_utils.pipeline.build.inputs import Build
from ansible.module_utils.pipeline.build.limits import of_this_host
from ansible.module_utils.pipeline.cache.compile_cache import Cache
from ansible.module_utils.pipeline.source.mirrors import Mirrors
from ansible.module_utils.pipeline.source.trust import refuse_unfit
from ansible.module_utils.pipeline.toolchain.rust import find_rust
from ansible.module_utils.pipeline_module import BUILD, BUILDER_ROOT, SANDBOX, TRUST, ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    **BUILDER_ROOT,
    **BUILD,
    **TRUST,
    **SANDBOX,
    "binary": {"type": "str", "required": True},
    "locked": {"type": "str", "choices": ["always", "prefer"], "default": "always"},
    "incremental": {"type": "bool", "default": False},
    "logs_kept": {"type": "int", "default": 20},
    "log": {"type": "path"},
    "alive": {"type": "path"},
    "lease": {"type": "int", "default": 0},
    "repository": {
        "type": "dict",
        "default": {},
        "options": {"url": {"type": "str", "default": ""}, "release": {"type": "str", "default": ""}},
    },
}


def described(p: dict[str, Any]) -> Build:
    """The build that the module's options describe. Raises PipelineError for a trust that its source must not have."""
    root, source = Path(p["root"]), Source.from_dict(p["source"])
    refuse_unfit(p["trust"], source)
    return Build(
        root=root,
        source=source,
        flavour=Flavour.from_dict(p["flavour"]),
        package=p["package"],
        binary=p["binary"],
        rust=find_rust(p["cargo"]),
        toolkit=p["toolkit"].get("folder", ""),
        toolkit_version=p["toolkit"].get("compiler", ""),
        rustflags=p["rustflags"],
        locked=p["locked"],
        parallel=of_this_host(cuda=bool(p["toolkit"]), jobs=p["jobs"], low_memory=p["low_memory"]),
        cache=Cache.from_option(p["cache"], root),
        mirrors=Mirrors(git_mirrors(os.environ), **p["mirrors"]),
        logs_kept=p["logs_kept"],
        incremental=p["incremental"],
        trust=p["trust"],
        share_trust=p["share_trust"],
        protected=p["sandbox"] != "none",
    )


def result_of(artifact: Artifact | None, *, changed: bool) -> str:
    """The result in the summary table; ``artifact`` is None where check mode would build it."""
    if artifact is None:
        return "would be compiled"
    if not changed:
        return "already built"
    asked = artifact.cache_hits + artifact.cache_misses
    return (
        f"compiled {artifact.compiled} units in {clock(artifact.seconds)}, {artifact.fresh} were fresh"
        f"{f', {artifact.cache_hits} of {asked} from the cache' if asked else ''}"
    )


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    log = Path(p["log"] or Path(p["root"], "log", f"{p['flavour'].get('name', 'build')}.log"))
    try:
        # 1. Describe the build.
        build = described(p)
        # 2. Find its artifact, or build it.
        artifact = cargo_build.existing(build)
        changed = artifact is None
        if changed and not module.check_mode:
            alive = Path(p["alive"]) if p["alive"] else None
            artifact = cargo_build.make(
                build, log, alive=alive, lease=p["lease"], links=build.published(**p["repository"]), warn=module.warn
            )
    except PipelineError as error:
        error.details["log"] = str(log)
        raise
    return {
        "changed": changed,
        # A builder without Jinja2 leaves no page, and pruning removes old ones.
        "report": artifact.report if artifact and Path(artifact.report).is_file() else "",
        "artifact": artifact.to_dict() if artifact else {},
        "log": str(log),
        "step": step(
            "build",
            "".join(
                [
                    result_of(artifact, changed=changed),
                    ", incremental" if build.incremental else "",
                    "" if build.protected else ", without a sandbox",
                    ", trust shared" if build.share_trust else "",
                ]
            ),
            flavour=build.flavour.name,
            where=build.folder,
        ),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
