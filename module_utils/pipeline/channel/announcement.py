"""What an operator does after a publication: serve it, install it, announce the key.

Rules:

1. The commands are those of docs/user.md: the key is compared before anything is installed, and the release package is
   verified by it. Here dnf5 has its own name, since dnf may be dnf 4.
2. Users compare the primary key's fingerprint, since another key can contain a known subkey. dnf shows the subkey's.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from ..base.text import day
from ..sign.keyring import SigningKey
from ..sign.trust import KEYS_NAME
from .repo_file import ENABLED

RELEASE_PACKAGE = "mistralrs-release.rpm"
"""The file name of the release package on the site (roles/rpm_site)."""


def fingerprints(keys: Sequence[SigningKey]) -> list[str]:
    """Each trusted key with both fingerprints."""
    lines = []
    for key in keys:
        until = f", until {day(key.expires)}" if key.expires else ""
        lines += titled("announce", [spaced(key.fingerprint) + until])
        lines += titled("dnf shows", [spaced(key.subkey) + ("" if key.subkey == key.fingerprint else ", its subkey")])
    return lines


def commands(url: str, channel: str, repo: str, packages: Sequence[str]) -> list[str]:
    """The commands that serve the site, if it is this machine's, and install ``packages`` from it."""
    lines = []
    site = urlsplit(url)
    if site.hostname in ("127.0.0.1", "localhost", "::1"):
        lines += titled("serve", [f"make serve PORT={site.port or 80}"])
    other = "" if channel == ENABLED else f"--enablerepo={repo.removesuffix('.repo')} "
    return lines + titled("install", [
        f"curl -f {url}/{KEYS_NAME} | gpg --armor --import-options import-export --import > {KEYS_NAME}",
        f"gpg --show-keys --with-subkey-fingerprint {KEYS_NAME}   # compare it, then:",
        f"sudo rpm --import {KEYS_NAME}",
        f"sudo dnf5 install --setopt=localpkg_gpgcheck=1 {url}/{RELEASE_PACKAGE}",
        f"sudo dnf5 install {other}{packages[0] if packages else 'mistralrs-FLAVOUR'}",
    ])  # fmt: skip


def spaced(fingerprint: str) -> str:
    """A fingerprint in groups of four, as gpg and users compare it."""
    return " ".join(fingerprint[start : start + 4] for start in range(0, len(fingerprint), 4))


def titled(title: str, lines: Sequence[str]) -> list[str]:
    return [f"  {title if number == 0 else '':10} {line}" for number, line in enumerate(lines)]
