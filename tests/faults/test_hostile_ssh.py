"""Misuse of a publishing key at a real sshd is refused and logged, and changes nothing.

The host's sshd keeps sshd's defaults. Only the key's line restricts it: "restrict", and the agent as forced command.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from pipeline.base.records import sha256_file
from pipeline.channel.agent_client import AgentClient
from support.hostile import COMMANDS, REFUSALS, RSYNCS
from support.ports import free_port
from support.signer_site import STABLE, Site
from support.site_copies import copy_site
from support.sshd import Ssh, sshd


@dataclass(frozen=True)
class Target:
    """A host with the channels stable and unstable, and a key for stable alone."""

    site: Site
    ssh: Ssh
    work: Path
    shared: AgentClient

    def run(self, *argv: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*argv], env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=60, check=False,
        )  # fmt: skip

    def ssh_command(self, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command over a new connection with these options of ssh."""
        return self.run("ssh", *options, *self.ssh.options(), "127.0.0.1", "--", *words)

    def command(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run a command over the shared connection, which is faster."""
        return self.run(*self.shared.rsh, self.shared.host, "--", text)

    def rsync(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        shell = " ".join(self.shared.rsh)
        usual = {"RSYNC_OLD_ARGS": "1", "RSYNC_PROTECT_ARGS": "0"}
        return self.run("rsync", "-e", shell, *words, env=usual | (env or {}))

    def tree(self) -> dict[str, str]:
        """Every file, link and folder below the root, uploads included and the log excluded."""
        found = {}
        for path in self.site.root.rglob("*"):
            name = str(path.relative_to(self.site.root))
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_file():
                found[name] = sha256_file(path)
            else:
                found[name] = "folder"
        return {name: content for name, content in found.items() if not name.startswith(".publisher/log")}

    def logged(self) -> list[dict[str, object]]:
        text = (self.site.root / ".publisher/log").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    start = Site.make(folder / "start")
    start.publish(start.package())
    channels = {"stable": {"path": STABLE}, "unstable": {"path": f"{STABLE}/unstable"}}
    site = copy_site(start, folder / "site", channels=channels)
    (work := folder / "work").mkdir()
    (work / "secret").write_text("mine\n")
    (site.root / "secret").write_text("the host's\n")
    with sshd(folder / "sshd", site, "stable") as ssh, ssh.shared() as publisher:
        target = Target(site, ssh, work, publisher)
        assert json.loads(target.command("head stable").stdout)["path"] == STABLE
        yield target


@pytest.fixture(autouse=True)
def nothing_changes(target: Target) -> Iterator[None]:
    before = target.tree()
    yield
    assert target.tree() == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_hostile_command_is_refused_and_logged(target: Target, name: str) -> None:
    command, number = COMMANDS[name], len(target.logged())
    done = target.command(command)
    assert (done.returncode, done.stdout) == (2, "")
    answer = json.loads(done.stderr)
    assert answer["error"]
    assert answer["remedy"]
    (entry,) = target.logged()[number:]
    assert entry["status"] == 2
    assert str(entry["from"]).startswith("127.0.0.1")
    assert str(entry["command"])[:50] == command[:50]
    assert len(str(entry["command"])) < 5000, "a log that anybody can fill"


def test_a_shell_is_refused(target: Target) -> None:
    assert (target.ssh_command().returncode, target.logged()[-1]["status"]) == (2, 2)


def test_a_terminal_is_refused(target: Target) -> None:
    done = target.ssh_command(options=("-tt",))
    assert done.returncode != 0
    assert "PTY allocation request failed" in done.stderr
    done = target.ssh_command("head", "stable", options=("-tt",))
    assert "PTY allocation request failed" in done.stderr


@pytest.mark.parametrize("way", ["-O", "-s"])
@pytest.mark.parametrize("direction", ["to", "from"])
def test_scp_is_refused(target: Target, way: str, direction: str) -> None:
    mine, theirs = str(target.work / "secret"), f"127.0.0.1:{target.site.root}/secret"
    taken = str(target.work / "taken")
    files = [mine, theirs] if direction == "to" else [theirs, taken]
    done = target.run("scp", way, *target.ssh.options(), *files)
    assert done.returncode != 0
    assert not Path(taken).exists()
    assert target.logged()[-1]["status"] == 2


def test_sftp_is_refused(target: Target) -> None:
    (target.work / "batch").write_text(f"get {target.site.root}/secret {target.work}/taken\n")
    done = target.run("sftp", "-b", target.work / "batch", *target.ssh.options(), "127.0.0.1")
    assert done.returncode != 0
    assert not (target.work / "taken").exists()
    assert target.logged()[-1]["status"] == 2


@pytest.fixture
def service() -> Iterator[socket.socket]:
    """A service on the host's loopback that must be unreachable from outside."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        yield listener


@pytest.mark.parametrize("kind", ["L", "D"])
def test_local_and_dynamic_forwarding_are_refused(target: Target, service: socket.socket, kind: str) -> None:
    port, inner = free_port(), service.getsockname()[1]
    place = f"127.0.0.1:{port}" + (f":127.0.0.1:{inner}" if kind == "L" else "")
    # -N runs no command and keeps the connection for the forwarding.
    with subprocess.Popen(
        ["ssh", "-N", f"-{kind}", place, *target.ssh.options(), "127.0.0.1"], stderr=subprocess.PIPE, text=True
    ) as forwarding:
        try:
            connected = await_port(port)
            if kind == "D":
                address = socket.inet_aton("127.0.0.1") + inner.to_bytes(2, "big")
                connected.sendall(b"\x05\x01\x00")
                assert connected.recv(2) == b"\x05\x00"
                connected.sendall(b"\x05\x01\x00\x01" + address)
            else:
                connected.sendall(b"hello")
            with suppress(ConnectionResetError):
                assert connected.recv(100)[:2] in (b"", b"\x05\x01", b"\x05\x02")  # closed, or SOCKS's refusal
            with pytest.raises(TimeoutError):
                service.accept()
        finally:
            forwarding.kill()
        assert forwarding.stderr
        assert "administratively prohibited" in forwarding.stderr.read()


def await_port(port: int) -> socket.socket:
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise AssertionError("ssh does not listen")


def test_remote_forwarding_is_refused(target: Target) -> None:
    options = ("-N", "-o", "ExitOnForwardFailure=yes", "-R", f"127.0.0.1:{free_port()}:127.0.0.1:1")
    done = target.ssh_command(options=options)
    assert done.returncode == 255
    assert "remote port forwarding failed" in done.stderr


def test_stdio_forwarding_is_refused(target: Target, service: socket.socket) -> None:
    done = target.ssh_command(options=("-W", f"127.0.0.1:{service.getsockname()[1]}"))
    assert done.returncode == 255
    assert "administratively prohibited" in done.stderr
    with pytest.raises(TimeoutError):
        service.accept()


def test_agent_and_x11_forwarding_are_refused(target: Target, tmp_path: Path) -> None:
    """The host cannot reach the caller's keys or display, even if the caller forwards them."""
    agent = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(500):
                if agent.exists():
                    break
                time.sleep(0.01)
            done = target.run(
                "ssh", "-v", "-A", "-X", "-o", "ForwardX11Trusted=yes", *target.ssh.options(), "127.0.0.1",
                "head", "stable", env={"SSH_AUTH_SOCK": str(agent), "DISPLAY": "127.0.0.1:99"},
            )  # fmt: skip
        finally:
            process.terminate()
    assert json.loads(done.stdout)["path"] == STABLE
    assert "X11 forwarding request failed" in done.stderr
    # sshd reports the permissions of a key's line: only its command.
    assert set(re.findall(r"authorized_keys:1: key options:(.*)", done.stderr)) == {" command"}


# A real rsync


@pytest.mark.parametrize("words", RSYNCS, ids=" ".join)
def test_a_hostile_rsync_is_refused(target: Target, words: list[str], tmp_path: Path) -> None:
    (mine := tmp_path / "mine").mkdir()
    (mine / "file").write_text("mine\n")
    number = len(target.logged())
    places = {"MINE": str(mine), "HOST": "127.0.0.1", "SRV": str(target.site.root)}
    done = target.rsync(*(re.sub("MINE|HOST|SRV", lambda name: places[name[0]], word) for word in words))
    assert done.returncode != 0
    assert any(refusal in done.stderr for refusal in REFUSALS)
    assert [path.name for path in mine.iterdir()] == ["file"]
    assert [entry["status"] for entry in target.logged()[number:]] == [2]


# The caller's environment


def test_variables_of_the_caller_run_no_code(target: Target, tmp_path: Path) -> None:
    """The sshd here accepts all but LD_PRELOAD, BASH_ENV and ENV, which would run code in any program."""
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "json.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    (trap / "sitecustomize.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    shutil.copy(trap / "json.py", trap / "start.py")
    (trap / "bash").write_text(f"touch {tmp_path}/sprung\n")
    variables = {
        "PYTHONPATH": str(trap),
        "PYTHONHOME": str(trap),
        "PYTHONSTARTUP": str(trap / "start.py"),
        "PYTHONINSPECT": "1",
        "RSYNC_RSH": f"touch {tmp_path}/sprung;",
        "RSYNC_PROXY": "127.0.0.1:1",
        "GIT_SSH_COMMAND": f"touch {tmp_path}/sprung;",
        "LC_ALL": "../../../../tmp/trap",
        "LD_PRELOAD": str(trap / "none.so"),
        "BASH_ENV": str(trap / "bash"),
        "ENV": str(trap / "bash"),
    }
    sent = " ".join(f'{name}="{value}"' for name, value in variables.items())
    done = target.ssh_command("head stable", options=("-o", f"SetEnv={sent}"))
    assert json.loads(done.stdout)["path"] == STABLE
    assert not (tmp_path / "sprung").exists()


def test_a_flood_of_refusals_does_not_fill_the_disk(target: Target) -> None:
    """The log is rotated, and its size stays bounded."""
    folder = target.site.root / ".publisher"
    agent = [*target.site.agent.rsh[:-1], "--ssh", "--only", "stable"]
    large = {"SSH_ORIGINAL_COMMAND": "x" * 100_000, "SSH_CONNECTION": "192.0.2.7 1 192.0.2.1 22"}
    with (folder / "log").open("a") as log:
        log.write("\n" * (1 << 20))
    assert target.run(*agent, env=large).returncode == 2
    assert target.run(*agent, env=large).returncode == 2
    assert sum(path.stat().st_size for path in folder.glob("log*")) < 3 << 20
    assert [entry["status"] for entry in target.logged()[-1:]] == [2]
    (folder / "log.1").unlink()
