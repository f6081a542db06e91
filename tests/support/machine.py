"""The pipeline as its operator runs it: ansible-playbook, with every host on this machine below a folder of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from .ports import free_port


@dataclass
class Run:
    """How a playbook ended and what it printed."""

    status: int
    output: str

    @property
    def changed(self) -> int:
        return sum(int(n) for n in re.findall(r"changed=(\d+)", self.output.rpartition("PLAY RECAP")[2]))

    def row(self, stage: str, flavour: str = "") -> str:
        """The summary's line for a stage, or ""."""
        found = re.search(rf"^{stage} +{flavour} +[\d.]+ s +(.*)$", self.output, re.MULTILINE)
        return found[1] if found else ""

    @property
    def message(self) -> str:
        """All that was printed, with Ansible's line folding undone."""
        return re.sub(r"\s+", " ", self.output)


@dataclass
class Pipeline:
    """One operator's machine. ``upstream`` is its own copy of the stand-in, for the tests to change."""

    project: Path
    root: Path
    port: int
    upstream: Path
    stand_in: ModuleType
    settings: dict[str, object] = field(default_factory=dict)

    def argv(self, playbook: str, **variables: object) -> list[str]:
        values = self.settings | variables
        return [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"playbooks/{playbook}.yml",
            "-e",
            json.dumps(values),
        ]

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return os.environ | {"PATH": path, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}

    def run(self, playbook: str, *words: str, **variables: object) -> Run:
        done = subprocess.run(
            [*self.argv(playbook, **variables), *words], cwd=self.project, env=self.environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900,
            check=False,
        )  # fmt: skip
        return Run(done.returncode, done.stdout)

    def start(self, playbook: str, **variables: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(playbook, **variables), cwd=self.project, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    @property
    def channel(self) -> Path:
        return self.root / "srv/rpm/fedora/43/x86_64"

    def published(self, channel: str = "") -> list[str]:
        """The files of a channel's pool but mistralrs-release, which carries keys and .repo files."""
        pool = self.channel / channel / "Packages"
        return sorted(path.name for path in pool.glob("*") if not path.name.startswith("mistralrs-release-"))

    def state(self) -> str:
        """A digest of everything that is published and of the agent's journal; its log of commands is left out."""
        digest = hashlib.sha256()
        for path in sorted((self.root / "srv").rglob("*")):
            if "incoming" in path.parts or path.name in ("lock", "log"):
                continue
            digest.update(str(path.relative_to(self.root)).encode())
            if path.is_symlink():
                digest.update(str(path.readlink()).encode())
            elif path.is_file():
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def interrupt(process: subprocess.Popen[str]) -> str:
    """What ctrl-c does in a terminal: SIGINT to the whole foreground group."""
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    return said


def new_machine(root: Path, project: Path, stand_in: ModuleType) -> Pipeline:
    """A machine on which nothing was released yet; only the CUDA toolkit of ``make release`` is shared with it."""
    upstream = root / "upstream.git"
    stand_in.create(upstream)
    port = free_port()
    settings = {
        "local_root": str(root),
        "local_port": port,
        "upstream_url": f"file://{upstream}",
        "build_free_gib": 1,
        "upstream_kind": "stand-in",
        "cuda_toolkit_root": str(project / ".local/builder"),
        "cuda_toolkit_components": "compiler",
        "flavour": "ada",
    }
    return Pipeline(project, root, port, upstream, stand_in, settings)
