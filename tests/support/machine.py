"""The pipeline as an operator runs it: ansible-playbook, with all hosts on this machine below one folder.

The operator's configuration, variables and umask are as hostile as they can be (hostile_caller): all runs hold that
they decide nothing.
"""

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

from .hostile_caller import reaching, variables
from .ports import free_port

UMASK = 0o077


@dataclass
class Run:
    """The exit status and the output of a playbook."""

    status: int
    output: str

    @property
    def changed(self) -> int:
        return sum(int(n) for n in re.findall(r"changed=(\d+)", self.output.rpartition("PLAY RECAP")[2]))

    def row(self, step: str, flavour: str = "") -> str:
        """The result of a step in the summary, or ""."""
        found = re.search(rf"^{step} +{flavour} +[\d.]+ s +(.*)$", self.output, re.MULTILINE)
        return found[1] if found else ""

    @property
    def once(self) -> str:
        """The output without a second table, which ends a long run."""
        return "".join(re.split(r"^step +flavour +time +result$", self.output, flags=re.MULTILINE)[:2])

    @property
    def message(self) -> str:
        """The output on one line, without Ansible's line folding."""
        return re.sub(r"\s+", " ", self.output)


@dataclass
class Pipeline:
    """An operator's machine. ``upstream`` is its own copy of the stand-in, which tests may change."""

    project: Path
    root: Path
    port: int
    upstream: Path
    stand_in: ModuleType
    settings: dict[str, object] = field(default_factory=dict)
    caller: dict[str, str] = field(default_factory=dict)

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
        return os.environ | self.caller | {"PATH": path, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}

    def run(self, playbook: str, *words: str, **variables: object) -> Run:
        done = subprocess.run(
            [*self.argv(playbook, **variables), *words], cwd=self.project, env=self.environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900,
            check=False, umask=UMASK,
        )  # fmt: skip
        return Run(done.returncode, done.stdout)

    def start(self, playbook: str, **variables: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(playbook, **variables), cwd=self.project, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, umask=UMASK,
        )  # fmt: skip

    @property
    def channel(self) -> Path:
        return self.root / "srv/rpm/fedora/43/x86_64"

    def published(self, channel: str = "") -> list[str]:
        """The files of a channel's pool, without those that every channel has."""
        pool = self.channel / channel / "Packages"
        return sorted(path.name for path in pool.glob("*") if not path.name.endswith(".noarch.rpm"))

    def state(self) -> str:
        """A digest of everything published and of the agent's journal, without its log and uploads."""
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
    """Send SIGINT to the whole foreground process group, as ctrl-c in a terminal does; returns the output."""
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    return output


def new_machine(root: Path, project: Path, stand_in: ModuleType) -> Pipeline:
    """A machine without a release. It shares only the CUDA toolkit with ``make release``."""
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
    (root / ".cargo").mkdir()
    (root / ".cargo/config.toml").write_text("[profile.release]\nopt-level = 0\n")
    caller = variables(root / "caller")
    return Pipeline(project, root, port, upstream, stand_in, settings, caller | reaching(root / "caller/home"))
