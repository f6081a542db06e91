#!/usr/bin/python
"""The release package: the .repo files and the trusted keys, for clients to upgrade."""

DOCUMENTATION = r"""
module: release_package
short_description: Build the package mistralrs-release where the channels need another one
description:
  - The package owns the C(.repo) files of the channels and one file with all trusted keys. Clients upgrade it like any
    package, and so know the next key before anything is signed by it.
  - Reads the channels' signed metadata. A new one is built if it would hold anything else than the newest published
    one, or if a channel's head is signed by another key than the one that signs now.
  - Otherwise the published one is brought from the pool, for the channels that lack it and for the site.
author: mistralrs-rpm
options:
  channels:
    description:
      - The channels by name. A row has C(path) below O(location) and O(url), C(repo), the name of its C(.repo) file,
        and perhaps C(metadata_expire), C(6h) without it. Other keys are not read. V(stable) is enabled on clients.
    type: dict
    required: true
  location:
    description: Where the signer reads the channels, a folder or an http(s) URL.
    type: str
    required: true
  url:
    description: The URL that clients reach the channels by.
    type: str
    required: true
  fedora:
    description: The Fedora release that the channels are for; the package's version.
    type: str
    required: true
  home:
    description: The GnuPG home with the signing key.
    type: path
    required: true
  trusted_keys:
    description: The file of the armored public keys that everyone trusts. The package holds all of them.
    type: path
    required: true
  without:
    description:
      - The fingerprint of a key that the package is not to hold any more, since it is about to be retired.
      - Refused for the key that signs, and while a package of a channel's head is signed by it.
    type: str
    default: ''
  root:
    description: The signer's root. The package is kept in its folder C(release).
    type: path
    required: true
  spec_folder:
    description: This project's folder C(rpm).
    type: path
    required: true
attributes:
  check_mode:
    description: Says whether a package would be built; reads the channels and changes nothing.
    support: full
  diff_mode:
    description: Shows the package's name and what it would hold.
    support: full
"""

EXAMPLES = r"""
- name: Compare the release package with what is published
  release_package:
    channels: "{{ channels }}"
    location: https://rpm.example.org
    url: https://rpm.example.org
    fedora: "43"
    home: /var/lib/mistralrs-rpm/signer/gnupg
    trusted_keys: /var/lib/mistralrs-rpm/signer/public.asc
    root: /var/lib/mistralrs-rpm/signer
    spec_folder: "{{ project_root }}/rpm"
  register: release
"""

RETURN = r"""
needed:
  description: Whether a new package was built, which is to be signed and published.
  returned: success
  type: bool
package:
  description:
    - The Package record, of the new unsigned file, or of the published one, brought here.
    - In check mode, path and sha256 are empty where it is still to be built.
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
      they are what still holds it.
  returned: success
  type: dict
step:
  description: The row of the run's summary table.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pipeline.base.errors import PipelineError
from ansible.module_utils.pipeline.channel.release_package import Order, Row, provide
from ansible.module_utils.pipeline.sign.keyring import whole_fingerprint


def main():
    module = AnsibleModule(
        argument_spec={
            "channels": {"type": "dict", "required": True},
            "location": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "fedora": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "trusted_keys": {"type": "path", "required": True, "no_log": False},
            "without": {"type": "str", "default": ""},
            "root": {"type": "path", "required": True},
            "spec_folder": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        done = provide(
            Order(
                rows=tuple(Row.of(str(name), row) for name, row in p["channels"].items()),
                location=str(p["location"]),
                url=str(p["url"]),
                fedora=str(p["fedora"]),
                home=Path(p["home"]),
                trusted_keys=Path(p["trusted_keys"]),
                root=Path(p["root"]),
                spec_folder=Path(p["spec_folder"]),
                without=whole_fingerprint(p["without"]) if p["without"] else "",
            ),
            check=module.check_mode,
        )
    except PipelineError as error:
        module.fail_json(**error.failure())
    name = done.package.filename
    module.exit_json(
        changed=done.built,
        needed=done.built,
        package=done.package.to_dict(),
        channels=list(done.lacking),
        older={channel: list(names) for channel, names in done.older.items()},
        diff={"before": "", "after": f"{name}: {done.reason}\n" if done.built else ""},
        step={"name": "release", "flavour": "", "result": f"{name}: {done.reason}", "where": done.package.path},
    )


if __name__ == "__main__":
    main()
