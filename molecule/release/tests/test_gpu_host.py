"""A GPU host as provisioning left it.

The GPU is a stand-in: an nvidia-smi that prints a file, and libraries that load. The package, its channel with both
signatures, dnf5 and systemd are real.
"""

from __future__ import annotations

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://gpu_hosts"]


def test_the_package_came_from_the_signed_channel(host: Host) -> None:
    assert host.check_output("rpm -q mistralrs-ada") == "mistralrs-ada-0.9.2-1.fc43.x86_64"
    repository = host.check_output("dnf5 -q repoquery --installed --queryformat '%{from_repo}\n' mistralrs-ada")
    assert repository == "mistralrs"
    trusted = host.check_output("rpmkeys --list").split()[0]
    own = host.check_output("gpg --show-keys --with-colons /etc/pki/rpm-gpg/RPM-GPG-KEY-mistralrs-controller")
    assert trusted.upper() in own
    packages = "/var/cache/libdnf5"
    assert host.run(f"find {packages} -name 'repomd.xml.asc' | grep -q mistralrs").rc == 0


def test_the_repo_file_is_the_packages_own_and_unchanged(host: Host) -> None:
    assert host.check_output("rpm -V mistralrs-release") == ""
    repo = host.file("/etc/yum.repos.d/mistralrs.repo").content_string
    key = "gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-mistralrs"
    assert {"gpgcheck=1", "repo_gpgcheck=1", "skip_if_unavailable=0", key} <= set(repo.splitlines())
    # Of both channels: an earlier package's file, which somebody changed, lacks it.
    override = host.file("/etc/dnf/repos.override.d/50-mistralrs.repo").content_string
    assert override.count("\nskip_if_unavailable=0\n") == 2
    enabled = host.check_output("dnf5 -q repo list")
    assert "mistralrs " in enabled
    assert "mistralrs-unstable" not in enabled


@pytest.mark.parametrize(("name", "port"), [("small", 1234), ("wide", 1235)])
def test_an_instance_runs_and_answers(host: Host, name: str, port: int) -> None:
    unit = host.service(f"mistralrs-ada@{name}.service")
    assert unit.is_running
    assert unit.is_enabled
    assert host.check_output(f"curl -s http://127.0.0.1:{port}/health") == "OK"


def test_an_instance_listens_only_on_its_address(host: Host) -> None:
    assert host.socket("tcp://127.0.0.1:1234").is_listening
    assert not host.socket("tcp://0.0.0.0:1234").is_listening
    assert host.socket("tcp://0.0.0.0:1235").is_listening


def test_only_root_reads_configuration_and_token(host: Host) -> None:
    for name in ("small.conf", "small.env", "wide.conf"):
        file = host.file(f"/etc/mistralrs/{name}")
        assert (file.mode, file.user, file.group) == (0o600, "root", "root"), name
    assert 'HF_TOKEN="hf_standInToken"' in host.file("/etc/mistralrs/small.env").content_string
    assert "max_seqs = 8" in host.file("/etc/mistralrs/wide.conf").content_string
    assert not host.file("/etc/mistralrs/wide.env").exists


def test_the_server_has_the_token_and_nobody_can_read_it(host: Host) -> None:
    pid = host.check_output("systemctl show --property=MainPID --value mistralrs-ada@small.service")
    environment = host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines()
    assert {"HF_TOKEN=hf_standInToken", "CUDA_VISIBLE_DEVICES=0"} <= set(environment)
    assert host.check_output(f"stat -c %U /proc/{pid}") == "mistralrs"
    assert "hf_standInToken" not in host.check_output("journalctl --no-pager; ps axww -o args")


def test_the_unit_is_sandboxed(host: Host) -> None:
    assert host.run("systemd-analyze security --threshold=20 --no-pager mistralrs-ada@small.service").rc == 0
