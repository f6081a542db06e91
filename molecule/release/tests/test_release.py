"""What one command made of three bare hosts: a channel over TLS, and a server on the GPU host that came from it.

The GPU, Cloudflare and Let's Encrypt are stand-ins; DNS, ACME, nginx, ssh, cargo, nvcc, rpm, dnf5 and systemd are real.
"""

from __future__ import annotations

import json

import pytest
from testinfra.utils.ansible_runner import AnsibleRunner

SITE = "https://rpm.lair.test"
CHANNEL = f"{SITE}/fedora/43/x86_64"


@pytest.fixture(scope="session")
def hosts(request):
    runner = AnsibleRunner(request.config.option.ansible_inventory)
    return {name: runner.get_host(name) for name in ("oolon", "forge", "gpu")}


def test_the_gpu_host_installed_the_package_over_tls(hosts):
    gpu = hosts["gpu"]
    assert gpu.check_output("rpm -q --queryformat '%{NAME} %{VERSION}' mistralrs-ada") == "mistralrs-ada 0.9.2"
    repository = gpu.check_output("dnf5 -q repoquery --installed --queryformat '%{from_repo}\n' mistralrs-ada")
    assert repository == "mistralrs"
    config = json.loads(gpu.check_output("dnf5 repo info mistralrs --json"))[0]
    assert config["mirrorlist"] == f"{CHANNEL}/mirrorlist"
    assert gpu.check_output(f"curl --fail --silent --show-error {CHANNEL}/mirrorlist").startswith(
        f"{CHANNEL}/snapshots/"
    )


def test_its_server_answers(hosts):
    gpu = hosts["gpu"]
    assert gpu.service("mistralrs-ada@small").is_running
    assert gpu.service("mistralrs-ada@small").is_enabled
    assert gpu.check_output("curl --fail --silent http://127.0.0.1:1234/health") == "OK"


def test_the_builder_built_it_as_an_account_without_rights(hosts):
    forge = hosts["forge"]
    artifacts = forge.check_output("ls -d /var/lib/mistralrs-rpm/artifacts/ada/*")
    assert forge.file(artifacts.split()[0]).user == "mistralrs-build"
    assert forge.run("sudo -n -u mistralrs-build sudo -n true").rc != 0


def test_the_repo_host_has_no_private_key(hosts):
    oolon = hosts["oolon"]
    found = oolon.check_output(
        "find / -xdev \\( -name private-keys-v1.d -o -name secring.gpg \\) -not -path '/proc/*' 2>/dev/null || true"
    )
    assert not [folder for folder in found.split() if oolon.check_output(f"ls {folder}")]
    armored = oolon.run("grep -rlsI 'BEGIN PGP PRIVATE KEY' /srv /etc /root /home /var")
    assert not armored.stdout


def test_the_journal_says_what_was_published_and_by_whom(hosts):
    lines = hosts["oolon"].check_output("cat /srv/rpm/.publisher/stable/journal").splitlines()
    assert any("mistralrs-ada-0.9.2" in line for line in lines)
    assert "signer" in hosts["oolon"].check_output("cat /srv/rpm/.publisher/log")
