"""Runs playbooks on the scenario's hosts as an operator does, and ends hosts meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
INVENTORY = PROJECT / "molecule/inventory/release.yml"
HOSTS = [sys.executable, PROJECT / "molecule/default/hosts.py"]
BIN = Path(sys.executable).parent
TIMEOUT = 420
"""Seconds for a playbook. One that takes longer is killed, and its test fails by that."""


def environment() -> dict[str, str]:
    """The operator's: the records of the scenario's own actions stay as they are."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MOLECULE", "ANSIBLE_CALLBACK", "ANSIBLE_STDOUT"))
    }
    return own | {"PATH": f"{BIN}:{own['PATH']}", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}


def hosts(*words: str) -> None:
    """Calls molecule/default/hosts.py."""
    subprocess.run([*HOSTS, *words], check=True, capture_output=True, text=True)


def playbook(name: str, *words: str, kill: tuple[str, str] | None = None) -> tuple[int, str]:
    """The exit status and the output of playbooks/``name``.yml.

    ``kill`` is a host and a pattern: the host dies when a line of the output matches.
    """
    process = subprocess.Popen(
        [BIN / "ansible-playbook", "-i", INVENTORY, PROJECT / f"playbooks/{name}.yml", *words],
        cwd=PROJECT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    timer = threading.Timer(TIMEOUT, process.kill)
    timer.start()
    try:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if kill and re.search(kill[1], line):
                hosts("kill", kill[0])
                kill = None
        status = process.wait()
    finally:
        timer.cancel()
    output = "".join(lines)
    assert status != -signal.SIGKILL, f"killed after {TIMEOUT} s:\n{output}"
    return status, output
