#!/usr/bin/python
"""Prove: a throw-away client installs and runs packages."""

DOCUMENTATION = r"""
module: client_proof
short_description: Prove that a client can install packages of a repository
description:
  - Makes a throw-away client in a sandbox of C(systemd-nspawn), with /usr of a system, an empty rpm database and the
    published C(.repo) file. It has no rights on the host, and reaches the site alone.
  - There dnf installs each package over HTTP, the module runs it, and dnf removes it; then all packages side by side.
  - A staged snapshot is proven under its final URL, before any mirrorlist names it.
  - The signatures of packages and metadata must be checked, and must be by trusted keys.
  - A provider package, made during the proof, replaces the parts of Fedora that the client lacks. The result lists
    its capabilities.
  - The host keeps nothing but the transcript, so this module never reports a change.
author: mistralrs-rpm
options:
  url:
    description: The site's URL, below which the repositories and their C(.repo) files are published.
    type: str
    required: true
  channel:
    description: The channel. V(stable) has the file C(mistralrs.repo), another channel C(mistralrs-NAME.repo).
    type: str
    default: stable
  path:
    description:
      - The repository's path below O(url), such as C(fedora/43/x86_64). Required with O(snapshot) and O(by=baseurl).
    type: str
    default: ''
  snapshot:
    description:
      - The id of a staged snapshot to prove. The client reads it by its URL as C(baseurl); only the O(previous)
        packages come from the published head. By default the published head is proven.
    type: str
    default: ''
  by:
    description: How the client reads the published head. For V(mirrorlist) the C(.repo) file is used unchanged.
    type: str
    choices: [mirrorlist, baseurl]
    default: mirrorlist
  trusted_keys:
    description: The file of the trusted keys, armored. It must contain every key that the site offers.
    type: path
    required: true
  packages:
    description: The packages to install, as Package records of the repository.
    type: list
    elements: dict
    required: true
  previous:
    description:
      - Earlier packages of some of the same names. The client installs such a package first, upgrades it, and
        downgrades to it. Other names are ignored.
    type: list
    elements: dict
    default: []
  flavours:
    description:
      - The flavour table. It ranks the generations of several packages; C(/usr/bin/mistralrs) belongs to the newest.
        Required with more than one package.
    type: list
    elements: dict
    default: []
  expect:
    description: A part of the output of C(mistralrs --version); by default the package's version.
    type: str
    default: ''
  library_path:
    description: Folders with libcudart and a libcuda, which every account may read. Only the binary uses them.
    type: list
    elements: path
    default: []
  releasever:
    description: The client's Fedora release.
    type: str
    default: '43'
  serve:
    description:
      - A folder with the content of O(url). nginx serves it during the proof, to the client as O(url), on a free port.
    type: path
  system:
    description: The root of the system that the client copies; C(scripts/system-tree forky) makes one with rpm 6.
    type: path
    default: /
  program:
    description: The client's dnf; by default dnf5 if O(system) has it, else dnf.
    type: str
    choices: ['', dnf, dnf5]
    default: ''
  transcript:
    description:
      - The file with all commands of the client and their output. While another proof writes to it, a number is added.
    type: path
    required: true
  proxies:
    description:
      - Variables of the caller's proxies and authorities, which sudo drops. Added to the module's own environment.
      - The lookup P(proxies#lookup) has them.
    type: dict
    default: {}
extends_documentation_fragment: [no_diff]
attributes:
  check_mode:
    description: Lists the steps of the proof and takes none.
    support: full
notes:
  - Requires root, C(systemd-nspawn), and a host on which root may mount an overlay and make user namespaces.
  - The program runs as the account C(mistralrs) of the package, without a capability.
  - The client's files are in memory; an installed package of 1 GB takes about 2 GB, with a previous one 4 GB. Several
    packages take the sum of that, since they are installed side by side at the end.
"""

