"""The test hosts' stand-in for Cloudflare's API on loopback, behind its own proxy.

Requests through the proxy (https_proxy) reach this api.cloudflare.com, with a certificate of the stand-in's authority.
"""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
from pathlib import Path

import cloudflare

TOKEN = "t" * 40


class ProxyHandler(cloudflare.Handler):
    """Serves the API, and answers CONNECT to any address with it."""

    def do_CONNECT(self) -> None:  # noqa: N802 http.server's name
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)

    def log_message(self, *words: object) -> None:
        pass


class Site(http.server.ThreadingHTTPServer):
    """The API of one zone; clients need its ``environment``."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.zone = cloudflare.Zone()
        facts = {"zone": self.zone, "token": TOKEN, "memory": folder / "cloudflare.json"}
        super().__init__(("127.0.0.1", 0), type("Api", (ProxyHandler,), facts))
        self.environment = {
            "https_proxy": f"http://127.0.0.1:{self.server_port}",
            "SSL_CERT_FILE": str(authority(folder)),
        }
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(*certificate(folder, "api.cloudflare.com"))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def add(self, kind: str, name: str, content: str, **more: object) -> None:
        """Add a record behind the role's back."""
        self.zone.add({"type": kind, "name": name, "content": content, **more})

    def of(self, name: str) -> set[str]:
        """The records of a name, as text."""
        return {f"{record['type']} {record['content']}" for record in self.zone.find({"name": name})}


def authority(folder: Path) -> Path:
    """The certificate of a short-lived certificate authority, created on first use."""
    if not (folder / "ca.pem").exists():
        usage = "keyUsage=critical,keyCertSign,cRLSign"  # without it Python 3.13 rejects the authority
        _openssl(folder / "ca.key", folder / "ca.pem", "-subj", "/CN=stand-in", "-addext", usage)
    return folder / "ca.pem"


def certificate(folder: Path, name: str, *words: str) -> tuple[Path, Path]:
    """Issue a certificate by the authority; returns the paths of certificate and key."""
    files = folder / f"{name}.pem", folder / f"{name}.key"
    names = f"subjectAltName={'IP' if name[0].isdigit() else 'DNS'}:{name}"
    signed = ["-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-addext", "basicConstraints=critical,CA:false"]
    _openssl(files[1], files[0], "-subj", f"/CN={name}", "-addext", names, *signed, *words)
    return files


def _openssl(key: Path, certificate: Path, *words: str | Path) -> None:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "9",
    ]
    subprocess.run([*command, "-keyout", key, "-out", certificate, *words], check=True, capture_output=True)
