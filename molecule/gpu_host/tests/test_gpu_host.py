"""A GPU host, from a bare one to its end: what provisioning left, then what the operator changes, one after the other.

The GPU is a stand-in: an nvidia-smi that answers with a file, and libraries that load. The package, its channel with
both signatures, dnf5 and systemd are real.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from testinfra.host import Host

PROJECT = Path(__file__).resolve().parents[3]
SCENARIO = PROJECT / "molecule/gpu_host"
INVENTORY = PROJECT / "molecule/inventory/gpu_host.yml"
SMALL = {"name": "small", "model": "stand-in/small", "port": 1234}
BIN = Path(sys.executable).parent


def ansible(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Ansible as the operator calls it; the records of this scenario's actions stay as they are."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MOLECULE", "ANSIBLE_CALLBACK"))}
    done = subprocess.run(
        [BIN / words[0], "-i", INVENTORY, *words[1:]], cwd=PROJECT, text=True, check=False, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=own | {"PATH": f"{BIN}:{own['PATH']}", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
    )  # fmt: skip
    return subprocess.CompletedProcess(done.args, done.returncode, re.sub(r"\s+", " ", done.stdout))


def play(*words: str, **variables: object) -> subprocess.CompletedProcess[str]:
    return ansible("ansible-playbook", "molecule/gpu_host/converge.yml", "-e", json.dumps(variables), *words)


def started(host: Host, unit: str) -> str:
    """When the unit's process began."""
    return host.check_output(f"systemctl show --property=ExecMainStartTimestampMonotonic --value {unit}")


# ---------------------------------------------------------------- what provisioning left


def test_check_mode_predicts_what_converge_changes(records) -> None:
    records.assert_predicted()


def test_the_package_came_from_the_signed_channel(host: Host) -> None:
    assert host.check_output("rpm -q mistralrs-ada") == "mistralrs-ada-0.9.1-1.fc43.x86_64"
    assert (
        host.check_output("dnf5 -q repoquery --installed --queryformat '%{from_repo}\n' mistralrs-ada") == "mistralrs"
    )
    trusted = host.check_output("rpmkeys --list").split()[0]
    own = host.check_output("gpg --show-keys --with-colons /etc/pki/rpm-gpg/RPM-GPG-KEY-mistralrs-controller")
    assert trusted.upper() in own
    packages = "/var/cache/libdnf5"
    assert host.run(f"find {packages} -name 'repomd.xml.asc' | grep -q mistralrs").rc == 0


def test_the_repository_is_the_packages_and_stays_as_it_was_packaged(host: Host) -> None:
    assert host.check_output("rpm -V mistralrs-release") == ""
    repo = host.file("/etc/yum.repos.d/mistralrs.repo").content_string
    assert {"gpgcheck=1", "repo_gpgcheck=1", "gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-mistralrs"} <= set(
        repo.splitlines()
    )
    enabled = host.check_output("dnf5 -q repo list")
    assert "mistralrs " in enabled
    assert "mistralrs-unstable" not in enabled


@pytest.mark.parametrize(("name", "port"), [("small", 1234), ("wide", 1235)])
def test_an_instance_runs_and_answers(host: Host, name: str, port: int) -> None:
    unit = host.service(f"mistralrs-ada@{name}.service")
    assert unit.is_running
    assert unit.is_enabled
    assert host.check_output(f"curl -s http://127.0.0.1:{port}/health") == "OK"


def test_an_instance_listens_where_it_was_told_and_nowhere_else(host: Host) -> None:
    assert host.socket("tcp://127.0.0.1:1234").is_listening
    assert not host.socket("tcp://0.0.0.0:1234").is_listening
    assert host.socket("tcp://0.0.0.0:1235").is_listening


def test_configuration_and_token_are_roots_alone(host: Host) -> None:
    for name in ("small.conf", "small.env", "wide.conf"):
        file = host.file(f"/etc/mistralrs/{name}")
        assert (file.mode, file.user, file.group) == (0o600, "root", "root"), name
    assert 'HF_TOKEN="hf_standInToken"' in host.file("/etc/mistralrs/small.env").content_string
    assert "max_seqs = 8" in host.file("/etc/mistralrs/wide.conf").content_string
    assert not host.file("/etc/mistralrs/wide.env").exists


def test_the_server_has_the_token_and_nobody_can_read_it(host: Host) -> None:
    pid = host.check_output("systemctl show --property=MainPID --value mistralrs-ada@small.service")
    assert "HF_TOKEN=hf_standInToken" in host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines()
    assert "CUDA_VISIBLE_DEVICES=0" in host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines()
    assert host.check_output(f"stat -c %U /proc/{pid}") == "mistralrs"
    everything = "journalctl --no-pager; ps axww -o args"
    assert "hf_standInToken" not in host.check_output(everything)


def test_the_unit_is_exposed_little(host: Host) -> None:
    assert host.run("systemd-analyze security --threshold=20 --no-pager mistralrs-ada@small.service").rc == 0


# ---------------------------------------------------------------- which flavour


@pytest.fixture
def answers(host: Host):
    """Lets the stand-in of nvidia-smi answer otherwise, for one test."""
    before = host.file("/etc/nvidia-stand-in").content_string

    def say(text: str) -> None:
        host.check_output("printf %s > /etc/nvidia-stand-in", text)

    yield say
    say(before)


