"""A builder dies during a build: another one builds its flavour, the run reports it, and everything is published."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from runs import hosts, playbook

SSH = ["ssh", "-F", Path(__file__).resolve().parents[3] / ".local/molecule/ssh_config"]
ANVIL = "10.203.43.44"

# A build waits for these locks, as it waits for the cargo of a killed build.
HOLD = """
import fcntl, pathlib, time
held = [path.open("a") for path in pathlib.Path("/var/lib/mistralrs-rpm/target").rglob(".cargo*lock")]
for lock in held:
    fcntl.flock(lock, fcntl.LOCK_EX)
print("held", len(held), flush=True)
time.sleep(300)
"""


@pytest.fixture
def endless_build():
    """Builds on anvil wait until the test ends; afterwards anvil is booted again."""
    with subprocess.Popen(
        [*SSH, ANVIL, "python3", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(HOLD)
        holder.stdin.close()
        assert re.fullmatch(r"held [1-9]\n", holder.stdout.readline())
        yield
        holder.kill()
    hosts("boot", "anvil")


def test_another_builder_builds_its_flavour_and_all_is_published(endless_build):
    status, output = playbook("release", "-e", "version=0.9.1", kill=("anvil", r"\[ada\] waiting for a cargo"))
    assert status == 4, output
    assert re.search(r"^spread .* anvil is lost; ada by forge$", output, re.MULTILINE), output
    assert re.search(r"^LOST .* anvil: Build: ", output, re.MULTILINE), output
    assert re.search(r"^Lost on the way: anvil$", output, re.MULTILINE), output
    assert re.search(r"^publish .*3 added", output, re.MULTILINE), output
    assert "Not published" not in output


def test_the_next_run_finds_everything_published():
    status, output = playbook("release", "-e", "version=0.9.1")
    assert status == 0, output
    assert "0.9.1 is published" in output
    assert not re.search(r"changed=[1-9]", output), output
