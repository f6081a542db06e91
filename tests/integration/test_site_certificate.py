"""Status shows the validity of the site's certificate, as a client that connects sees it."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest
from pipeline.base.environment import PROXIES
from pipeline.base.errors import PipelineError
from pipeline.hosts import site_certificate
from pipeline.hosts.site_certificate import Validity, judge
from support.cloudflare_site import Site, authority, certificate

DAY = 86400


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an authority that this process trusts."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority(tmp_path)))
    return tmp_path


@pytest.fixture
def serve(trusted: Path):
    """Starts a server with a certificate; returns its URL."""
    servers = []

    def start(cert: Path, key: Path) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"https://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()


def test_a_valid_certificate_is_shown_with_its_days(serve, trusted, run_module):
    url = serve(*certificate(trusted, "127.0.0.1"))
    result = run_module("site_certificate", {"url": url})
    assert result["findings"][0]["found"] == "9 days of 9 days left, by stand-in"
    assert result["findings"][0]["needed"] == "> 43 h left"
    assert result["findings"][0]["fits"]
    assert result["certificate"]["ends"] - result["certificate"]["begins"] == 9 * DAY
    assert result["step"]["result"] == "certificate: 9 days of 9 days left, by stand-in"
    assert not result["changed"]


def test_a_certificate_of_another_name_fails(serve, trusted, run_module):
    result = run_module("site_certificate", {"url": serve(*certificate(trusted, "rpm.lair.test"))})
    (finding,) = result["findings"]
    assert "does not verify: IP address mismatch, certificate is not valid for '127.0.0.1'" in finding["found"]
    assert "journalctl -u 'mistralrs-certificate*'" in finding["remedy"]
    assert not finding["fits"]


def test_a_certificate_of_an_unknown_authority_fails(serve, trusted, monkeypatch, run_module):
    url = serve(*certificate(trusted, "127.0.0.1"))
    (trusted / "other").mkdir()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority(trusted / "other")))
    assert "does not verify" in run_module("site_certificate", {"url": url})["findings"][0]["found"]


def test_an_expired_certificate_fails(serve, trusted, run_module):
    key, request, cert = trusted / "old.key", trusted / "old.csr", trusted / "old.pem"
    (trusted / "serial").write_text("01")
    (trusted / "index").touch()
    (trusted / "ca.conf").write_text(
        f"[ca]\ndefault_ca = it\n[it]\ndatabase = {trusted}/index\nserial = {trusted}/serial\n"
        f"new_certs_dir = {trusted}\n"
        "default_md = sha256\npolicy = any\ncopy_extensions = copy\n[any]\ncommonName = supplied\n"
    )
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=127.0.0.1"]
    run = ["ca", "-batch", "-notext", "-config", trusted / "ca.conf", "-startdate", "20200101000000Z"]
    openssl(*new, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", request)
    openssl(
        *run,
        "-enddate",
        "20200401000000Z",
        "-cert",
        trusted / "ca.pem",
        "-keyfile",
        trusted / "ca.key",
        "-in",
        request,
        "-out",
        cert,
    )
    finding = run_module("site_certificate", {"url": serve(cert, key)})["findings"][0]
    assert finding["found"] == "it does not verify: certificate has expired"


@pytest.mark.parametrize("spelling", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_certificate_is_read_through_the_proxy_of_the_environment(tmp_path, monkeypatch, run_module, spelling):
    site = Site(tmp_path)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", site.environment["SSL_CERT_FILE"])
    monkeypatch.setenv(spelling, site.environment["https_proxy"])
    result = run_module("site_certificate", {"url": "https://api.cloudflare.com"})
    assert result["findings"][0]["found"] == "9 days of 9 days left, by stand-in"
    refused = run_module("site_certificate", {"url": "https://127.0.0.1:1"})
    assert "Connection refused" in refused["findings"][0]["found"]


def test_a_site_that_does_not_answer_fails(run_module):
    finding = run_module("site_certificate", {"url": "https://127.0.0.1:1"})["findings"][0]
    assert "cannot be read: [Errno 111] Connection refused" in finding["found"]
    assert finding["remedy"].startswith("127.0.0.1:1: Check the name's DNS record")


@pytest.mark.parametrize(
    ("lifetime", "left", "fits"),
    [(90, 19, True), (90, 17, False), (45, 10, True), (45, 8, False), (6, 1.3, True), (6, 1.1, False), (90, -1, False)],
)
def test_less_than_a_fifth_of_the_lifetime_fails(lifetime, left, fits):
    now = time.time()
    finding = judge(Validity(now + (left - lifetime) * DAY, now + left * DAY, "Let's Encrypt, R11"), now)
    assert finding.fits == fits
    assert bool(finding.remedy) != fits


def test_only_https_has_a_certificate():
    with pytest.raises(PipelineError, match="only an https URL"):
        site_certificate.read("http://127.0.0.1:8643")


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
