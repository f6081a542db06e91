"""The screen of a whole run: steps and changes instead of tasks, each failure once, plain in a log."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
BUILT = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({})
module.warn("ada: the compile cache had only 12 of 600 Rust")
module.exit_json(
    changed=True, report="/srv/builder/log/ada.html", next=["What now", "  serve"],
    step={"name": "build", "flavour": "ada", "result": "compiled", "where": "/srv/builder/artifacts/ada"},
)
"""
REFUSED = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"port": {"type": "str", "default": "1"}})
port = module.params["port"]
module.fail_json(log="/srv/builder/log/cpu.log", msg=f"port {port} is taken (127.0.0.1). Set local_port")
"""
WITHIN = [{"name": "Serve the site", "refused": {"port": "{{ item }}"}, "loop": ["80", "81"]}]
SEVERAL = [{
    "hosts": "all", "gather_facts": False, "tasks": [
        {"name": "Build", "built": {}},
        {"block": [{"name": "Rescued", "refused": {"port": "2"}}], "rescue": [{"debug": {"msg": "went on"}}]},
        {"name": "Ignored", "refused": {"port": "3"}, "ignore_errors": True},
        {"name": "Skipped", "built": {}, "when": False},
        {"name": "Write", "copy": {"content": "new\\n", "dest": "{{ folder }}/written", "mode": "0644"}},
        {"name": "Include", "include_tasks": "within.yml"},
    ],
}]  # fmt: skip
HOSTS = {
    "localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
    "gone": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
}
QUIET = {"ANSIBLE_FORCE_COLOR": "0", "NO_COLOR": "1", "TERM": "xterm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with modules, playbooks and an inventory."""
    folder = tmp_path_factory.mktemp("screen")
    (folder / "signer").mkdir()
    (folder / "built.py").write_text(BUILT)
    (folder / "refused.py").write_text(REFUSED)
    (folder / "within.yml").write_text(yaml.safe_dump(WITHIN))
    (folder / "builders.yml").write_text(yaml.safe_dump(SEVERAL))
    short = [{"hosts": "localhost", "gather_facts": False, "tasks": SEVERAL[0]["tasks"][:1]}]
    (folder / "release.yml").write_text(json.dumps(short))
    changing = [{"hosts": "localhost", "gather_facts": False, "tasks": SEVERAL[0]["tasks"][4:5]}]
    (folder / "own.yml").write_text(json.dumps(changing))
    variables = {"signer_root": str(folder / "signer"), "folder": str(folder)}
    # Variables of hosts: the project's own group_vars apply to every inventory.
    hosts = {name: row | variables for name, row in HOSTS.items()}
    inventory = {"all": {"hosts": hosts}, "signer": {"hosts": {"localhost": {}}}}
    (folder / "hosts.yml").write_text(json.dumps(inventory))
    return folder


def argv(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", *words]


def environment(folder: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return own | QUIET | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_LIBRARY": str(folder)}


def run(folder: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        argv(*words), cwd=folder, env=environment(folder), text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def failed(folder: Path) -> tuple[int, str]:
    """A run with a step, a change, a lost host, failures that are rescued or ignored, and one that ends it."""
    return run(folder, "builders.yml")


def test_no_task_is_shown_but_steps_and_changes(failed: tuple[int, str]) -> None:
    _, output = failed
    for noise in ("TASK [", "PLAY [", "skipping", "included:", "ok: [", "fatal:", "***", "...ignoring", "[ERROR]"):
        assert noise not in output
    assert re.search(r"^build +ada +[\d.]+ s +compiled$", output, re.MULTILINE)
    assert re.search(r"^changed: \[localhost\] Write$", output, re.MULTILINE)
    assert "went on" in output, "debug is meant for the operator"
    assert "\x1b" not in output
    assert "\r" not in output


def test_a_failure_is_one_row_with_its_cause_and_one_message(failed: tuple[int, str]) -> None:
    status, output = failed
    assert status != 0
    (row,) = re.findall(r"^FAILED +[\d.]+ s +(.*)$", output, re.MULTILINE)
    assert row == "Serve the site (80): port 80 is taken (127.0.0.1) (and 1 more)"
    assert "One or more items failed" not in output
    assert output.count("port 80 is taken (127.0.0.1). Set local_port") == 1
    assert output.count("port 81 is taken") == 1
    assert re.search(r"^Failed on localhost: Serve the site \(within\.yml:\d+\)$", output, re.MULTILINE)
    assert "changed: false" not in output, "no dump of the result"


def test_rescued_and_ignored_failures_are_none(failed: tuple[int, str]) -> None:
    _, output = failed
    assert output.count("port 2 is taken") == 1
    assert "localhost: Rescued: port 2 is taken (127.0.0.1); the run goes on" in output
    assert "port 3" not in output


def test_a_host_that_is_gone_is_one_row_and_one_message(failed: tuple[int, str]) -> None:
    _, output = failed
    (row,) = re.findall(r"^LOST +[\d.]+ s +(.*)$", output, re.MULTILINE)
    assert row.startswith("gone: Build: connection lost: ")
    assert re.search(r"^Lost on the way: gone$", output, re.MULTILINE)
    assert output.count("Try ssh by hand") == 1
    assert re.search(r"^gone +: .*unreachable=1", output, re.MULTILINE)


def test_the_end_has_reports_what_now_and_the_summary(failed: tuple[int, str], folder: Path) -> None:
    _, output = failed
    _, _, end = output.partition("localhost   ")
    assert "build ada report: /srv/builder/log/ada.html" in end
    assert "log: /srv/builder/log/cpu.log" in end
    assert "What now\n  serve\n" in end
    assert "the compile cache had only 12 of 600 Rust" in output
    found = re.search(r"^In all [\d.]+ s\. Summary: (.*)$", output, re.MULTILINE)
    assert found
    data = json.loads(Path(found[1]).with_suffix(".json").read_text())
    assert data["end"] == "failed"
    names = [row["name"] for row in data["rows"]]
    assert sorted(names[:2]) == ["LOST", "build"], "two hosts at one task: either may be first"
    assert names[2:] == ["FAILED"]
    assert Path(found[1]).is_relative_to(folder / "signer/log")


def test_more_is_shown_on_request(folder: Path) -> None:
    status, output = run(folder, "release.yml", "-v")
    assert status == 0, output
    assert "TASK [Build]" in output
    assert "PLAY RECAP" in output
    assert re.search(r"^build +ada ", output, re.MULTILINE)
    assert "warning: ada: the compile cache" in output


def test_a_preview_shows_what_would_change(folder: Path) -> None:
    (folder / "written").unlink(missing_ok=True)
    status, output = run(folder, "own.yml", "--check", "--diff")
    assert status == 0, output
    assert output.index("changed: [localhost] Write") < output.index("+new")
    assert not (folder / "written").exists()


def test_a_terminal_has_one_line_that_moves_and_no_colour_if_that_is_unwanted(folder: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv("release.yml"), cwd=folder, env=environment(folder), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    read = b""
    while True:
        try:
            read += os.read(ours, 65536)
        except OSError:  # all of its ends are closed
            break
    os.close(ours)
    assert process.wait() == 0, read
    assert b"\r\x1b[K... Build" in read
    assert re.search(rb"build +ada +[\d.]+ s +compiled", read)
    assert not re.search(rb"\x1b\[[\d;]*m", read)


def test_an_inventory_of_real_hosts_has_no_stand_in_and_no_warning_about_it(folder: Path) -> None:
    status, output = run(folder, str(PROJECT / "playbooks/standalone.yml"))
    assert (status, output) == (0, ""), output