EXAMPLES = r"""
- name: Prove the staged snapshot
  client_proof:
    url: "{{ channel_url }}"
    path: "{{ channels.stable.path }}"
    snapshot: "{{ staged.snapshot.id }}"
    trusted_keys: "{{ verifier_trusted_keys }}"
    packages: "{{ staged.packages }}"
    previous: "{{ compared.previous }}"
    flavours: "{{ flavours }}"
    transcript: "{{ verifier_log }}/client-stable.log"
  become: true

- name: Prove the published head on a client of the next generation
  client_proof:
    url: "{{ channel_url }}"
    trusted_keys: "{{ verifier_trusted_keys }}"
    packages: "{{ published.packages }}"
    flavours: "{{ flavours }}"
    system: /var/cache/mistralrs-rpm/forky-1
    program: dnf5
    transcript: "{{ verifier_log }}/client-dnf5.log"
  become: true
"""

RETURN = r"""
client:
  description: The client's dnf and rpm, with their versions.
  returned: not in check mode
  type: str
  sample: dnf 4.14.0, rpm 4.18.0
installed:
  description: The NEVRAs of the proven packages; empty in check mode.
  returned: success
  type: list
  elements: str
versions:
  description: The output of C(mistralrs --version) of each package.
  returned: not in check mode
  type: list
  elements: str
steps:
  description: The steps, each with C(verb), C(what) (a list of NEVRAs, or of one snapshot) and C(seconds).
  returned: success
  type: list
  elements: dict
seconds:
  description: The duration of the proof.
  returned: not in check mode
  type: float
dnf_seconds:
  description: The part of it that dnf took.
  returned: not in check mode
  type: float
provided:
  description: The capabilities of the provider package.
  returned: not in check mode
  type: list
  elements: str
transcript:
  description: The file with all commands of the client and their output.
  returned: success
  type: str
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.hosts.loopback_site import served
from ansible.module_utils.pipeline.prove.dnf_client import prove
from ansible.module_utils.pipeline.prove.proof import ProofOrder, previous_packages, steps_of
from ansible.module_utils.pipeline_module import ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "url": {"type": "str", "required": True},
    "channel": {"type": "str", "default": "stable"},
    "path": {"type": "str", "default": ""},
    "snapshot": {"type": "str", "default": ""},
    "by": {"type": "str", "choices": ["mirrorlist", "baseurl"], "default": "mirrorlist"},
    "trusted_keys": {"type": "path", "required": True, "no_log": False},
    "packages": {"type": "list", "elements": "dict", "required": True},
    "previous": {"type": "list", "elements": "dict", "default": []},
    "flavours": {"type": "list", "elements": "dict", "default": []},
    "expect": {"type": "str", "default": ""},
    "library_path": {"type": "list", "elements": "path", "default": []},
    "releasever": {"type": "str", "default": "43"},
    "serve": {"type": "path"},
    "system": {"type": "path", "default": "/"},
    "program": {"type": "str", "choices": ["", "dnf", "dnf5"], "default": ""},
    "transcript": {"type": "path", "required": True},
    "proxies": {"type": "dict", "default": {}, "no_log": True},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    # 1. Plan the steps.
    serve = module.params.pop("serve")
    os.environ.update(module.params.pop("proxies"))
    order = ProofOrder.from_dict(module.params)
    steps = steps_of(order)
    if module.check_mode:
        planned = {"installed": [], "steps": [one.to_dict() for one in steps], "transcript": order.transcript}
        return {**result(order, f"would {', '.join(map(str, steps))}"), **planned}

    # 2. Prove.
    with served(Path(serve)) if serve else nullcontext("") as at:
        proof = prove(replace(order, at=at))
    order = replace(order, transcript=proof.transcript)

    # 3. Report.
    verbs = "installed, upgraded, run" if previous_packages(order) else "installed, run"
    staged = ", staged" if order.snapshot else ""
    summary = f"{verbs} and removed by {proof.client} in {proof.seconds:.1f} s{staged}"
    return {**result(order, summary), **proof.to_dict()}


def result(order: ProofOrder, summary: str) -> dict[str, Any]:
    flavours = [package.name.removeprefix("mistralrs-") for package in order.packages]
    flavour = flavours[0] if len(flavours) == 1 else ""
    return {"changed": False, "step": step("prove", summary, flavour=flavour, where=order.transcript)}


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
