"""The local default's web server: the system's nginx program with a configuration of its own.

Rules:

1. It listens on 127.0.0.1 only, serves one folder, and never opens a path with a dotfile in it
   (``.publisher`` is the agent's).
2. What never changes (snapshots, packages, metadata named by its digest) is ``immutable``; all else,
   the mirrorlist and a plain repomd.xml above all, is ``no-cache``. There is no open_file_cache: it
   would serve the old target after a flip.
3. Every answer carries ``X-Served-By`` with a digest of the configuration. Whoever asks can so tell
   this very site from another program on the port.
4. The system's nginx, its configuration and its logs are not touched: everything is in ``state_dir``.

``python -m pipeline.hosts.loopback_site ROOT PORT`` serves in the foreground until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.records import digest_of
from ..base.run import ProgramMissing, run

DEADLINE = 5.0
"""Seconds in which nginx must answer, or be gone."""

_CONF = """\
# Written by mistralrs-rpm; it is written again at every start.
{user}worker_processes 1;
pid "{state}/nginx.pid";
error_log "{state}/error.log";

events {{ worker_connections 256; }}

http {{
    access_log "{state}/access.log";
    client_body_temp_path "{state}/tmp/body";
    proxy_temp_path "{state}/tmp/proxy";
    fastcgi_temp_path "{state}/tmp/fastcgi";
    uwsgi_temp_path "{state}/tmp/uwsgi";
    scgi_temp_path "{state}/tmp/scgi";

    default_type text/plain;
    types {{
        text/html             html;
        text/css              css;
        text/xml              xml;
        application/atom+xml  atom;
        application/json      json;
        application/gzip      gz;
        application/zstd      zst;
        application/x-rpm     rpm;
        image/svg+xml         svg;
    }}
    sendfile on;
    charset utf-8;

    map $uri $freshness {{
        default                      "no-cache";
        "~/snapshots/[^/]+/."        "public, max-age=31536000, immutable";
        "~/Packages/[^/]+\\.rpm$"     "public, max-age=31536000, immutable";
        "~/repodata/[0-9a-f]{{64}}-"   "public, max-age=31536000, immutable";
    }}

    server {{
        listen 127.0.0.1:{port};
        server_name _;
        root "{root}";
        index index.html;
        autoindex on;
        add_header Cache-Control $freshness;
        add_header X-Served-By "{marker}" always;

        location ~ /\\. {{ return 403; }}
    }}
}}
"""


@dataclass(frozen=True)
class Site:
    """A folder that nginx serves on a loopback port; ``state_dir`` holds nginx's files."""

    root: Path
    port: int
    state_dir: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def marker(self) -> str:
        """What X-Served-By says. Not from ``state_dir`` or the account: two of those may ask about one site."""
        return f"mistralrs-rpm {digest_of([_CONF, str(self.root), self.port])[:16]}"

    @property
    def conf(self) -> str:
        """nginx.conf."""
        return self._render(str(self.state_dir), self.marker)

    def argv(self, *more: str) -> list[str]:
        """The command that starts nginx on this site."""
        state = str(self.state_dir)
        return [_nginx(), "-p", state, "-e", f"{state}/error.log", "-c", f"{state}/nginx.conf", *more]

    def _render(self, state: str, marker: str) -> str:
        # Root's workers would become an account that may not be allowed to read a folder in a home.
        user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
        for text in (str(self.root), state):
            if re.search(r'["$\\\n]', text):
                raise PipelineError("nginx cannot serve a folder of this name", text, "Choose another name")
        return _CONF.format(user=user, state=state, root=self.root, port=self.port, marker=marker)


def started(site: Site, *, check: bool = False) -> bool:
    """Serve ``site``; True if it was not served before. With ``check`` nothing is started."""
    if answers(site):
        return False
    if _pid(site.state_dir) is None:
        _expect_free(site.port)
    if check:
        return True
    _nginx()  # before the old one goes
    stopped(site.state_dir)
    _expect_free(site.port)
    _write(site)
    run(site.argv(), timeout=DEADLINE * 2)
    _await_answer(site)
    return True