def flavour_of(host: Host, **more: str) -> str:
    """What the module says on the host."""
    table = yaml.safe_load((PROJECT / "inventory/group_vars/all/flavours.yml").read_text())["flavours"]
    return ansible(
        "ansible", host.backend.host, "-m", "nvidia_gpu", "-a", json.dumps({"flavours": table} | more)
    ).stdout


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("Stand-in, 8.6, 580.1\n", "mistralrs-ampere"),
        ("Stand-in, 12.0, 595.1\n", "mistralrs-blackwell"),
        ("Stand-in, 9.0, 580.1\n", "there is no flavour for Stand-in (9.0)"),
        ("Stand-in, 8.9, 570.1\n", "driver is 570.1, and mistralrs-ada needs 580 or newer"),
        ("One, 8.9, 580.1\nTwo, 8.6, 580.1\n", "Choose one with mistralrs_flavour"),
    ],
)
def test_the_flavour_of_other_gpus(host: Host, answers: Callable[[str], None], answer: str, told: str) -> None:
    answers(answer)
    assert told in flavour_of(host)


def test_a_host_without_driver(host: Host) -> None:
    message = flavour_of(host, program="no-nvidia-smi")
    assert "neither an NVIDIA GPU" in message or "Install the driver" in message


# ---------------------------------------------------------------- what the operator changes, one after the other


def test_bad_input_is_named_before_anything_is_touched(host: Host) -> None:
    before = host.check_output("ls -l --time-style=full-iso /etc/mistralrs")
    done = play(mistralrs_instances=[SMALL, SMALL | {"port": 99999}, {"name": "Upper", "model": "x", "port": 1}])
    assert done.returncode != 0
    for text in ("Upper: a name has lower-case", "port 99999 is not a number", "small: the name occurs 2 times"):
        assert text in done.stdout
    assert "changed=0" in done.stdout
    assert host.check_output("ls -l --time-style=full-iso /etc/mistralrs") == before


def test_an_upgrade_restarts_the_instances(host: Host) -> None:
    before = started(host, "mistralrs-ada@small.service")
    done = play(mistralrs_version="", mistralrs_package_state="latest")
    assert done.returncode == 0, done.stdout
    assert "changed=1 " in done.stdout
    assert host.check_output("rpm -q mistralrs-ada") == "mistralrs-ada-0.9.2-1.fc43.x86_64"
    assert started(host, "mistralrs-ada@small.service") != before
    assert host.check_output("curl -s http://127.0.0.1:1234/health") == "OK"


def test_a_server_that_does_not_start_is_shown_with_its_journal(host: Host) -> None:
    wrong = {"name": "wrong", "config": '[server]\nhost = "127.0.0.1"\nport = 1300\n'}
    done = play("--tags", "mistralrs_instances", mistralrs_instances=[SMALL, wrong], mistralrs_health_timeout=3)
    assert done.returncode != 0
    assert "mistralrs-ada@wrong.service" in done.stdout
    assert "command is ``; only `serve` is known" in done.stdout
    assert host.service("mistralrs-ada@small.service").is_running


def test_what_is_taken_out_goes_and_another_flavour_moves_the_rest(host: Host) -> None:
    host.check_output("touch /etc/mistralrs/own.conf")
    done = play(mistralrs_version="", mistralrs_flavour="cpu", mistralrs_instances=[SMALL])
    assert done.returncode == 0, done.stdout
    running = host.check_output("systemctl list-units --all --plain --no-legend 'mistralrs*.service'")
    assert [line.split()[0] for line in running.splitlines()] == ["mistralrs-cpu@small.service"]
    wants = host.check_output("ls /etc/systemd/system/multi-user.target.wants").split()
    assert [name for name in wants if name.startswith("mistralrs")] == ["mistralrs-cpu@small.service"]
    # The token went with the data, what was made by hand stayed.
    assert host.check_output("ls /etc/mistralrs").split() == ["own.conf", "small.conf"]
    assert host.check_output("curl -s http://127.0.0.1:1234/health") == "OK"
    assert host.run("curl -s http://127.0.0.1:1235/health").rc == 7


def test_nothing_is_installed_that_another_key_signed(host: Host, tmp_path: Path) -> None:
    """The web says what it likes: what is not signed by a key of the controller's is refused."""
    home = ["gpg", "--homedir", str(tmp_path), "--batch", "--passphrase", ""]
    subprocess.run([*home, "--quick-gen-key", "stranger@example.org", "rsa2048", "sign"], check=True)
    (tmp_path / "stranger.asc").write_bytes(
        subprocess.run([*home, "--armor", "--export"], check=True, stdout=subprocess.PIPE).stdout
    )
    host.check_output("rpm -e mistralrs-release && rpmkeys --delete $(rpmkeys --list | cut -d' ' -f1)")
    done = play(mistralrs_trusted_keys=str(tmp_path / "stranger.asc"))
    assert done.returncode != 0
    assert "Failed to validate GPG signatures" in done.stdout
    assert host.run("rpm -q mistralrs-release").rc != 0


def test_the_first_state_comes_back(host: Host) -> None:
    """Also after all that: the right key, the older version, the flavour of the GPU."""
    host.check_output("rm -f /etc/mistralrs/own.conf")
    done = play()
    assert done.returncode == 0, done.stdout
    assert host.check_output("rpm -q mistralrs-ada") == "mistralrs-ada-0.9.1-1.fc43.x86_64"
    assert host.service("mistralrs-ada@wide.service").is_running
    assert not host.service("mistralrs-cpu@small.service").is_running
