"""Copies of a repo host for fault tests, and the command line of a publisher process."""

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


def copy_site(site: Site, folder: Path, **configuration: object) -> Site:
    """A copy of ``site`` with the same signer's key; ``configuration`` overrides keys of the agent's configuration."""
    folder.mkdir(parents=True)
    subprocess.run(["cp", "-a", site.root, folder], check=True)
    made = Site(folder, site.signer_in(folder))
    known = json.loads((site.folder / "publisher.json").read_text())
    changed = known | {"root": str(made.root)} | configuration
    (folder / "publisher.json").write_text(json.dumps(changed))
    return made


def publish_argv(site: Site, packages: Sequence[Package], way: AgentClient, order: Path) -> list[str]:
    """The command that publishes ``packages`` to ``site`` in a process of its own, by the agent client ``way``.

    Writes the arguments of engine_run.py to the file ``order``.
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
    path = f"PYTHONPATH={PROJECT / 'module_utils'}"
    return ["env", path, sys.executable, "-B", str(Path(__file__).with_name("engine_run.py")), str(order)]
