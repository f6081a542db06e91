#!/usr/bin/python
"""Ansible module: prove that a client can install what a channel publishes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: channel_install
short_description: Prove that a client can install a channel's packages
description:
  - Makes a throw-away copy-on-write copy of the running system, gives it the published C(.repo) file and an
    empty rpm database, and installs, runs and removes each package there with dnf over HTTP.
  - The signatures of packages and metadata must be checked and must come from the trusted key.
  - What Fedora itself would provide comes from a provider package that is made on the spot; the result
    lists what it stood in for.
  - The host keeps nothing but the transcript, so this never reports a change.
author: mistralrs-rpm
options:
  url:
    description: The URL below which the channels and their C(.repo) files are published.
    type: str
    required: true
  channel:
    description: The channel; C(mistralrs.repo) is the file of V(stable), C(mistralrs-NAME.repo) of another.
    type: str
    default: stable
  key:
    description: The file of the trusted public keys, armored. The keys that the channel offers must be in it.
    type: path
    required: true
  packages:
    description: The packages to install, as Package records of the channel.
    type: list
    elements: dict
    required: true
  previous:
    description:
      - Earlier packages of some of the same names. Such a one is installed first, upgraded, and gone back to.
    type: list
    elements: dict
    default: []
  expect:
    description: What C(mistralrs --version) must contain; by default the package's version.
    type: str
    default: ''
  library_path:
    description: Folders with libcudart and a libcuda, which only the binary sees.
    type: list
    elements: path
    default: []
  releasever:
    description: The Fedora release that the client says it is.
    type: str
    default: '43'
  repo_file:
    description: The text of the C(.repo) file; by default it is fetched from O(url).
    type: str
    default: ''
  serve:
    description: A folder to serve at O(url) by nginx on loopback while the proof lasts, unless it is served already.
    type: dict
    suboptions:
      root:
        description: The folder; it holds what O(url) names.
        type: path
        required: true
      port:
        description: The port on 127.0.0.1.
        type: int
        required: true
  client:
    description: The program that installs; by default dnf5 where it is installed, else dnf.
    type: str
    choices: ['', dnf, dnf5]
    default: ''
  transcript:
    description: The file that keeps all that the client did and said.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Says which steps the proof would take and takes none.
  diff_mode:
    support: none
    description: Nothing changes.
notes:
  - Needs root, and a host where root may mount an overlay.
  - The client's files lie in memory; a package of 1 GB installed needs some 2 GB, 4 GB with a previous one.
"""

EXAMPLES = r"""
- name: A client can install what was published
  channel_install:
    url: "{{ channel_url }}"
    key: "{{ signer_root }}/public.asc"
    packages: "{{ published.packages }}"
    expect: "mistralrs {{ source.version }}"
    transcript: "{{ project_root }}/.local/log/client-stable.log"
  become: true
"""

RETURN = r"""
client:
  description: The program that installed, and its version.
  type: str
  returned: not in check mode
  sample: dnf 4.14.0
installed:
  description: The packages that were proven.
  type: list
  elements: str
  returned: success
versions:
  description: What the binary of each said of itself.
  type: list
  elements: str
  returned: not in check mode
steps:
  description: The steps, each with C(verb), C(nevra) and C(seconds).
  type: list
  elements: dict
  returned: success
seconds:
  description: The time of the whole proof.
  type: float
  returned: not in check mode
dnf_seconds:
  description: The part of it that was spent in dnf.
  type: float
  returned: not in check mode
provided:
  description: What the provider package stood in for.
  type: list
  elements: str
  returned: not in check mode
transcript:
  description: The file with all that the client did and said.
  type: str
  returned: success
stage:
  description: The line for the run's summary.
  type: dict
  returned: success
"""

from contextlib import nullcontext
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.client import Order, plan, prove
from ansible.module_utils.pipeline.errors import PipelineError
from ansible.module_utils.pipeline.loopback_site import served


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "channel": {"type": "str", "default": "stable"},
            "key": {"type": "path", "required": True, "no_log": False},
            "packages": {"type": "list", "elements": "dict", "required": True},
            "previous": {"type": "list", "elements": "dict", "default": []},
            "expect": {"type": "str", "default": ""},
            "library_path": {"type": "list", "elements": "path", "default": []},
            "releasever": {"type": "str", "default": "43"},
            "repo_file": {"type": "str", "default": ""},
            "serve": {
                "type": "dict",
                "options": {"root": {"type": "path", "required": True}, "port": {"type": "int", "required": True}},
            },
            "client": {"type": "str", "choices": ["", "dnf", "dnf5"], "default": ""},
            "transcript": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        # 1. What is to be proven, and by which steps.
        serve = module.params.pop("serve")
        order = Order.from_dict(module.params)
        if module.check_mode:
            steps = plan(order.packages, order.previous)
            tell(module, order, f"would {', '.join(map(str, steps))}", steps=[s.to_dict() for s in steps])

        # 2. Prove it.
        with served(Path(serve["root"]), serve["port"]) if serve else nullcontext():
            proof = prove(order)
    except PipelineError as error:
        module.fail_json(**error.failure())

    # 3. Tell.
    done = "installed, upgraded, run" if order.previous else "installed, run"
    tell(module, order, f"{done} and removed by {proof.client} in {proof.seconds:.1f} s", **proof.to_dict())


def tell(module: AnsibleModule, order: Order, result: str, **more: object) -> None:
    flavours = [package.name.removeprefix("mistralrs-") for package in order.packages]
    more.setdefault("installed", [])
    more.setdefault("transcript", order.transcript)
    module.exit_json(
        changed=False,
        stage={
            "name": "prove",
            "flavour": flavours[0] if len(flavours) == 1 else "",
            "result": result,
            "where": order.transcript,
        },
        **more,
    )


if __name__ == "__main__":
    main()
