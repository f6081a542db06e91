"""The role installs the agent: files on the host, idempotence, an upgrade, and refused configurations."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline.channel.agent_client import AgentClient
from support.channel_maker import Key, Maker
from support.publisher_host import CHANNELS

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "roles/publisher/files/mistralrs-publisher/publisher_agent"


@pytest.fixture
def playbook(tmp_path: Path, keys: dict[str, Key]) -> Callable[..., str]:
    rows = {name: {"path": path} for name, path in CHANNELS.items()}
    variables = {
        "publisher_root": str(tmp_path / "srv"),
        "publisher_base_url": "http://repo",
        "publisher_key": str(tmp_path / "etc/trusted.asc"),
        "publisher_trusted_keys": str(keys["trusted"].public),
        "publisher_channels": rows,
        "publisher_program": str(tmp_path / "libexec/mistralrs-publisher"),
        "publisher_config": str(tmp_path / "etc/publisher.json"),
    }
    play = [{"hosts": "localhost", "gather_facts": False, "roles": ["publisher"]}]
    (tmp_path / "ansible.cfg").touch()
    (tmp_path / "play.yml").write_text(json.dumps(play))
    (tmp_path / "vars.json").write_text(json.dumps(variables))

    def run(*words: str) -> str:
        ansible = shutil.which("ansible-playbook", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert ansible
        done = subprocess.run(
            [ansible, "-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}",
             "-e", f"@{tmp_path}/vars.json", *words, tmp_path / "play.yml"],
            env={**os.environ, "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
                 "ANSIBLE_ROLES_PATH": str(PROJECT / "roles"),
                 "ANSIBLE_LIBRARY": str(PROJECT / "library"),
                 "ANSIBLE_FILTER_PLUGINS": str(PROJECT / "plugins/filter"),
                 "ANSIBLE_MODULE_UTILS": str(PROJECT / "module_utils")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "failed=0" in done.stdout, done.stdout + done.stderr
        return done.stdout

    return run


def installed(program: Path) -> Path:
    """The package of the only version beside the launcher."""
    (version,) = program.with_name(f"{program.name}.d").iterdir()
    (package,) = version.iterdir()
    assert repr(str(version)) in program.read_text()
    return package


def test_the_role_installs_an_agent_that_publishes(
    playbook: Callable[..., str], keys: dict[str, Key], rpms: dict[str, Path], tmp_path: Path
) -> None:
    playbook("--check")
    assert not (tmp_path / "srv").exists()
    playbook()
    assert "changed=0" in playbook()
    assert "changed=0" in playbook("--check")
    assert (tmp_path / "etc/trusted.asc").read_bytes() == keys["trusted"].public.read_bytes()
    rsh = [str(tmp_path / "libexec/mistralrs-publisher"), "--config", str(tmp_path / "etc/publisher.json"), "--rsh"]
    publisher = AgentClient(rsh, "local")
    transaction = Maker(tmp_path / "uploads", keys["trusted"]).compose([rpms["1.0"]])
    publisher.upload(transaction)
    assert publisher.publish(transaction) == publisher.head("stable")
    # Keys of another signer would make all of this unreadable.
    with pytest.raises(AssertionError, match="which the keys to distribute lack: .*docs/keys.md, A lost signer"):
        playbook("-e", f"publisher_trusted_keys={keys['other'].public}")
    assert (tmp_path / "etc/trusted.asc").read_bytes() == keys["trusted"].public.read_bytes()


def test_the_role_replaces_an_agent_of_one_file(playbook: Callable[..., str], tmp_path: Path) -> None:
    """The modules are those of the source, byte-compiled, writable by their owner alone; no old file remains."""
    program = tmp_path / "libexec/mistralrs-publisher"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho an old agent\n")
    program.chmod(0o755)
    predicted = playbook("--check", "--diff")
    assert "-echo an old agent" in predicted
    assert '+"""Stage, publish, drop.' in predicted
    assert subprocess.check_output([program], text=True) == "an old agent\n"

    playbook()
    package = installed(program)
    assert {path.name: path.read_bytes() for path in package.glob("*.*")} == {
        path.name: path.read_bytes() for path in SOURCE.glob("*.py")
    }
    assert {path.name.split(".")[0] for path in (package / "__pycache__").iterdir()} == {
        path.stem for path in SOURCE.glob("*.py")
    }
    paths = [program, package.parent.parent, package.parent, *package.parent.rglob("*")]
    assert [path for path in paths if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)] == []
    assert "usage: mistralrs-publisher" in subprocess.check_output([program, "--help"], text=True)


def test_the_role_configures_the_retention(playbook: Callable[..., str], tmp_path: Path) -> None:
    """The signer reads the same rows; the role omits keys that the agent does not know."""
    rows = {
        "stable": {"path": "f", "retention": {"days": "7", "snapshots": 3, "builds": 10}, "follows": "tag"},
        "unstable": {"path": "f/unstable"},
    }
    playbook("-e", json.dumps({"publisher_channels": rows, "publisher_reserve_mib": "5"}))
    config = json.loads((tmp_path / "etc/publisher.json").read_text())
    assert config["channels"] == {
        "stable": {"path": "f", "days": 7, "snapshots": 3},
        "unstable": {"path": "f/unstable"},
    }
    assert (config["reserve_mib"], config["incoming_mib"]) == (5, 20480)


def test_the_role_refuses_a_config_that_the_agent_cannot_use(playbook: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="invalid root or channel"):
        playbook("-e", '{"publisher_channels": {"Stable/..": {"path": "x"}}}')
    assert not (tmp_path / "etc/publisher.json").exists()
