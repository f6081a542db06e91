"""What one command made of bare hosts: a channel over TLS, built by two builders at the same time over a shared cache.

The GPU, Cloudflare and Let's Encrypt are stand-ins; DNS, ACME, nginx, ssh, cargo, nvcc, rpm, dnf5 and systemd are real.
"""

from __future__ import annotations

import json

import pytest
from testinfra.utils.ansible_runner import AnsibleRunner

SITE = "https://rpm.lair.test"
CHANNEL = f"{SITE}/fedora/43/x86_64"
ROOT = "/var/lib/mistralrs-rpm"


@pytest.fixture(scope="session")
def hosts(request):
    runner = AnsibleRunner(request.config.option.ansible_inventory)
    return {name: runner.get_host(name) for name in ("oolon", "forge", "anvil", "gpu")}


def test_the_gpu_host_reads_the_channel_over_tls(hosts):
    gpu = hosts["gpu"]
    config = json.loads(gpu.check_output("dnf5 repo info mistralrs --json"))[0]
    assert config["mirrorlist"] == f"{CHANNEL}/mirrorlist"
    assert gpu.check_output(f"curl --fail --silent --show-error {CHANNEL}/mirrorlist").startswith(
        f"{CHANNEL}/snapshots/"
    )


@pytest.mark.parametrize("builder", ["forge", "anvil"])
def test_each_builder_built_as_an_account_without_privileges(hosts, builder):
    host = hosts[builder]
    artifacts = host.check_output("ls -d /var/lib/mistralrs-rpm/artifacts/*/*")
    assert {host.file(folder).user for folder in artifacts.split()} == {"mistralrs-build"}
    assert host.run("sudo -n -u mistralrs-build sudo -n true").rc != 0


def test_both_builders_built_at_the_same_time(hosts):
    def span(builder: str, flavour: str) -> tuple[float, float]:
        # The first artifact: other tests may have built more since.
        manifest = hosts[builder].check_output(f"ls -tr {ROOT}/artifacts/{flavour}/*/manifest.json").split()[0]
        end = int(hosts[builder].check_output(f"stat -c %Y {manifest}"))
        return end - json.loads(hosts[builder].file(manifest).content_string)["seconds"], end

    begin, end = span("anvil", "ada")
    others = [span("forge", "ampere"), span("forge", "cpu")]
    assert any(first < end and begin < last for first, last in others), (begin, end, others)


def test_the_builders_share_what_they_compiled(hosts):
    """The account in the builders' settings can read and write entries, and nothing else; the cache is not empty."""
    settings = hosts["anvil"].file(f"{ROOT}/cache/sccache.env")
    assert (settings.user, settings.mode) == ("mistralrs-build", 0o600)
    assert "SCCACHE_REDIS_ENDPOINT=redis://10.203.43.41:6379" in settings.content_string
    oolon = hosts["oolon"]
    ask = "REDISCLI_AUTH=stand-in-password valkey-cli -h 10.203.43.41 --user builders"
    assert oolon.check_output(f"{ask} ping") == "PONG"
    entry = oolon.check_output(f"{ask} get .sccache_check")
    assert entry
    assert not entry.startswith(("NOPERM", "NOAUTH", "WRONGPASS")), entry
    for refused in ("keys '*'", "exists .sccache_check", "del .sccache_check", "get other"):
        assert "NOPERM" in oolon.check_output(f"{ask} {refused}")
    assert oolon.run("ss -Hltn 'sport = :6379'").stdout.count("LISTEN") == 1
    assert "stand-in-password" not in oolon.check_output("cat /etc/valkey/mistralrs-cache.conf")
    assert not hosts["forge"].check_output("grep 'compile cache: it did not start' %s/log/*.log || true", ROOT)


def test_the_repo_host_has_no_private_key(hosts):
    oolon = hosts["oolon"]
    found = oolon.check_output(
        "find / -xdev \\( -name private-keys-v1.d -o -name secring.gpg \\) -not -path '/proc/*' 2>/dev/null || true"
    )
    assert not [folder for folder in found.split() if oolon.check_output(f"ls {folder}")]
    armored = oolon.run("grep -rlsI 'BEGIN PGP PRIVATE KEY' /srv /etc /root /home /var")
    assert not armored.stdout


def test_the_journal_names_packages_and_publisher(hosts):
    lines = hosts["oolon"].check_output("cat /srv/rpm/.publisher/stable/journal").splitlines()
    # All flavours in one snapshot.
    assert any("mistralrs-ada-0.9.2" in line and "mistralrs-ampere-0.9.2" in line for line in lines)
    assert "signer" in hosts["oolon"].check_output("cat /srv/rpm/.publisher/log")
