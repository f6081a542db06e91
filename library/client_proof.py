#!/usr/bin/python
"""Ansible module: prove that a client can install what a channel publishes, or is about to."""

from __future__ import annotations

DOCUMENTATION = r"""
module: client_proof
short_description: Prove that a client can install a channel's packages
description:
  - Makes a throw-away copy-on-write copy of a system, gives it the published C(.repo) file and an
    empty rpm database, and installs, runs and removes each package there with dnf over HTTP; then all of them
    side by side.
  - A staged snapshot is proven under the URL that it keeps, before any client is told of it.
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
  path:
    description:
      - The channel's path below O(url), as in C(fedora/43/x86_64). Needed with O(snapshot) and O(by=baseurl).
    type: str
    default: ''
  snapshot:
    description:
      - The id of a staged snapshot to prove. The client reads it by its URL as C(baseurl); only O(previous) packages
        are installed from what is published. By default what is published is proven.
    type: str
    default: ''
  by:
    description: How the client reads what is published. By V(mirrorlist) it has the C(.repo) file as it is.
    type: str
    choices: [mirrorlist, baseurl]
    default: mirrorlist
  packages:
    description: The packages to install, as Package records of the channel.
    type: list
    elements: dict
    required: true
  previous:
    description:
      - Earlier packages of some of the same names. Such a one is installed first, upgraded, and gone back to.
        Other names are not used.
    type: list
    elements: dict
    default: []
  flavours:
    description:
      - The flavour table, which tells whose command C(/usr/bin/mistralrs) is where several packages are installed.
        Needed with more than one package.
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
  system:
    description: The root of the system that the client copies; C(scripts/system-tree forky) makes one with rpm 6.
    type: path
    default: /
  client:
    description: The program that installs; by default dnf5 where O(system) has it, else dnf.
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
  - The client's files lie in memory; a package of 1 GB installed needs some 2 GB, 4 GB with a previous one. Several
    need as much together, since they are installed side by side at the end.
"""

EXAMPLES = r"""
- name: A client will be able to install what is staged
  client_proof:
    url: "{{ channel_url }}"
    path: "{{ channels.stable.path }}"
    snapshot: "{{ staged.snapshot.id }}"
    key: "{{ signing_trusted_keys }}"
    packages: "{{ staged.packages }}"
    previous: "{{ compared.previous }}"
    flavours: "{{ flavours }}"
    transcript: "{{ signer_root }}/log/client-stable.log"
  become: true

- name: A client of the next generation can install what is published
  client_proof:
    url: "{{ channel_url }}"
    key: "{{ signing_trusted_keys }}"
    packages: "{{ published.packages }}"
    flavours: "{{ flavours }}"
    system: /var/cache/mistralrs-rpm/forky-1
    client: dnf5
    transcript: "{{ signer_root }}/log/client-dnf5.log"
  become: true
"""

RETURN = r"""
client:
  description: The program that installed and the rpm it used, with their versions.
  type: str
  returned: not in check mode
  sample: dnf 4.14.0, rpm 4.18.0
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
  description: The steps, each with C(verb), C(what) (a list of NEVRAs, or of one snapshot) and C(seconds).
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
step:
  description: The line for the run's summary.
  type: dict
  returned: success
"""

from contextlib import nullcontext
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.hosts.loopback_site import served
from ansible.module_utils.pipeline.prove.dnf_client import Order, earlier, plan, prove


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "channel": {"type": "str", "default": "stable"},
            "key": {"type": "path", "required": True, "no_log": False},
            "path": {"type": "str", "default": ""},
            "snapshot": {"type": "str", "default": ""},
            "by": {"type": "str", "choices": ["mirrorlist", "baseurl"], "default": "mirrorlist"},
            "packages": {"type": "list", "elements": "dict", "required": True},
            "previous": {"type": "list", "elements": "dict", "default": []},
            "flavours": {"type": "list", "elements": "dict", "default": []},
            "expect": {"type": "str", "default": ""},
            "library_path": {"type": "list", "elements": "path", "default": []},
            "releasever": {"type": "str", "default": "43"},
            "repo_file": {"type": "str", "default": ""},
            "serve": {
                "type": "dict",
                "options": {"root": {"type": "path", "required": True}, "port": {"type": "int", "required": True}},
            },
            "system": {"type": "path", "default": "/"},
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
            steps = plan(order)
            tell(module, order, f"would {', '.join(map(str, steps))}", steps=[s.to_dict() for s in steps])

        # 2. Prove it.
        with served(Path(serve["root"]), serve["port"]) if serve else nullcontext():
            proof = prove(order)
    except PipelineError as error:
        module.fail_json(**error.failure())

    # 3. Tell.
    done = "installed, upgraded, run" if earlier(order) else "installed, run"
    staged = ", staged" if order.snapshot else ""
    tell(module, order, f"{done} and removed by {proof.client} in {proof.seconds:.1f} s{staged}", **proof.to_dict())


def tell(module: AnsibleModule, order: Order, result: str, **more: object) -> None:
    flavours = [package.name.removeprefix("mistralrs-") for package in order.packages]
    more.setdefault("installed", [])
    more.setdefault("transcript", order.transcript)
    module.exit_json(
        changed=False,
        step={
            "name": "prove",
            "flavour": flavours[0] if len(flavours) == 1 else "",
            "result": result,
            "where": order.transcript,
        },
        **more,
    )


if __name__ == "__main__":
    main()
