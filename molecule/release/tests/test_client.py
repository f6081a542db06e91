"""A client downloads the key and the .repo file, and installs a package over https, with both signatures required."""

from __future__ import annotations

import pytest

testinfra_hosts = ["ansible://oolon"]

SITE = "https://rpm.lair.test"
TRIAL = "/etc/yum.repos.d/trial.repo"
KEY = "/etc/pki/rpm-gpg/RPM-GPG-KEY-mistralrs"


@pytest.fixture
def client(host):
    host.check_output(f"curl --fail --silent --show-error --output {TRIAL} {SITE}/mistralrs.repo")
    host.check_output(f"curl --fail --silent --create-dirs --output {KEY} {SITE}/RPM-GPG-KEY-mistralrs")
    yield host
    host.run(f"dnf5 -y remove mistralrs-release; rm -f {TRIAL} {KEY} /etc/yum.repos.d/mistralrs*.rpm*")


def test_dnf5_installs_the_signers_package(client):
    output = client.check_output("dnf5 -y --repo=mistralrs --refresh install mistralrs-release 2>&1")
    assert "Importing OpenPGP key" in output or "Importing PGP key" in output
    assert f"file://{KEY}" in output
    assert client.check_output("rpm -q mistralrs-release") == "mistralrs-release-43-1.noarch"
    signed = client.check_output("rpm -q --queryformat '%{RSAHEADER:pgpsig}%{OPENPGP:pgpsig}' mistralrs-release")
    assert "RSA" in signed


def test_the_release_package_has_a_fixed_url(client):
    client.check_output(f"curl --fail --silent --output /root/release.rpm {SITE}/mistralrs-release.rpm")
    client.check_output(f"curl --fail --silent --output /root/key {SITE}/RPM-GPG-KEY-mistralrs")
    client.check_output("rpm --import /root/key && rpm --checksig /root/release.rpm")
