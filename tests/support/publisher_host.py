"""A repo host on this machine, with the real publisher agent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Snapshot, Transaction
from pipeline.channel.agent_client import AgentClient

AGENT = [sys.executable, "-I", str(Path(__file__).parents[2] / "roles/publisher/files/mistralrs-publisher")]
ACCOUNT = 65534  # of the agent in production: it owns the channels' folders and the state, and nothing above
CHANNELS = {"stable": "fedora/43/x86_64", "unstable": "fedora/43/x86_64/unstable"}


@dataclass(frozen=True)
class Host:
    """A repo host on this machine."""

    folder: Path
    key: Path
    retention: dict[str, int] = field(default_factory=dict)  # of stable
    space: dict[str, int] = field(default_factory=lambda: {"reserve_mib": 1})
    program: tuple[str, ...] = tuple(AGENT)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        rows = {name: {"path": path} for name, path in CHANNELS.items()}
        config = {
            "root": str(self.root),
            "base_url": "http://repo/",
            "key": str(self.key),
            "channels": {**rows, "stable": rows["stable"] | self.retention},
            **self.space,
        }
        self.config.write_text(json.dumps(config))

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def config(self) -> Path:
        return self.folder / "publisher.json"

    @property
    def stable(self) -> Path:
        return self.root / CHANNELS["stable"]

    @property
    def state(self) -> Path:
        return self.root / ".publisher/stable"

    @property
    def publisher(self) -> AgentClient:
        return AgentClient([*self.program, "--config", str(self.config), "--rsh"], "local")

    def publish(self, transaction: Transaction) -> Snapshot:
        self.publisher.upload(transaction)
        assert self.publisher.publish(transaction) == transaction.snapshot.id
        return transaction.snapshot

    def incoming(self, transaction: Transaction) -> Path:
        return self.state / "incoming" / transaction.id

    def tree(self) -> dict[str, str]:
        """Mode, and link target or digest, of every served file and of the journal, by path."""
        found = {}
        tops = [path for path in self.root.iterdir() if path.name != ".publisher"]
        below = [path for top in tops for path in top.rglob("*")]
        for path in [*tops, *below, self.state / "journal"]:
            name = str(path.relative_to(self.root))
            if not path.is_symlink() and not path.exists():
                continue
            if path.is_symlink():
                content = str(path.readlink())
            else:
                content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            found[name] = f"{path.lstat().st_mode:o} {content}"
        return found


def copy_of(host: Host, folder: Path) -> Host:
    shutil.copytree(host.folder, folder, symlinks=True)
    return Host(folder, host.key)


def own(host: Host) -> None:
    """Give the account what it owns on a repo host (roles/publisher/tasks/agent.yml)."""
    (host.root / CHANNELS["unstable"]).mkdir(parents=True, exist_ok=True)
    for folder in (host.root / ".publisher", host.stable):
        subprocess.run(["chown", "-R", "--no-dereference", f"{ACCOUNT}:{ACCOUNT}", folder], check=True)


@contextmanager
def unprivileged(host: Host) -> Iterator[Host]:
    """A copy of ``host`` whose agent runs as its own account, as in production. Requires root.

    Everything is outside of pytest's folders, which are closed to other accounts.
    """
    with tempfile.TemporaryDirectory(prefix="repo-host-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        agent = shutil.copytree(AGENT[-1], folder / "agent", ignore=shutil.ignore_patterns("__pycache__"))
        key = Path(shutil.copy(host.key, folder / "trusted.asc"))
        shutil.copytree(host.folder, folder / "host", symlinks=True)
        python = shutil.which("python3", path="/usr/bin:/bin")
        assert python, "the system has no Python"
        account = ("setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", python, "-I", str(agent))
        mine = replace(host, folder=folder / "host", key=key, program=account)
        own(mine)
        yield mine


def refused(host: Host, transaction: Transaction, message: str) -> None:
    tree = host.tree()
    with pytest.raises(PipelineError, match=message) as error:
        host.publisher.publish(transaction)
    assert error.value.remedy
    assert host.tree() == tree
    assert list((host.state / "staged").iterdir()) == []


def ssh(host: Host, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a command as sshd does for a key whose forced command has these options."""
    return subprocess.run(
        [*host.program, "--config", host.config, "--ssh", *options],
        env={**os.environ, "SSH_ORIGINAL_COMMAND": command, "SSH_CONNECTION": "192.0.2.7 1 192.0.2.1 22"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
