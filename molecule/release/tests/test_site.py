"""The site for clients: https only, HTTP/2, cached only where files never change, and nothing but its files."""

from __future__ import annotations

import re
import subprocess
from collections import Counter

import pytest
from repo_site import ACCOUNT, ROOT, STABLE

testinfra_hosts = ["ansible://repo_host"]

IMMUTABLE = ["public, max-age=31536000, immutable"]
REVALIDATE = ["no-cache"]
OPEN = f"""
set -e; cd {ROOT}{STABLE}; ln -sfn /etc/passwd link-file; ln -sfn /etc link-folder; ln -sfn /proc/self/environ link-proc
ln -sfn ../../../.publisher/log link-log; ln -sfn {ROOT}/mistralrs.repo link-to-root
"""
LOG = "/var/log/nginx/mistralrs-rpm.log"


@pytest.mark.parametrize(
    ("path", "freshness", "kind"),
    [
        ("STABLE/mirrorlist", REVALIDATE, "text/plain"),
        ("STABLE/repodata/repomd.xml", REVALIDATE, "text/xml"),
        ("STABLE/repodata/repomd.xml.asc", REVALIDATE, "text/plain"),
        ("STABLE/repodata/HASHED", IMMUTABLE, "application/gzip"),
        ("SNAPSHOT/repodata/repomd.xml", IMMUTABLE, "text/xml"),
        ("SNAPSHOT/repodata/HASHED", IMMUTABLE, "application/gzip"),
        ("SNAPSHOT/Packages/mistralrs-release-43-1.noarch.rpm", IMMUTABLE, "application/x-rpm"),
        ("STABLE/Packages/mistralrs-release-43-1.noarch.rpm", IMMUTABLE, "application/x-rpm"),
        ("/mistralrs.repo", REVALIDATE, "text/plain"),
        ("/mistralrs-unstable.repo", REVALIDATE, "text/plain"),
        ("/RPM-GPG-KEY-mistralrs", REVALIDATE, "text/plain"),
    ],
)
def test_each_kind_of_file_has_its_headers(host, site, snapshot, path, freshness, kind):
    hashed = host.check_output(f"cd {ROOT}{STABLE}/repodata && ls | grep primary | head -1")
    names = {"STABLE": STABLE, "SNAPSHOT": snapshot.rstrip("/"), "HASHED": hashed}
    answer = site.get(re.sub("|".join(names), lambda name: names[name[0]], path))
    assert (answer.status, answer.version) == (200, "2")
    assert answer.headers["cache-control"] == freshness
    assert answer.headers["content-type"][0].partition(";")[0] == kind
    assert answer.headers["strict-transport-security"] == ["max-age=63072000"]
    assert answer.headers["x-content-type-options"] == ["nosniff"]
    assert answer.headers["server"] == ["nginx"]
    assert "etag" in answer.headers


def test_an_unchanged_file_is_not_sent_again(site):
    first = site.get("/RPM-GPG-KEY-mistralrs")
    again = site.get("/RPM-GPG-KEY-mistralrs", "--header", f"If-None-Match: {first.headers['etag'][0]}")
    assert (again.status, again.body) == (304, "")


def test_an_interrupted_download_is_resumed(site):
    whole = site.get("/RPM-GPG-KEY-mistralrs").body
    part = site.get("/RPM-GPG-KEY-mistralrs", "--range", "100-")
    assert (part.status, part.body) == (206, whole[100:])


def test_http_redirects_to_https(site):
    answer = site.get(f"http://{site.name}/mistralrs.repo")
    assert (answer.status, answer.headers["location"]) == (301, [f"{site.url}/mistralrs.repo"])


def test_another_name_gets_no_answer(site):
    """Neither a certificate nor a page: curl's status 52 is an empty answer, 35 a refused handshake."""
    for name in (site.address, "other.lair.test"):
        places = ["--resolve", f"{name}:80:{site.address}", "--resolve", f"{name}:443:{site.address}"]
        assert site.curl(*places, f"http://{name}/").returncode == 52
        assert site.curl("--insecure", *places, f"https://{name}/").returncode == 35


def test_a_request_without_a_name_does_not_get_the_version(site):
    assert "nginx/" not in site.curl("--header", "Host:", f"http://{site.address}/").stdout


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "MKCOL"])
def test_only_reading_is_allowed(site, method):
    assert site.get("/mistralrs.repo", "--request", method, "--data", "x").status == 405


def test_head_has_headers_and_no_body(site):
    answer = site.get("/mistralrs.repo", "--head")
    assert (answer.status, answer.headers["content-length"] != ["0"]) == (200, True)


