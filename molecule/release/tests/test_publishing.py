"""The publishing account: it can call the agent, write the agent's files, and do nothing else."""

from __future__ import annotations

import json
import subprocess

import pytest
from repo_site import ACCOUNT, ROOT, STABLE
from support.hostile import COMMANDS, REFUSALS, RSYNCS

testinfra_hosts = ["ansible://repo_host"]

KEYS = f"/etc/ssh/authorized_keys.d/{ACCOUNT}"
PROGRAM = "/usr/local/libexec/mistralrs-publisher"


class Intruder:
    """Somebody on another machine with a key for stable only; one connection for all commands."""

    def __init__(self, address: str, state, folder) -> None:
        self.address = address
        self.options = [
            "-F", "none", "-o", f"User={ACCOUNT}", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
            "-o", "LogLevel=ERROR", "-o", f"UserKnownHostsFile={state}/known_hosts", "-o", "ConnectTimeout=10",
        ]  # fmt: skip
        self.key = ["-i", str(state / "release/intruder")]
        self.shared = ["ssh", *self.options, *self.key, "-S", str(folder / "control")]

    def run(self, *words: str, **more) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=120, check=False,
            **more,
        )  # fmt: skip

    def say(self, text: str) -> subprocess.CompletedProcess[str]:
        return self.run(*self.shared, self.address, "--", text)

    def ssh(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A new connection."""
        return self.run("ssh", *self.options, *words)


@pytest.fixture
def intruder(host, state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssh")
    made = Intruder(host.ansible.get_variables()["ansible_host"], state, folder)
    master = subprocess.run([*made.shared, "-M", "-N", "-f", made.address], capture_output=True, text=True, check=False)
    assert master.returncode == 0, master.stderr
    yield made
    made.run(*made.shared, "-O", "exit", made.address)


def tree(host) -> str:
    """A digest of all files but the log, with their metadata."""
    return host.check_output(
        f"cd {ROOT} && find . -not -path './.publisher/log*' -printf '%p %y %l %s %u %m\n' | sort | sha256sum"
    )


def logged(host) -> list[dict]:
    return [json.loads(line) for line in host.check_output(f"cat {ROOT}/.publisher/log").splitlines()]


def test_the_key_works(intruder):
    assert json.loads(intruder.say("head stable").stdout)["path"] == STABLE.lstrip("/")


def test_every_command_of_the_hostile_list_is_refused_and_logged(host, intruder):
    intruder.say("head stable")
    before, number = tree(host), len(logged(host))
    wrong = {}
    for what, command in COMMANDS.items():
        done = intruder.say(command)
        if (done.returncode, done.stdout) != (2, "") or not any(refusal in done.stderr for refusal in REFUSALS):
            wrong[what] = done
    assert wrong == {}
    assert tree(host) == before
    entries = logged(host)[number:]
    assert [entry["status"] for entry in entries] == [2] * len(COMMANDS)
    assert {entry["who"] for entry in entries} == {"intruder"}
    assert {entry["from"] for entry in entries} == {host.check_output("ip route show default").split()[2]}


def test_every_rsync_of_the_hostile_list_is_refused(host, intruder, tmp_path):
    (mine := tmp_path / "mine").mkdir()
    (mine / "file").write_text("mine\n")
    places = {"MINE": str(mine), "HOST": intruder.address, "SRV": ROOT}
    before, wrong = tree(host), {}
    for words in RSYNCS:
        filled = list(words)
        for name, place in places.items():
            filled = [word.replace(name, place) for word in filled]
        old = {"RSYNC_OLD_ARGS": "1", "RSYNC_PROTECT_ARGS": "0", "PATH": "/usr/bin:/bin"}
        done = intruder.run("rsync", "-e", " ".join(intruder.shared), *filled, env=old)
        if done.returncode == 0 or not any(refusal in done.stderr for refusal in REFUSALS):
            wrong[" ".join(words)] = done
    assert wrong == {}
    assert [path.name for path in mine.iterdir()] == ["file"]
    assert tree(host) == before


def test_no_terminal_no_forwarding_no_files(intruder, tmp_path):
    terminal = intruder.ssh(*intruder.key, "-tt", intruder.address, "head", "stable")
    assert "PTY allocation request failed" in terminal.stderr
    back = intruder.ssh(
        *intruder.key, "-N", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:9:127.0.0.1:1", intruder.address
    )
    assert back.returncode == 255
    through = intruder.ssh(*intruder.key, "-W", "127.0.0.1:80", intruder.address)
    assert through.returncode == 255
    for way in ("-O", "-s"):
        taken = tmp_path / "taken"
        copied = intruder.run(
            "scp", way, *intruder.options, *intruder.key, f"{intruder.address}:/etc/passwd", str(taken)
        )
        assert copied.returncode != 0
        assert not taken.exists()


def test_a_key_is_the_only_way_in(intruder):
    """In one connection: newer sshd blocks clients that fail often."""
    ways = "PreferredAuthentications=none,password,keyboard-interactive,hostbased,gssapi-with-mic"
    done = intruder.ssh("-o", ways, "-o", "PubkeyAuthentication=no", intruder.address, "head stable")
    assert done.returncode == 255
    assert "Permission denied (publickey)." in done.stderr


def test_only_the_configured_keys_are_accepted(host, state, intruder):
    """The key by which Ansible logs in as root is refused here."""
    done = intruder.ssh("-i", str(state / "id_ed25519"), intruder.address, "head stable")
    assert "Permission denied (publickey)." in done.stderr
    keys = host.file(KEYS)
    assert (keys.user, keys.mode) == ("root", 0o644)
    lines = [line for line in keys.content_string.splitlines() if not line.startswith("#")]
    assert [line.split(",")[0] for line in lines] == ["restrict", "restrict"]
    assert all(f'command="{PROGRAM} --config ' in line for line in lines)
    assert "--as intruder --only stable --ssh" in lines[1]


def test_the_account_has_no_password_and_owns_no_home(host):
    account = host.user(ACCOUNT)
    assert account.password == "*"  # noqa: S105  no password matches it
    assert account.shell == "/bin/sh"
    assert account.groups == [ACCOUNT]
    home = host.file(account.home)
    assert (home.user, home.mode, home.listdir()) == ("root", 0o755, [])


def test_the_account_can_only_write_the_agents_files(host):
    everybodys = "-path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/tmp -o -path /run"
    find = f"find / \\( {everybodys} \\) -prune -o -not -type l -writable -print"
    found = host.run(f"runuser -u {ACCOUNT} -- {find}").stdout.split()
    inside = (f"{ROOT}/.publisher", f"{ROOT}{STABLE}")
    assert set(inside) <= set(found)
    assert [path for path in found if not path.startswith(inside)] == []


def test_root_owns_the_agent_and_its_trusted_keys(host):
    for path in (
        PROGRAM,
        f"{PROGRAM}.d",
        *host.check_output(f"find {PROGRAM}.d -mindepth 1").splitlines(),
        "/etc/mistralrs-rpm/publisher.json",
        "/etc/mistralrs-rpm/trusted.asc",
    ):
        file = host.file(path)
        assert (file.user, file.mode & 0o022) == ("root", 0)
    state = host.file(f"{ROOT}/.publisher")
    assert (state.user, state.mode) == (ACCOUNT, 0o700)


def test_the_agent_is_one_version_with_its_bytecode(host):
    version, *more = host.file(f"{PROGRAM}.d").listdir()
    assert more == []
    assert f"{PROGRAM}.d/{version}" in host.file(PROGRAM).content_string
    package = f"{PROGRAM}.d/{version}/publisher_agent"
    modules = [name.removesuffix(".py") for name in host.file(package).listdir() if name.endswith(".py")]
    bytecode = [name.split(".")[0] for name in host.file(f"{package}/__pycache__").listdir()]
    assert sorted(modules) == sorted(bytecode)
    assert "command_line" in modules


def test_the_journal_names_who_published(host):
    """The host that the signer publishes to; the journal holds a line for each snapshot."""
    journal = host.run(f"tail -1 {ROOT}/.publisher/stable/journal")
    if journal.rc:
        pytest.skip("nobody publishes to this host")
    assert json.loads(journal.stdout)["who"].startswith("signer from ")
