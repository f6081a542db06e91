#!/usr/bin/python
"""The release package: the .repo files and the trusted keys, for clients to upgrade."""

DOCUMENTATION = r"""
module: release_package
short_description: Build the package mistralrs-release where the channels need a new one
description:
  - The package owns the C(.repo) files of the channels and one file with all trusted keys. Clients upgrade it like any
    package, so they have the next key before it signs anything.
  - Reads the channels' signed metadata. A new package is built if its contents would differ from the newest published
    one, or if a channel's head is signed by another key than the present one.
  - Otherwise the published one is fetched from the pool, for the channels that lack it and for the site.
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
    description: The Fedora release of the channels; the package's version.
    type: str
    required: true
  without:
    description:
      - The fingerprint of a key that the package omits, since it is about to be retired.
      - An error for the key that signs, and while a package of a channel's head is signed by it.
    type: str
    default: ''
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
    signer: "{{ signer }}"
    spec_folder: "{{ project_root }}/rpm"
  register: release
"""

RETURN = r"""
needed:
  description: True if a new package was built, which is to be signed and published.
  returned: success
  type: bool
package:
  description:
    - The Package record of the new unsigned file, or of the published one, fetched to the signer.
    - In check mode, path and sha256 are empty if it would be built.
  returned: success
  type: dict
channels:
  description: The names of the channels that lack the package.
  returned: success
  type: list
  elements: str
older:
  description:
    - The file names of earlier release packages in the heads, by channel. Once RV(package) is published without a key,
      only they still hold it.
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
        without=whole_fingerprint(p["without"]) if p["without"] else "",
        note=module.warn,
    )
    done = provide(request, check=module.check_mode)
    name = done.package.filename
    return {
        "changed": done.built,
        "needed": done.built,
        "package": done.package.to_dict(),
        "channels": list(done.lacking),
        "older": {channel: list(names) for channel, names in done.older.items()},
        "diff": {"before": "", "after": f"{name}: {done.reason}\n" if done.built else ""},
        "step": step("release", f"{name}: {done.reason}", where=done.package.path),
    }


def main() -> None:
    run(work, ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