@pytest.mark.parametrize(
    "path",
    [
        "/.publisher/", "/.publisher/log", "/%2epublisher/log", "//.publisher//log", "/fedora/../.publisher/log",
        "/.git/config", f"{STABLE}/.hidden", "/RPM-GPG-KEY-mistralrs/.publisher",
    ],
)  # fmt: skip
def test_hidden_files_are_not_found(site, path):
    assert site.get(path).status == 404


@pytest.mark.parametrize("path", ["/", "/fedora/", f"{STABLE}/", f"{STABLE}/Packages/", f"{STABLE}/snapshots/"])
def test_no_folder_is_listed(site, snapshot, path):
    assert site.get(path).status == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/fedora/..%2f..%2f..%2fetc/passwd",
        "/..%252f..%252fetc/passwd",
    ],
)
def test_no_path_leaves_the_site(site, path):
    answer = site.get(path)
    assert answer.status in (400, 404)
    assert "root:" not in answer.body


@pytest.fixture
def links(host):
    """Links that the publishing account could create if it had a shell."""
    host.check_output(f"runuser -u {ACCOUNT} -- sh -c %s", OPEN)
    yield
    host.check_output(f"rm {ROOT}{STABLE}/link-*")


@pytest.mark.parametrize("name", ["link-file", "link-folder/passwd", "link-proc", "link-log", "link-to-root"])
def test_a_link_leads_only_to_files_of_its_owner(site, links, name):
    answer = site.get(f"{STABLE}/{name}")
    # A link in place of a folder is none: ENOTDIR.
    assert answer.status == (404 if "/" in name else 403)
    assert "root:" not in answer.body


def test_the_links_of_the_channels_work(site, snapshot):
    """The agent's two: the pool in a snapshot, and the head's metadata."""
    assert site.get(f"{STABLE}/repodata/repomd.xml").body == site.get(f"{snapshot}repodata/repomd.xml").body
    assert site.get(f"{snapshot}Packages/mistralrs-release-43-1.noarch.rpm").status == 200


def statuses(site, number: int, at_once: int) -> Counter[str]:
    words = ["--parallel", "--parallel-immediate", "--parallel-max", str(at_once), "--write-out", "%{http_code}\n"]
    done = site.curl(*words, "--head", "--output", "/dev/null", f"{site.url}/mistralrs.repo?[1-{number}]")
    return Counter(done.stdout.split())


def test_ten_upgrading_clients_behind_one_address_are_served(site):
    """Twenty downloads each, at once."""
    assert statuses(site, 200, 100) == {"200": 200}


def test_a_flood_gets_429_and_others_are_served(host, site):
    """From the host's own address, so that the limits do not hit the tests'."""
    program = (
        "import http.client, ssl, collections, json\n"
        "seen = collections.Counter()\n"
        f"c = http.client.HTTPSConnection('{site.name}', context=ssl.create_default_context())\n"
        "for n in range(1500):\n"
        "    c.request('HEAD', '/mistralrs.repo'); a = c.getresponse(); a.read(); seen[a.status] += 1\n"
        "    if a.status == 429 and seen[429] > 50: break\n"
        "print(json.dumps(seen))\n"
    )
    seen = host.check_output("/usr/bin/python3 -c %s", program)
    assert '"429"' in seen
    assert site.get("/mistralrs.repo").status == 200


def test_the_logs_hold_no_query(host, site):
    site.get("/mistralrs.repo?token=secret-1")
    site.get("/nowhere?token=secret-2", "--header", "Referer: https://x.invalid/?token=secret-3")
    site.get(f"http://{site.name}/x?token=secret-4")
    last = host.check_output(f"tail -5 {LOG}")
    assert '"GET /mistralrs.repo HTTP/2.0" 200' in last
    assert '"GET /nowhere HTTP/2.0" 404' in last
    assert host.run("grep -rl secret- /var/log/nginx").stdout == ""


def test_the_distribution_rotates_the_logs(host):
    assert "/var/log/nginx/*" in host.file("/etc/logrotate.d/nginx").content_string


def test_nginx_runs_and_is_enabled(host):
    nginx = host.service("nginx")
    if not nginx.is_running:
        pytest.fail(host.check_output("journalctl --no-pager --lines=30 --unit=nginx"))
    assert nginx.is_enabled


def test_tls_has_no_weak_protocol_or_cipher(site):
    """nmap tries and grades every protocol and cipher."""
    script = ["--script", "ssl-enum-ciphers", "--script-args", f"tls.servername={site.name}"]
    report = subprocess.run(
        ["nmap", "-Pn", "-n", "-p", "443", *script, site.address], capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"(SSLv\d|TLSv[\d.]+):", report)) == {"TLSv1.2", "TLSv1.3"}, report
    assert set(re.findall(r"^\| +TLS_\w+ .* - (\S+)", report, re.MULTILINE)) == {"A"}, report
    assert "least strength: A" in report
    assert "warnings" not in report
