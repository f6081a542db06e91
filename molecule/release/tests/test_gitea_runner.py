"""The runner runs sandboxed; it was registered once, and the token is stored nowhere. Its program is a stand-in."""

import json

import pytest

testinfra_hosts = ["ansible://builders"]

HOME = "/var/lib/gitea-runner"
USER = "gitea-runner"
TOKEN = "stand-in-token"  # noqa: S105


@pytest.fixture
def pid(host):
    service = host.service("gitea-runner")
    assert service.is_enabled
    if not service.is_running:
        pytest.fail(host.check_output("journalctl --no-pager --lines=30 --unit=gitea-runner"))
    return host.check_output("systemctl show --property=MainPID --value gitea-runner")


def calls(host):
    return [json.loads(line) for line in host.file(f"{HOME}/calls").content_string.splitlines()]


def test_it_was_registered_once_and_then_started(host, pid):
    registered, *started = calls(host)
    name = host.check_output("hostname")
    assert registered["argv"] == [
        "register", "--no-interactive", "--config", "/etc/gitea-runner/config.yaml", "--instance", "https://gitea.lair.test",
        "--name", name,
    ]  # fmt: skip
    assert {tuple(call["argv"]) for call in started} == {("daemon", "--config", "/etc/gitea-runner/config.yaml")}
    assert {call["user"] for call in calls(host)} == {host.user(USER).uid}
    assert host.file(f"{HOME}/.runner").mode == 0o600


def test_it_runs_one_long_job_at_a_time(host):
    text = host.file("/etc/gitea-runner/config.yaml").content_string
    for line in ("capacity: 1", "timeout: 24h", 'labels: ["cuda-13.0:host"]'):
        assert f"  {line}\n" in text


def test_the_token_is_stored_nowhere(host, pid):
    places = f"/etc {HOME} /root /var/log /tmp /run/systemd /proc/{pid}/environ /proc/{pid}/cmdline"
    assert host.run(f"grep --recursive --binary-files=text --files-with-matches {TOKEN} {places}").stdout == ""
    assert TOKEN not in host.check_output("journalctl --no-pager")


def test_nobody_can_log_in_to_its_account(host):
    account = host.user(USER)
    assert account.shell == "/usr/sbin/nologin"
    assert account.password.startswith("!")
    assert account.groups == [USER]


def test_a_job_neither_sees_the_builders_root_nor_becomes_another_account(host, pid):
    assert host.check_output(f"ls -A /proc/{pid}/root/var/lib/mistralrs-rpm") == ""
    status = host.file(f"/proc/{pid}/status").content_string
    assert "NoNewPrivs:\t1\n" in status
    assert "CapBnd:\t0000000000000000\n" in status
    assert "Seccomp:\t2\n" in status


def test_the_unit_is_sandboxed(host, pid):
    host.run_expect([0], "systemd-analyze verify /etc/systemd/system/gitea-runner.service")
    report = host.run("systemd-analyze security --no-pager gitea-runner").stdout
    score = float(report.rpartition("gitea-runner.service: ")[2].split()[0])
    assert score <= 2.5, report
