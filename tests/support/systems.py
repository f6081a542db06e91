"""The systems on which a client is proven: this machine's own, and beside dnf 4 a tree with dnf5 and rpm 6."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from . import PROJECT

HERE = "dnf5" if shutil.which("dnf5") else "dnf"
"""The client of this machine's own system."""

CLIENTS = tuple(dict.fromkeys((HERE, "dnf5")))
"""The clients to prove with, for a test's parameters: collecting tests makes no tree."""


@functools.cache
def forky() -> Path:
    """The root of a Debian forky tree with rpm 6 and dnf5; made when it is missing, by root only."""
    words = [PROJECT / "scripts/system-tree", "forky"]
    return Path(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


def root_of(client: str) -> Path:
    """The root of the system that has this client."""
    return Path("/") if client == HERE else forky()


def systems() -> list[tuple[str, Path]]:
    """Every client that can be proven here, with the root of its system."""
    return [(client, root_of(client)) for client in CLIENTS]
