"""A repo host serves the certificate that is on its disk: real nginx, and a systemctl that reloads it like its unit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import PROJECT
from support.cloudflare_site import authority, certificate
from support.ports import free_port

PROGRAM = PROJECT / "roles/tls_certificate/files/mistralrs-certificate-served"
NAME = "rpm.lair.test"
CONF = """\
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    include {folder}/sites/*.conf;
}}
"""
SITE = """\
server {{
    listen 127.0.0.1:{port} ssl;
    server_name {name};
    ssl_certificate {folder}/fullchain.pem;
    ssl_certificate_key {folder}/privkey.pem;
}}
"""

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx")


@dataclass(frozen=True)
class Host:
    """certbot's folder, nginx with the site, and the program's file."""

    folder: Path
    port: int

    @property
    def live(self) -> Path:
        return self.folder / f"letsencrypt/live/{NAME}"

    @property
    def state(self) -> dict[str, object]:
        return dict(json.loads((self.folder / "state.json").read_text()))

    def nginx(self, *words: str) -> None:
        command = [
            "nginx",
            "-p",
            self.folder,
            "-e",
            self.folder / "error.log",
            "-c",
            self.folder / "nginx.conf",
            *words,
        ]
        subprocess.run(command, check=True, capture_output=True)

    def renew(self, days: str) -> None:
        """Put a new certificate on the disk, as certbot does."""
        files = certificate(self.folder, NAME, "-days", days)
        for path, name in zip(files, ("fullchain.pem", "privkey.pem"), strict=True):
            shutil.copy(path, self.live / name)
        with (self.live / "fullchain.pem").open("a") as chain:
            chain.write((self.folder / "ca.pem").read_text())

    def site(self, name: str, folder: Path) -> None:
        (self.folder / f"sites/{name}.conf").write_text(SITE.format(port=self.port, name=name, folder=folder))

    def served(self) -> str:
        """The end of the certificate that a client gets."""
        words = ["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-servername", NAME]
        shown = subprocess.run(words, input="", capture_output=True, text=True, check=False).stdout
        date = ["openssl", "x509", "-noout", "-enddate", "-dateopt", "iso_8601"]
        found = subprocess.run(date, input=shown, capture_output=True, text=True, check=True).stdout
        return found.removeprefix("notAfter=")[:10]

    def run(self, *words: str, units: tuple[str, ...] = ("nginx.service",)) -> subprocess.CompletedProcess[str]:
        options = ["--name", NAME, "--folder", self.folder / "letsencrypt", "--state", self.folder / "state.json"]
        return subprocess.run(
            [sys.executable, PROGRAM, *options, f"--port={self.port}", *words, *units],
            env={**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path, free_port())
    for folder in ("bin", "sites"):
        (tmp_path / folder).mkdir()
    host.live.mkdir(parents=True)
    authority(tmp_path)
    host.renew("9")
    (tmp_path / "nginx.conf").write_text(CONF.format(folder=tmp_path))
    host.site(NAME, host.live)
    systemctl = tmp_path / "bin/systemctl"
    # nginx.service of Debian and Fedora: ExecReload=nginx -s reload, which reads the configuration first.
    systemctl.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n'
        f"nginx -p {tmp_path} -e {tmp_path}/error.log -c {tmp_path}/nginx.conf -s reload 2>/dev/null ||\n"
        "{ echo Job for nginx.service failed. >&2; exit 1; }\n"
    )
    systemctl.chmod(0o755)
    host.nginx()
    yield host
    os.kill(int((tmp_path / "nginx.pid").read_text()), signal.SIGTERM)


def test_a_reload_that_was_lost_is_made_up_for(host: Host) -> None:
    """A renewal whose deploy hook did not reach nginx."""
    assert host.run().returncode == 0
    assert not (host.folder / "asked").exists(), "an nginx that serves the right certificate was reloaded"
    before = host.served()
    host.renew("90")
    wrong = host.run("--check")
    assert wrong.stdout.startswith(f"{NAME} is served with the certificate that ends on {before}, not with that on")
    assert host.served() == before

    done = host.run()
    assert (done.returncode, host.state["fault"]) == (0, "")
    assert host.served() != before
    assert host.run("--check").stdout == ""
    assert (host.folder / "asked").read_text() == "try-reload-or-restart nginx.service*\n"


def test_a_reload_that_fails_is_shown_and_healed_once_the_other_file_is_mended(host: Host) -> None:
    before = host.served()
    (host.folder / "sites/another.conf").write_text("nonsense;\n")
    host.renew("90")
    failed = host.run()
    assert failed.returncode == 1
    assert f"{NAME} is served with the certificate that ends on {before}" in failed.stdout
    assert "; the reload failed: Job for nginx.service failed. Find the reason with systemctl status" in failed.stdout
    assert host.served() == before, "the site must go on with what it has"
    fault = host.state["fault"]
    assert isinstance(fault, str)
    assert failed.stdout.startswith(fault)
    assert time.time() - 60 < int(str(host.state["time"])) <= time.time()
    assert (host.folder / "state.json").stat().st_mode & 0o777 == 0o644

    (host.folder / "sites/another.conf").unlink()
    assert host.run().returncode == 0
    assert host.state["fault"] == ""
    assert host.served() != before


def test_nothing_is_compared_before_the_site_is_configured(host: Host) -> None:
    """Then nginx has certificates of other names only, or refuses the name, or does not run."""
    other = host.folder / "other"
    other.mkdir()
    for path, name in zip(certificate(host.folder, "a.test"), ("fullchain.pem", "privkey.pem"), strict=True):
        shutil.copy(path, other / name)
    (host.folder / f"sites/{NAME}.conf").unlink()
    host.site("a.test", other)
    host.nginx("-s", "reload")
    deadline = time.monotonic() + 10
    while host.run("--check").stdout and time.monotonic() < deadline:
        time.sleep(0.1)
    host.renew("90")
    assert (host.run().returncode, host.state["fault"]) == (0, "")
    assert not (host.folder / "asked").exists()
    host.site(NAME, host.live)
    assert host.run(units=()).stdout == ""
    shutil.rmtree(host.live)
    assert host.run().returncode == 0


def test_an_unreadable_certificate_is_an_error(host: Host) -> None:
    (host.live / "fullchain.pem").write_text("nonsense")
    done = host.run()
    assert done.returncode == 2
    assert "the served certificate cannot be compared: ValueError" in done.stderr
