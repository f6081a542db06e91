#!/usr/bin/python
"""Check: what this builder lacks for a flavour of a commit."""

DOCUMENTATION = r"""
module: build_environment
short_description: Check a builder before anything is compiled
description:
  - Moves the builder's checkout to the commit, reads what it needs, and compares that with the host.
  - Fails with every finding and its remedy at once.
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
  cuda_limits:
    description: Upstream version to the newest CUDA that it, and what follows it, accepts.
    type: dict
    default: {}
  cuda_lowest:
    description: Compute capability to the oldest CUDA without a known defect for it.
    type: dict
    default: {}
  report_only:
    description: Return the findings without failing.
    type: bool
    default: false
attributes:
  check_mode:
    description: Makes every finding in check mode too; the checkout is moved, which nothing else sees.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Check the builder
  build_environment:
    root: /var/lib/mistralrs-rpm
    source: "{{ resolved.source }}"
    flavour: "{{ item }}"
    package: mistralrs-cli
    rustflags: -C target-cpu=x86-64
    free_gib: 20
"""

RETURN = r"""
findings:
  description: Each check with what was found, what is needed, whether that fits, and the remedy.
  returned: always
  type: list
  elements: dict
table:
  description: The findings as lines for a person, with O(report_only); the run's summary prints them.
  returned: success
  type: list
  elements: str
tree:
  description: The Checkout record (folder, commit, crate_version, rust_version, moved).
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline import environment
from ansible.module_utils.pipeline.checkout import move
from ansible.module_utils.pipeline.errors import PipelineError
from ansible.module_utils.pipeline.lock import held
from ansible.module_utils.pipeline.records import Flavour, Source


def main():
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "source": {"type": "dict", "required": True},
            "flavour": {"type": "dict", "required": True},
            "package": {"type": "str", "required": True},
            "toolkit": {"type": "dict", "default": {}},
            "cargo": {"type": "str", "default": ""},
            "rustflags": {"type": "str", "required": True},
            "free_gib": {"type": "float", "required": True},
            "cuda_limits": {"type": "dict", "default": {}},
            "cuda_lowest": {"type": "dict", "default": {}},
            "report_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    p = module.params
    root = Path(p["root"])
    findings = []
    try:
        # 1. Read what the commit itself asks for.
        source, flavour = Source.from_dict(p["source"]), Flavour.from_dict(p["flavour"])
        with held(root / "lock"):
            tree = move(root / "src", source, p["package"])
        # 2. Look at the host.
        findings = environment.examine(
            root,
            source,
            flavour,
            tree,
            toolkit=p["toolkit"],
            cargo=p["cargo"],
            rustflags=p["rustflags"],
            free_gib=p["free_gib"],
            cuda_limits=p["cuda_limits"],
            cuda_lowest=p["cuda_lowest"],
            toolkit_planned=module.check_mode and not Path(p["toolkit"].get("nvcc") or "/").is_file(),
        )
        # 3. Refuse, or report.
        if not p["report_only"]:
            remedy = "Nothing was compiled. Mend these, then run again"
            environment.refuse(findings, "this host cannot build", str(root), remedy)
    except PipelineError as error:
        module.fail_json(findings=[f.to_dict() for f in findings], **error.failure())
    base = source.version.split("-")[0]
    if source.kind == "tag" and tree.crate_version != base:
        module.warn(f"{source.ref}: upstream's Cargo.toml says {tree.crate_version}; the tag's version counts")
    bad = sum(not finding.fits for finding in findings)
    module.exit_json(
        changed=False,
        findings=[f.to_dict() for f in findings],
        table=[f"{flavour.name} {source.rpm_version}", *environment.table(findings)] if p["report_only"] else [],
        tree=tree.to_dict(),
        stage={
            "name": "check",
            "flavour": flavour.name,
            "result": f"{len(findings) - bad} of {len(findings)} checks fit",
            "where": str(root),
        },
    )


if __name__ == "__main__":
    main()
