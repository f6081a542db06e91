"""What the operator of a GPU host changes, one change after the other, from the older release to the newest.

The channel holds both releases: test_lost_builder publishes the older one.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import yaml
from runs import BIN, INVENTORY, PROJECT, environment
from testinfra.host import Host

testinfra_hosts = ["ansible://gpu_hosts"]

SMALL = {"name": "small", "model": "stand-in/small", "port": 1234}
GPUS = {
    "mistralrs-ampere": "Stand-in, 8.6, 580.1",
    "mistralrs-blackwell": "Stand-in, 12.0, 595.1",
    "there is no flavour for Stand-in (9.0)": "Stand-in, 9.0, 580.1",
    "driver is 570.1, and mistralrs-ada needs 580 or newer": "Stand-in, 8.9, 570.1",
    "Choose one with mistralrs_flavour": "One, 8.9, 580.1\\nTwo, 8.6, 580.1",
}
"""Answers of nvidia-smi, by what the module makes of each."""


def ansible(playbook: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a playbook as the operator does; white space of its output is one blank."""
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", INVENTORY, playbook, *words], cwd=PROJECT, text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(),
    )  # fmt: skip
    return subprocess.CompletedProcess(done.args, done.returncode, re.sub(r"\s+", " ", done.stdout))


def play(*words: str, **variables: object) -> subprocess.CompletedProcess[str]:
    return ansible(PROJECT / "playbooks/gpu_hosts.yml", "-e", json.dumps(variables), *words)


def started(host: Host, unit: str) -> str:
    """The time at which the unit's process began."""
    return host.check_output(f"systemctl show --property=ExecMainStartTimestampMonotonic --value {unit}")


def test_the_flavour_of_other_gpus(host: Host, tmp_path: Path) -> None:
    """The module on the host, in one run: an nvidia-smi for each case, and none at all."""
    table = yaml.safe_load((PROJECT / "inventory/group_vars/all/flavours.yml").read_text())["flavours"]
    cases = dict(enumerate(GPUS.values()))
    # A program for each case: variables of the task do not reach it.
    script = '#!/bin/sh\\nNVIDIA_STAND_IN=/root/answer-%s exec nvidia-smi "$@"\\n'
    for number, answer in cases.items():
        host.check_output("printf '%%b\\n' %s >/root/answer-%s", answer, str(number))
        host.check_output("printf '%%b' %s >/root/ask-%s", script % number, str(number))
        host.check_output("chmod 755 /root/ask-%s", str(number))
    task = {
        "name": "Ask",
        "nvidia_gpu": {"flavours": table, "program": "{{ item }}"},
        "loop": [*(f"/root/ask-{number}" for number in cases), "no-nvidia-smi"],
        "register": "asked",
        "ignore_errors": True,
    }
    show = {"name": "Show", "debug": {"msg": "CASE{{ index }} {{ item.package | default(item.msg) }}"}}
    show |= {"loop": "{{ asked.results }}", "loop_control": {"index_var": "index"}}
    file = tmp_path / "play.yml"
    file.write_text(json.dumps([{"hosts": "gpu_hosts", "gather_facts": False, "tasks": [task, show]}]))
    answers = re.findall(r"CASE(\d) (.*?)(?=CASE\d|PLAY RECAP)", ansible(file, "-v").stdout)
    found = {int(number): text for number, text in answers}
    for number, expected in enumerate(GPUS):
        assert expected in found[number], found
    assert "Install the driver" in found[len(GPUS)] or "neither an NVIDIA GPU" in found[len(GPUS)], found


def test_invalid_input_is_named_before_anything_changes(host: Host) -> None:
    before = host.check_output("ls -l --time-style=full-iso /etc/mistralrs")
    done = play(mistralrs_instances=[SMALL, SMALL | {"port": 99999}, {"name": "Upper", "model": "x", "port": 1}])
    assert done.returncode != 0
    for text in ("Upper: a name has lower-case", "port 99999 is not a number", "small: the name occurs 2 times"):
        assert text in done.stdout
    assert "changed=0" in done.stdout
    assert host.check_output("ls -l --time-style=full-iso /etc/mistralrs") == before


