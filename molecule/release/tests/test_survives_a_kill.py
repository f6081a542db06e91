"""A host that dies in the middle of provisioning: the playbook says so, and the same command completes once it is back.

It begins from a bare host, and comes after the tests of what stood there before.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
INVENTORY = PROJECT / "molecule/inventory/release.yml"
HOSTS = [sys.executable, PROJECT / "molecule/default/hosts.py"]
BIN = Path(sys.executable).parent
PATIENCE = 300  # seconds for a playbook


def hosts(*words: str) -> None:
    subprocess.run([*HOSTS, *words], check=True, capture_output=True, text=True)


def playbook(name: str, *words: str, kill: tuple[str, int | str] | None = None) -> tuple[int, str]:
    """What a playbook ends with and says.

    ``kill`` names a host that dies when so many of its tasks have begun, or when a line of its output has this pattern.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MOLECULE", "ANSIBLE_CALLBACK"))}
    process = subprocess.Popen(
        [BIN / "ansible-playbook", "-i", INVENTORY, f"playbooks/{name}.yml", *words],
        cwd=PROJECT,
        env=own | {"PATH": f"{BIN}:{own['PATH']}", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        assert process.stdout
        lines, begun = [], 0
        for line in process.stdout:
            lines.append(line)
            begun += line.startswith("TASK [")
            if kill and (begun == kill[1] if isinstance(kill[1], int) else re.search(kill[1], line)):
                hosts("kill", kill[0])
                kill = None
        return process.wait(), "".join(lines)
    finally:
        timer.cancel()


@pytest.mark.parametrize(
    ("name", "host", "task"),
    [
        pytest.param("builders", "forge", 27, id="a builder, with Rust laid out and CUDA on its way"),
        pytest.param("repo_host", "oolon", 41, id="the repo host, while it gets its certificate"),
    ],
)
def test_a_host_that_dies_is_completed_by_the_same_command(name, host, task):
    hosts("reset", host)
    status, output = playbook(name, kill=(host, task))
    assert status != 0
    assert re.search(rf"{host} +: .*unreachable=1", output), output

    hosts("boot", host)
    status, output = playbook(name)
    assert status == 0, output
    status, output = playbook(name)
    assert status == 0, output
    assert re.search(rf"{host} +: .*changed=0 ", output), output
