#!/usr/bin/python
"""Check: what this builder lacks for a flavour of a commit."""

DOCUMENTATION = r"""
module: builder_check
short_description: Check a builder before anything is compiled
description:
  - Fetches the commit, reads its manifest, and compares its needs with the host, including the host's memory.
  - Compiles a kernel and links a program as the build will. A trial that passes runs again only after the compilers or
    the libraries change.
  - Makes network requests only for dependencies that must be downloaded, and to the compile cache.
  - Fails with every failed check and its remedy at once. A problem that only makes a build slower is a warning.
author: mistralrs-rpm
options:
  free_gib:
    description: The free disk space that a build needs, in GiB.
    type: float
    required: true
  locked:
    description: Whether a Cargo.lock that does not fit the manifests fails the check (V(always)) or is a warning.
    type: str
    choices: [always, prefer]
    default: always
  compatibility:
    description:
      - The table of inventory/group_vars/all/compatibility.yml. A combination without a row is not refused.
    type: dict
    default: {}
  builder:
    description: The name of this host in the table of findings.
    type: str
    default: ""
  report_only:
    description: Return the findings without failing, and make network requests also for dependencies that are here.
    type: bool
    default: false
extends_documentation_fragment: [builder_root, build, trust, sandbox, no_diff]
notes:
  - Where no toolkit could be provided, O(toolkit) has the key C(failure) alone, with the reason.
attributes:
  check_mode:
    description: Makes every finding in check mode too. It may fetch the commit, move the checkout and record passed
      trials below the root, which nothing else reads.
    support: full
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
    trust: release
    locked: always
"""

RETURN = r"""
findings:
  description: The checks, each with C(check), C(found), C(needed), C(fits), C(remedy) and C(warning).
  returned: when the checks ran
  type: list
  elements: dict
table:
  description: The findings as lines of a table, with O(report_only); the run's summary prints them.
  returned: success
  type: list
  elements: str
tree:
  description: The package in the commit's workspace, as cargo sees it (commit, crate_version, rust_version, features,
    lock, misfit, lfs, submodules, beside, scripts).
  returned: success, where the commit could be read
  type: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base import findings
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.base.git import git_mirrors
from ansible.module_utils.pipeline.base.records import Flavour, Source
from ansible.module_utils.pipeline.cache.compile_cache import Cache
from ansible.module_utils.pipeline.check.builder import BuildRequest, check
from ansible.module_utils.pipeline.check.compatibility import Compatibility
from ansible.module_utils.pipeline.source.mirrors import Mirrors
from ansible.module_utils.pipeline.source.trust import state_of
from ansible.module_utils.pipeline_module import BUILD, BUILDER_ROOT, SANDBOX, TRUST, ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    **BUILDER_ROOT,
    **BUILD,
    **TRUST,
    **SANDBOX,
    "free_gib": {"type": "float", "required": True},
    "locked": {"type": "str", "choices": ["always", "prefer"], "default": "always"},
    "compatibility": {"type": "dict", "default": {}},
    "builder": {"type": "str", "default": ""},
    "report_only": {"type": "bool", "default": False},
}


def build_request(p: dict[str, Any], *, check_mode: bool) -> BuildRequest:
    root, toolkit = Path(p["root"]), p["toolkit"]
    flavour, failure = Flavour.from_dict(p["flavour"]), toolkit.get("failure", "")
    # Check mode only announces a toolkit: there is no nvcc to run yet.
    absent = not Path(toolkit.get("nvcc") or "/").is_file()
    state = state_of(root, p["trust"], shared=p["share_trust"])
    return BuildRequest(
        root=root,
        checkout=state / "src",
        source=Source.from_dict(p["source"]),
        flavour=flavour,
        package=p["package"],
        facts=Compatibility.from_dict(p["compatibility"]),
        rustflags=p["rustflags"],
        free_gib=p["free_gib"],
        toolkit=toolkit,
        toolkit_failure=failure,
        toolkit_planned=check_mode and bool(flavour.cuda) and not failure and absent,
        cargo=p["cargo"],
        jobs=p["jobs"],
        low_memory=p["low_memory"],
        cache=Cache.from_option(p["cache"], root),
        mirrors=Mirrors(git_mirrors(os.environ), **p["mirrors"]),
        ask=p["report_only"],
        protected=p["sandbox"] != "none",
        overlays=state != root,
        locked=p["locked"],
    )


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    # 1. The build that this host is checked for.
    request = build_request(p, check_mode=module.check_mode)
    source, flavour = request.source, request.flavour
    # 2. The checks.
    found, tree = check(request)
    rows = [finding.to_dict() for finding in found]
    # 3. Fail, or warn.
    title = " ".join(word for word in (p["builder"], flavour.name, source.rpm_version) if word)
    if not p["report_only"]:
        try:
            remedy = "Nothing was compiled. Fix these, then run again"
            findings.refuse(found, "this host cannot build", p["root"], remedy)
        except PipelineError as error:
            error.details = {"findings": rows}
            raise
        for finding in found:
            if finding.warning:
                module.warn(f"{title}, {finding.check}: {finding.found}. {finding.remedy}")
    if source.kind == "tag" and tree and tree.crate_version != source.version.split("-")[0]:
        module.warn(f"{source.ref}: upstream's Cargo.toml says {tree.crate_version}; the tag's version counts")
    return {
        "changed": False,
        "findings": rows,
        "table": [title, *findings.table(found)] if p["report_only"] else [],
        "tree": tree.to_dict() if tree else {},
        "step": step("check", findings.summary(found), flavour=flavour.name, where=p["root"]),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