def test_a_certain_older_version_replaces_a_newer_one(host: Host) -> None:
    done = play(mistralrs_version="0.9.1")
    assert done.returncode == 0, done.stdout
    assert host.check_output("rpm -q mistralrs-ada") == "mistralrs-ada-0.9.1-1.fc43.x86_64"
    assert host.check_output("curl -s http://127.0.0.1:1235/health") == "OK"


def test_an_upgrade_restarts_the_instances(host: Host) -> None:
    before = started(host, "mistralrs-ada@small.service")
    done = play(mistralrs_package_state="latest")
    assert done.returncode == 0, done.stdout
    assert "changed=1 " in done.stdout
    assert host.check_output("rpm -q mistralrs-ada") == "mistralrs-ada-0.9.2-1.fc43.x86_64"
    assert started(host, "mistralrs-ada@small.service") != before
    assert host.check_output("curl -s http://127.0.0.1:1234/health") == "OK"


def test_the_journal_of_a_server_that_does_not_start_is_shown(host: Host) -> None:
    wrong = {"name": "wrong", "config": '[server]\nhost = "127.0.0.1"\nport = 1300\n'}
    done = play("--tags", "mistralrs_instances", mistralrs_instances=[SMALL, wrong], mistralrs_health_timeout=3)
    assert done.returncode != 0
    assert "mistralrs-ada@wrong.service" in done.stdout
    assert "command is ``; only `serve` is known" in done.stdout
    assert host.service("mistralrs-ada@small.service").is_running


def test_removed_instances_go_and_another_flavour_takes_over_the_rest(host: Host) -> None:
    host.check_output("touch /etc/mistralrs/own.conf")
    done = play(mistralrs_flavour="cpu", mistralrs_instances=[SMALL])
    assert done.returncode == 0, done.stdout
    units = host.check_output("systemctl list-units --all --plain --no-legend 'mistralrs*.service'")
    assert [line.split()[0] for line in units.splitlines()] == ["mistralrs-cpu@small.service"]
    wants = host.check_output("ls /etc/systemd/system/multi-user.target.wants").split()
    assert [name for name in wants if name.startswith("mistralrs")] == ["mistralrs-cpu@small.service"]
    # The token's file goes with its instance, the operator's own file stays.
    assert host.check_output("ls /etc/mistralrs").split() == ["own.conf", "small.conf"]
    assert host.check_output("curl -s http://127.0.0.1:1234/health") == "OK"
    assert host.run("curl -s http://127.0.0.1:1235/health").rc == 7


def test_a_package_of_another_key_is_not_installed(host: Host, tmp_path: Path) -> None:
    """Whatever the site serves: the controller's keys decide."""
    home = ["gpg", "--homedir", str(tmp_path), "--batch", "--passphrase", ""]
    try:
        subprocess.run([*home, "--quick-gen-key", "stranger@example.org", "rsa2048", "sign"], check=True)
        key = subprocess.run([*home, "--armor", "--export"], check=True, stdout=subprocess.PIPE).stdout
        (tmp_path / "stranger.asc").write_bytes(key)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(tmp_path), "--kill", "all"], check=True)
    host.check_output("rpm -e mistralrs-release && rpmkeys --delete $(rpmkeys --list | cut -d' ' -f1)")
    done = play(mistralrs_trusted_keys=str(tmp_path / "stranger.asc"))
    assert done.returncode != 0
    assert "Failed to validate GPG signatures" in done.stdout
    assert host.run("rpm -q mistralrs-release").rc != 0


def test_the_first_state_comes_back(host: Host) -> None:
    """The right key and the flavour of the GPU."""
    host.check_output("rm -f /etc/mistralrs/own.conf")
    done = play()
    assert done.returncode == 0, done.stdout
    assert host.check_output("rpm -q mistralrs-ada") == "mistralrs-ada-0.9.2-1.fc43.x86_64"
    assert host.service("mistralrs-ada@wide.service").is_running
    assert not host.service("mistralrs-cpu@small.service").is_running
