#!/usr/bin/python
"""The release packages: the .repo files and trusted keys for clients, and the program that names a flavour."""

DOCUMENTATION = r"""
module: release_package
short_description: Build the packages mistralrs-release and mistralrs where the channels need new ones
description:
  - C(mistralrs-release) owns the C(.repo) files of the channels and one file with all trusted keys. Clients upgrade it
    like any package, so they have the next key before it signs anything.
  - C(mistralrs) contains the program C(mistralrs-which-flavour), which names the package of the flavour that a host's
    GPU takes, by the table O(flavours).
  - Reads the channels' signed metadata. New packages are built if their contents would differ from the newest published
    ones, if one of those was yanked, or if a channel's head is signed by another key than the present one.
  - Otherwise the published ones are fetched from the pool, for the channels that lack them and for the site.
author: mistralrs-rpm
options:
  channels:
    description:
      - The channels by name. A row has C(path) below O(location) and O(url), C(repo), the name of its C(.repo) file,
        and optionally C(metadata_expire), by default C(6h). Other keys are ignored. Clients have V(stable) enabled.
    type: dict
    required: true
  location:
    description: The folder or http(s) URL where the signer reads the channels.
    type: str
    required: true
  url:
    description: The URL of the channels for clients.
    type: str
    required: true
  fedora:
    description: The Fedora release of the channels; the packages' version.
    type: str
    required: true
  without:
    description:
      - The fingerprint of a key that C(mistralrs-release) omits, since it is about to be retired.
      - An error for the key that signs, and while a package of a channel's head is signed by it.
    type: str
    default: ''
  flavours:
    description: The table of flavours. The rows with O(flavours[].published) false are left out.
    type: list
    elements: dict
    required: true
  spec_folder:
    description: This project's folder C(rpm).
    type: path
    required: true
extends_documentation_fragment: [signer]
attributes:
  check_mode:
    description: Reports whether a package would be built; reads the channels and changes nothing.
    support: full
  diff_mode:
    description: Shows the package's name and why it is built.
    support: full
"""

EXAMPLES = r"""
- name: Compare the release package with the published one
  release_package:
    channels: "{{ channels }}"
    location: https://rpm.example.org
    url: https://rpm.example.org
    fedora: "43"
    flavours: "{{ flavours }}"
    signer: "{{ signer }}"
    spec_folder: "{{ project_root }}/rpm"
  register: release
"""

RETURN = r"""
needed:
  description: True if new packages were built, which are to be signed and published.
  returned: success
  type: bool
packages:
  description:
    - The Package records of the new unsigned files, or of the published ones, fetched to the signer. The first is
      C(mistralrs-release).
    - In check mode, path and sha256 are empty if they would be built.
  returned: success
  type: list
  elements: dict
channels:
  description: The names of the channels that lack the packages.
  returned: success
  type: list
  elements: str
older:
  description:
    - The file names of earlier packages of these names in the heads, by channel. Once RV(packages) are published
      without a key, only they still hold it or are signed by it.
  returned: success
  type: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.records import Flavour
from ansible.module_utils.pipeline.channel.release_package import Request, provide
from ansible.module_utils.pipeline.channel.repo_file import ChannelRow
from ansible.module_utils.pipeline.sign.keyring import whole_fingerprint
from ansible.module_utils.pipeline.sign.signer import Signer
from ansible.module_utils.pipeline_module import SIGNER, ArgumentSpec, run, step

ARGUMENT_SPEC: ArgumentSpec = {
    "channels": {"type": "dict", "required": True},
    "location": {"type": "str", "required": True},
    "url": {"type": "str", "required": True},
    "fedora": {"type": "str", "required": True},
    "flavours": {"type": "list", "elements": "dict", "required": True},
    "without": {"type": "str", "default": ""},
    "spec_folder": {"type": "path", "required": True},
    **SIGNER,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    p = module.params
    request = Request(
        rows=tuple(ChannelRow.of(str(name), row) for name, row in p["channels"].items()),
        location=str(p["location"]),
        url=str(p["url"]),
        fedora=str(p["fedora"]),
        signer=Signer.of(p["signer"]),
        spec_folder=Path(p["spec_folder"]),
        flavours=tuple(map(Flavour.from_dict, p["flavours"])),
        without=whole_fingerprint(p["without"]) if p["without"] else "",
        note=module.warn,
    )
    done = provide(request, check=module.check_mode)
    name = done.package.filename
    return {
        "changed": done.built,
        "needed": done.built,
        "packages": [package.to_dict() for package in done.packages],
        "channels": list(done.lacking),
        "older": {channel: list(names) for channel, names in done.older.items()},
        "diff": {"before": "", "after": f"{name}: {done.reason}\n" if done.built else ""},
        "step": step("release", f"{name}: {done.reason}", where=done.package.path),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
