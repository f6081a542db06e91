"""A real sshd on loopback whose only key may only run the publisher agent, as on the repo host."""

from __future__ import annotations

import fcntl
import getpass
import os
import shlex
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.channel.agent_client import AgentClient

from .ports import free_port
from .signer_site import AGENT

# Everything that sshd allows by default stays allowed: the tests are about the key's own restrictions. AcceptEnv is
# wider than in any distribution. HOME: the publishing account has no dot files; bash would read this account's.
CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AllowTcpForwarding yes
AllowAgentForwarding yes
X11Forwarding yes
PermitTunnel yes
AcceptEnv LANG LC_* GIT_* PYTHON* RSYNC_*
Subsystem sftp internal-sftp
SetEnv HOME={folder}
"""


class Served(Protocol):
    """A site, of which sshd needs the folder with its agent's configuration."""

    @property
    def folder(self) -> Path: ...


@dataclass(frozen=True)
class Ssh:
    """A client of the sshd in ``folder`` that listens on ``port``."""

    folder: Path
    port: int

    def options(self, port: int = 0) -> list[str]:
        """ssh's options; ``port`` connects to the same host through a proxy."""
        words = {
            "Port": port or self.port,
            "User": getpass.getuser(),
            "IdentityFile": self.folder / "key",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "HostKeyAlias": "repo",
        }
        return ["-F", "none", *(word for name, value in words.items() for word in ("-o", f"{name}={value}"))]

    def publisher(self, port: int = 0) -> AgentClient:
        return AgentClient(["ssh", *self.options(port)], "127.0.0.1")

    @contextmanager
    def shared(self) -> Iterator[AgentClient]:
        """An agent client over one shared connection, which is faster."""
        control = self.folder / "control"
        with subprocess.Popen(["ssh", "-M", "-N", "-S", control, *self.options(), "127.0.0.1"]) as master:
            try:
                for _ in range(500):
                    if control.exists():
                        break
                    time.sleep(0.01)
                yield AgentClient(["ssh", "-S", str(control), *self.options()], "127.0.0.1")
            finally:
                master.terminate()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextmanager
def sshd(folder: Path, site: Served, *only: str, more: str = "") -> Iterator[Ssh]:
    """Serve ``site`` by its agent; ``only`` are the channels that the key may access, by default all.

    ``more`` is added to sshd's configuration.
    """
    folder.mkdir()
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    command = [*AGENT, "--config", str(site.folder / "publisher.json"), "--ssh"]
    command += [word for channel in only for word in ("--only", channel)]
    key = (folder / "key.pub").read_text()
    (folder / "authorized_keys").write_text(f'restrict,command="{shlex.join(command)}" {key}')
    (folder / "known_hosts").write_text(f"repo {(folder / 'host_key.pub').read_text()}")
    ssh = Ssh(folder, free_port())
    (folder / "sshd_config").write_text(CONFIG.format(folder=folder, port=ssh.port) + more)
    with privilege_separation(), (folder / "log").open("wb") as log:
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "sshd is missing: install openssh-server"
        server = subprocess.Popen([program, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
        try:
            _await(server, ssh)
            yield ssh
        finally:
            server.terminate()
            server.wait()


@contextmanager
def privilege_separation() -> Iterator[None]:
    """The empty folder that Debian's sshd requires and only its service creates.

    Concurrent tests share it under a lock of the folder itself, and the last one removes it. Its mode marks
    a folder that a test created.
    """
    folder, ours = Path("/run/sshd"), 0o711
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=ours)
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if folder.stat().st_ino == os.fstat(lock).st_ino:
                break
            os.close(lock)
    try:
        yield
    finally:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stat.S_IMODE(os.fstat(lock).st_mode) == ours:
                folder.rmdir()
        os.close(lock)


def _await(server: subprocess.Popen[bytes], ssh: Ssh) -> None:
    for _ in range(500):
        assert server.poll() is None, ssh.log
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", ssh.port)) == 0:
                return
        time.sleep(0.01)
    raise AssertionError(f"sshd does not answer: {ssh.log}")
