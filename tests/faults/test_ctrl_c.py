"""Ctrl-C ends a run within five seconds, whatever it does, and leaves no process.

Ansible's own clean-up waits for a queue whose writer it has just killed: with four hosts that print, it hung in two of
three interruptions.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
LIMIT = 5
# A worker that prints all the time is likely to die while it holds the queue.
CHATTY = """
import time
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        open(self._task.args["mark"], "a").close()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            Display().display("chatter " * 200)
        return {"changed": False}
"""
STUBBORN = """#!/usr/bin/python
import signal, subprocess, time
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"mark": {"type": "str", "required": True}})
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "4711"])
open(module.params["mark"], "a").close()
time.sleep(60)
module.exit_json(changed=False)
"""
ORDERLY = """#!/usr/bin/python
import os, time
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"mark": {"type": "str", "required": True}})
try:
    open(module.params["mark"], "a").close()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    os.unlink(module.params["mark"])
module.exit_json(changed=False)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with modules; whatever a failed test leaves running is killed."""
    for name, text in {"stubborn": STUBBORN, "orderly": ORDERLY, "chatty": "#!/usr/bin/python\n"}.items():
        (tmp_path / "library").mkdir(exist_ok=True)
        (tmp_path / f"library/{name}.py").write_text(text)
    (tmp_path / "action").mkdir()
    (tmp_path / "action/chatty.py").write_text(CHATTY)
    yield tmp_path
    for pid in left(tmp_path):
        os.kill(pid, signal.SIGKILL)


def start(folder: Path, module: str, strategy: str = "linear", hosts: str = "a,") -> subprocess.Popen[str]:
    """A run whose hosts are all at a task of ``module``."""
    task = {"name": "Wait", module: {"mark": f"{folder}/mark-{{{{ inventory_hostname }}}}"}}
    play = [{"hosts": "all", "gather_facts": False, "strategy": strategy, "tasks": [task]}]
    (folder / "release.yml").write_text(json.dumps(play))
    own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    settings = {
        "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
        "ANSIBLE_LIBRARY": str(folder / "library"),
        "ANSIBLE_ACTION_PLUGINS": str(folder / "action"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "HOLDER": str(folder),
    }
    words = [Path(sys.executable).with_name("ansible-playbook"), "-i", hosts, "-c", "local", "release.yml"]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            words, cwd=folder, env=own | settings, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True,
            start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list(folder.glob("mark-*"))) < hosts.count(",") + bool(hosts.rpartition(",")[2]):
        assert process.poll() is None, (folder / "output").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def end(folder: Path, process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """Interrupt the run as a terminal does; its output without the chatter, once all of its processes are gone."""
    began = time.monotonic()
    os.killpg(process.pid, number)
    try:
        status = process.wait(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert time.monotonic() - began < LIMIT
    assert status == 128 + number
    assert left(folder) == []
    return "\n".join(line for line in (folder / "output").read_text().splitlines() if "chatter" not in line)


def left(folder: Path) -> list[int]:
    """The processes that have the folder in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        # The environment of a zombie is empty.
        if f"HOLDER={folder}\0".encode() in environment:
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("attempt", range(10 if os.environ.get("FAULTS") == "long" else 2))
def test_while_workers_print(folder: Path, attempt: int) -> None:
    process = start(folder, "chatty", "free", "a,b,c,d")
    time.sleep(random.random())  # noqa: S311  any moment
    output = end(folder, process)
    assert "Interrupted after" in output
    assert "No snapshot was published: clients see the packages that they saw before" in output
    assert "Run the same command again: it continues where this run stopped" in output
    assert "Traceback" not in output


def test_while_a_module_ignores_the_signal(folder: Path) -> None:
    output = end(folder, start(folder, "stubborn"))
    assert "Interrupted after" in output
    assert "in: Wait (a)" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "a stopped service"])
def test_a_module_may_end_in_order(folder: Path, number: int) -> None:
    """As cargo_build does, which ends its sandbox. SIGTERM ends modules without one."""
    process = start(folder, "orderly")
    end(folder, process, number)
    assert (folder / "mark-a").exists() == (number == signal.SIGTERM)
