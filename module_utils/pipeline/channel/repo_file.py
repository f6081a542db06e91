"""The .repo files of the channels: one text for the release package and for the site.

The role rpm_site takes it from the filter ``repo_file``, the release package from ``release_package``.

Rules:

1. ``gpgkey=`` is always a file of the client: with an address there, ``dnf -y`` imports whatever key it serves.
2. ``skip_if_unavailable=0``: Fedora's own configuration sets it to True, and then dnf goes on without a repository that
   is down or whose signature is bad, prints "Nothing to do" and exits with 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..sign.trust import CLIENT_KEYS

ENABLED = "stable"
"""The channel that the release package enables."""


@dataclass(frozen=True)
class ChannelRow:
    """A channel: its name, its path below the URL, its .repo file's name, how long clients cache the metadata."""

    name: str
    path: str
    repo: str
    metadata_expire: str = "6h"

    @classmethod
    def of(cls, name: str, row: Mapping[str, Any]) -> Self:
        """A row of the table of channels; its other keys are ignored."""
        expire = str(row.get("metadata_expire", cls.metadata_expire))
        return cls(name, str(row["path"]), str(row["repo"]), expire)

    def repo_file(self, url: str, *, enabled: bool) -> str:
        """The .repo file for the repositories below ``url``."""
        return (
            f"[{self.repo.removesuffix('.repo')}]\n"
            f"name=mistral.rs for Fedora, {self.name}\n"
            f"mirrorlist={url}/{self.path}/mirrorlist\n"
            f"enabled={int(enabled)}\n"
            "gpgcheck=1\n"
            "repo_gpgcheck=1\n"
            f"gpgkey=file://{CLIENT_KEYS}\n"
            "skip_if_unavailable=0\n"
            f"metadata_expire={self.metadata_expire}\n"
        )
