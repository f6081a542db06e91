"""The Debian builder holds what builders share; both are told where, and nobody else can use it."""

ADDRESS = "10.203.43.21"
SETTINGS = "/var/lib/mistralrs-rpm/cache/sccache.env"


def test_each_builder_is_told_where_it_is(host):
    settings = host.file(SETTINGS)
    assert (settings.user, settings.mode) == ("mistralrs-build", 0o600)
    for line in (
        "SCCACHE_MULTILEVEL_CHAIN=disk,redis",
        f"SCCACHE_REDIS_ENDPOINT=redis://{ADDRESS}:6379",
        "SCCACHE_REDIS_USERNAME=builders",
        "SCCACHE_REDIS_PASSWORD=stand-in-password",
    ):
        assert line in settings.content_string.splitlines()


def test_it_is_a_service_of_its_own_that_is_shut_in(host):
    if host.system_info.distribution != "debian":
        assert not host.service("mistralrs-cache").is_running
        return
    service = host.service("mistralrs-cache")
    assert service.is_running, host.check_output("journalctl --no-pager --lines=30 --unit=mistralrs-cache")
    assert service.is_enabled
    assert not host.service("redis-server").is_running
    assert not host.service("redis-server").is_enabled
    listening = {line.split()[3] for line in host.check_output("ss -Hltn 'sport = :6379'").splitlines()}
    assert listening == {f"{ADDRESS}:6379"}
    said = host.run("systemd-analyze security --no-pager mistralrs-cache").stdout
    assert float(said.rpartition("mistralrs-cache.service: ")[2].split()[0]) <= 2.5, said


def test_the_password_is_the_builders_alone(host):
    assert host.run("grep --recursive --files-with-matches stand-in-password /etc /root /var/log /tmp").stdout == ""
    assert "stand-in-password" not in host.check_output("journalctl --no-pager")
