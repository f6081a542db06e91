"""The certificates of the repository hosts: trusted, renewed in time by their own service, and served at once."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time

import pytest

testinfra_hosts = ["ansible://repo_host"]

SERVICE = "mistralrs-certificate.service"
SERVED = "mistralrs-certificate-served.service"


@pytest.fixture
def site_name(host) -> str:
    return host.ansible.get_variables()["site_name"]


@pytest.fixture
def live(site_name) -> str:
    return f"/etc/letsencrypt/live/{site_name}"


def serial_of(host, live: str) -> str:
    """The serial of the certificate's file, by the library that certbot brings."""
    program = (
        "import sys, cryptography.x509 as x; print(x.load_pem_x509_certificate(sys.stdin.buffer.read()).serial_number)"
    )
    return host.check_output("/usr/bin/python3 -c %s <%s", program, f"{live}/fullchain.pem")


def served(host, state, site_name: str) -> tuple[str, dict]:
    """The serial and the fields of the certificate that nginx serves, verified as by clients."""
    context = ssl.create_default_context(cafile=state / "bundle.pem")
    address = host.ansible.get_variables()["ansible_host"]
    with (
        socket.create_connection((address, 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=site_name) as connection,
    ):
        found = connection.getpeercert()
    return str(int(found["serialNumber"], 16)), found


def wait_until_served(host, state, site_name: str, serial: str) -> None:
    """nginx reloads in the background: an old process serves the old certificate until it has gone."""
    deadline = time.monotonic() + 10
    while served(host, state, site_name)[0] != serial:
        assert time.monotonic() < deadline, "nginx still serves the old certificate"
        time.sleep(0.1)


def test_clients_trust_it_and_it_is_the_one_on_the_disk(host, state, site_name, live):
    serial, found = served(host, state, site_name)
    assert serial == serial_of(host, live)
    assert found["subjectAltName"] == (("DNS", site_name),)


def test_only_root_reads_key_and_token(host, live):
    for path in (f"{live}/privkey.pem", "/etc/mistralrs-certificate/cloudflare.ini"):
        file = host.file(host.check_output("readlink -f %s", path))
        assert (file.user, file.mode) == ("root", 0o600), path
    assert host.file("/etc/letsencrypt/live").mode == 0o700
    assert "BEGIN PRIVATE KEY" in host.file(f"{live}/privkey.pem").content_string


def test_the_token_is_in_no_log(host, state):
    token = (state / "secrets/cloudflare_token").read_text().strip()
    assert host.file("/etc/mistralrs-certificate/cloudflare.ini").contains(token)
    assert host.run("journalctl --no-pager | grep -qF %s", token).rc == 1
    assert host.run("grep -rqF %s /var/log/letsencrypt /etc/letsencrypt", token).rc == 1


def test_the_timer_runs_and_is_enabled(host):
    timer = host.service("mistralrs-certificate.timer")
    assert timer.is_running
    assert timer.is_enabled
    shown = host.check_output("systemctl show -P Persistent -P RandomizedDelayUSec mistralrs-certificate.timer")
    assert shown.split() == ["6h", "yes"] or shown.split() == ["yes", "6h"]


def test_the_distributions_own_timer_skips_it(host, site_name):
    noted = host.file(f"/etc/letsencrypt/renewal/{site_name}.conf").content_string
    assert re.search("^autorenew = False$", noted, re.MULTILINE)


def test_a_certificate_that_is_not_due_stays(host, live):
    before = serial_of(host, live)
    assert host.run("systemctl start %s", SERVICE).rc == 0
    assert host.check_output("systemctl show -P Result %s", SERVICE) == "exec-condition"
    assert serial_of(host, live) == before


@pytest.fixture
def due(host):
    """During the test the certificate is due: almost all of its lifetime must be left."""
    folder = f"/run/systemd/system/{SERVICE}.d"
    line = next(
        line for line in host.check_output("systemctl cat %s", SERVICE).splitlines() if "ExecCondition=" in line
    )
    text = f"[Service]\nExecCondition=\n{re.sub(r'--fraction [^ ]+', '--fraction 0.9999999', line)}"
    host.check_output("mkdir -p %s && echo %s >%s", folder, text, f"{folder}/due.conf")
    host.check_output("systemctl daemon-reload")
    yield
    host.check_output(f"rm -rf {folder} && systemctl daemon-reload")


def test_a_certificate_that_is_due_is_renewed_and_served_at_once(host, state, site_name, live, due):
    nginx = host.check_output("systemctl show -P MainPID nginx.service")
    before, _ = served(host, state, site_name)
    done = host.run("systemctl start %s", SERVICE)
    assert done.rc == 0, host.check_output("journalctl -n 40 -o cat --no-pager -u %s", SERVICE)
    renewed = serial_of(host, live)
    assert renewed != before
    wait_until_served(host, state, site_name, renewed)
    assert host.check_output("systemctl show -P MainPID nginx.service") == nginx, "it was restarted, not reloaded"


@pytest.fixture
def other_site(host):
    """During the test a file of another site is in error."""
    path = "/etc/nginx/conf.d/another.conf"
    host.check_output("echo nonsense >%s", path)
    yield path
    host.check_output("rm -f %s", path)


def test_a_renewal_whose_reload_fails_is_shown_and_healed_by_the_next_timer(
    host, state, site_name, live, due, other_site
):
    before, _ = served(host, state, site_name)
    assert host.run("systemctl start %s", SERVICE).rc == 0  # certbot succeeds all the same
    renewed = serial_of(host, live)
    assert renewed != before
    assert served(host, state, site_name)[0] == before
    host.check_output("rm -r /run/systemd/system/%s.d && systemctl daemon-reload", SERVICE)
    assert host.run("systemctl start %s", SERVED).rc != 0
    verdict = json.loads(host.file("/var/lib/mistralrs-certificate/state.json").content_string)
    assert f"{site_name} is served with the certificate that ends on" in verdict["fault"]
    assert "the reload failed" in verdict["fault"]
    host.check_output("rm %s", other_site)
    # What the timer starts.
    assert host.check_output("systemctl show -P Unit mistralrs-certificate.timer") == SERVED
    assert host.run("systemctl start %s", SERVED).rc == 0
    assert serial_of(host, live) == renewed
    wait_until_served(host, state, site_name, renewed)
    assert json.loads(host.file("/var/lib/mistralrs-certificate/state.json").content_string)["fault"] == ""


@pytest.mark.parametrize("service", [SERVICE, SERVED])
def test_the_services_are_sandboxed(host, service):
    report = host.check_output("systemd-analyze security --no-pager %s", service)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert exposure
    assert float(exposure[1]) <= 2, report


def test_the_program_finds_the_account(host, site_name):
    directory = "https://pebble.lair.test:14000/dir"
    program = "/usr/local/sbin/mistralrs-certificate-due --json --names %s --directory %s"
    answer = json.loads(host.check_output(program, site_name, directory))
    assert answer["account"].startswith("https://pebble.lair.test:14000/my-account/")
    assert answer["due"] == ""
