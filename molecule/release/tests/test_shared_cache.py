"""The cache hosts: builders have the settings of the first one, and nobody else can use either."""

from __future__ import annotations

import pytest

testinfra_hosts = ["ansible://builders"]

FIRST = "10.203.43.41"
SETTINGS = "/var/lib/mistralrs-rpm/cache/sccache.env"


def test_each_builder_has_its_settings(host):
    settings = host.file(SETTINGS)
    assert (settings.user, settings.mode) == ("mistralrs-build", 0o600)
    for line in (
        "SCCACHE_MULTILEVEL_CHAIN=disk,redis",
        f"SCCACHE_REDIS_ENDPOINT=redis://{FIRST}:6379",
        "SCCACHE_REDIS_USERNAME=builders",
        "SCCACHE_REDIS_PASSWORD=stand-in-password",
    ):
        assert line in settings.content_string.splitlines()


def test_only_a_cache_host_runs_the_server(host):
    if host.system_info.distribution == "debian":
        pytest.skip("the Debian builder is a cache host")
    assert not host.service("mistralrs-cache").is_running


def test_the_server_is_sandboxed_and_listens_on_one_address(host):
    if host.system_info.distribution != "debian":
        pytest.skip("the Debian builder is the cache host")
    address = host.ansible.get_variables()["ansible_host"]
    service = host.service("mistralrs-cache")
    assert service.is_running, host.check_output("journalctl --no-pager --lines=30 --unit=mistralrs-cache")
    assert service.is_enabled
    assert not host.service("redis-server").is_running
    assert not host.service("redis-server").is_enabled
    listening = {line.split()[3] for line in host.check_output("ss -Hltn 'sport = :6379'").splitlines()}
    assert listening == {f"{address}:6379"}
    report = host.run("systemd-analyze security --no-pager mistralrs-cache").stdout
    assert float(report.rpartition("mistralrs-cache.service: ")[2].split()[0]) <= 2.5, report


def test_only_the_builders_have_the_password(host):
    assert host.run("grep --recursive --files-with-matches stand-in-password /etc /root /var/log /tmp").stdout == ""
    assert "stand-in-password" not in host.check_output("journalctl --no-pager")
