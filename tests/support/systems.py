"""The systems of the client tests: this machine's own, and a tree with dnf5 and rpm 6 if this machine has dnf 4."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from . import PROJECT

HERE = "dnf5" if shutil.which("dnf5") else "dnf"
"""This machine's own client."""

CLIENTS = tuple(dict.fromkeys((HERE, "dnf5")))
"""The clients as parameters of a test. Collecting tests creates no tree."""


@functools.cache
def forky() -> Path:
    """The root of a Debian forky tree with rpm 6 and dnf5, created if missing. Requires root."""
    words = [PROJECT / "scripts/system-tree", "forky"]
    return Path(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


def root_of(client: str) -> Path:
    """The root of the system that has this client."""
    return Path("/") if client == HERE else forky()


def systems() -> list[tuple[str, Path]]:
    """All clients of this machine, each with the root of its system."""
    return [(client, root_of(client)) for client in CLIENTS]
