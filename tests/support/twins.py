"""Repo hosts for a trial to spoil, and publishers for it to kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.base.records import Package
from pipeline.channel.agent_client import AgentClient

from . import PROJECT
from .signer_site import STABLE, Site


def twin(site: Site, folder: Path, **configuration: object) -> Site:
    """A site of the same signer whose repo host is as ``site``'s; ``configuration`` changes its agent's."""
    folder.mkdir(parents=True)
    subprocess.run(["cp", "-a", site.root, folder], check=True)
    made = Site(folder, site.signer_in(folder))
    known = json.loads((site.folder / "publisher.json").read_text())
    changed = known | {"root": str(made.root)} | configuration
    (folder / "publisher.json").write_text(json.dumps(changed))
    return made


def publisher(site: Site, packages: Sequence[Package], way: AgentClient, order: Path) -> list[str]:
    """The command that adds ``packages`` at ``site`` by this ``way``: an engine in a process of its own.

    ``order`` is the file that tells it what to do.
    """
    known = {
        "location": str(site.root / STABLE),
        "home": str(site.signer.home),
        "trusted_keys": str(site.signer.trusted_keys),
        "root": str(site.folder / "signer"),
        "rsh": list(way.rsh),
        "host": way.host,
        "packages": [package.to_dict() for package in packages],
    }
    order.write_text(json.dumps(known))
    way_in = f"PYTHONPATH={PROJECT / 'module_utils'}"
    return ["env", way_in, sys.executable, "-B", str(Path(__file__).with_name("engine_run.py")), str(order)]