def stopped(state_dir: Path, *, check: bool = False) -> bool:
    """End the nginx of ``state_dir``; True if there was one. With ``check`` it goes on."""
    pid = _pid(state_dir)
    if pid is None or check:
        return pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + DEADLINE
    while _pid(state_dir) is not None:
        if time.monotonic() > end:
            raise PipelineError(
                f"nginx, process {pid}, does not stop", str(state_dir), f"Look at it, then kill -9 {pid}"
            )
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def served(root: Path, port: int) -> Iterator[None]:
    """Serve ``root`` while this lasts, and leave nothing behind; a site that is served already stays as it is."""
    with tempfile.TemporaryDirectory(prefix="mistralrs-site-") as folder:
        site = Site(root.resolve(), port, Path(folder))
        fresh = started(site)
        try:
            yield
        finally:
            if fresh:
                stopped(site.state_dir)


def answers(site: Site) -> bool:
    """Whether this very site is served now."""
    request = urllib.request.Request(f"{site.url}/.marker", method="HEAD")  # noqa: S310
    # A proxy of the environment knows another 127.0.0.1.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=2) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
    except (OSError, http.client.HTTPException):
        return False
    return str(headers.get("X-Served-By")) == site.marker


def foreground(root: Path, port: int) -> int:
    """Serve ``root`` until Ctrl-C or SIGTERM, and leave nothing behind."""
    with tempfile.TemporaryDirectory(prefix="mistralrs-site-") as folder:
        site = Site(root.resolve(), port, Path(folder))
        if answers(site):
            print(f"{site.url} already serves {site.root}")
            return 0
        _expect_free(port)
        _write(site)
        # Not by way of SIGINT, which a shell that runs this in the background has it ignore.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        nginx = subprocess.Popen(site.argv("-g", "daemon off;"))  # noqa: S603
        try:
            _await_answer(site)
            print(f"serving {site.root} on {site.url} until Ctrl-C", flush=True)
            return nginx.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            # A terminal's Ctrl-C has reached nginx too: it may be ending already.
            nginx.terminate()
            nginx.wait()


def _write(site: Site) -> None:
    if not site.root.is_dir():
        raise PipelineError("the folder to serve does not exist", str(site.root), "Publish something first")
    (site.state_dir / "tmp").mkdir(parents=True, exist_ok=True)
    (site.state_dir / "nginx.conf").write_text(site.conf)


def _await_answer(site: Site) -> None:
    end = time.monotonic() + DEADLINE
    while not answers(site):
        if time.monotonic() > end:
            log = site.state_dir / "error.log"
            said = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
            raise PipelineError(
                f"nginx does not serve {site.root} after {DEADLINE:g} s: {' | '.join(said) or 'no log'}",
                site.url,
                f"Read {log}",
            )
        time.sleep(0.02)


def _nginx() -> str:
    """nginx's path; Debian and Fedora keep it where a user's PATH may not look."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
    if found is None:
        raise ProgramMissing("nginx")
    return found


def _pid(state_dir: Path) -> int | None:
    """The running nginx of ``state_dir``. A pid file may be stale and its number another program's."""
    try:
        pid = int((state_dir / "nginx.pid").read_text())
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (OSError, ValueError):
        return None
    return pid if "nginx" in title and f"{state_dir}/nginx.conf" in title else None


def _expect_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise PipelineError(
                f"this account may not listen on port {port}", f"127.0.0.1:{port}", _OTHER_PORT
            ) from error
        except OSError as error:
            raise PipelineError(
                f"port {port} is taken by {_holder(port)}",
                f"127.0.0.1:{port}",
                f"End that program, or choose another port: {_OTHER_PORT}",
            ) from error


_OTHER_PORT = "make release PORT=8700, or -e local_port=8700"


def _holder(port: int) -> str:
    """Who listens on ``port``, as ss tells it."""
    if shutil.which("ss"):
        listing = run(["ss", "-Hltnp", f"sport = :{port}"], accept=range(256)).stdout
        if found := re.search(r'\("([^"]+)",pid=(\d+)', listing):
            return f"{found[1]}, process {found[2]}"
    return "another program"


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[2].isdigit():
        sys.exit("usage: python -m pipeline.hosts.loopback_site ROOT PORT")
    try:
        sys.exit(foreground(Path(sys.argv[1]), int(sys.argv[2])))
    except PipelineError as error:
        sys.exit(f"error: {error}")
