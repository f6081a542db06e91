"""The web server of the local default: the system's nginx with a configuration of its own.

Rules:

1. nginx listens on 127.0.0.1 only, serves one folder, and refuses every path with a dotfile in it (the state of the
   agent is in ``.publisher``).
2. Cache lifetimes, content types and the links that are followed are those of ``nginx_rules``. There is no
   open_file_cache: it would serve the old target of a link after a new snapshot became the head.
3. Every answer carries ``X-Served-By`` with a digest of the configuration. It distinguishes this very site from another
   program on the port.
4. Started by root, nginx reads files as the account ``nobody`` wherever that account can reach the folder: a link, or a
   mistake in these rules, then shows nothing that others may not read.
5. The system's nginx, its configuration and its logs do not change: all files are in ``state_dir``.

``python -m pipeline.hosts.loopback_site ROOT PORT`` serves in the foreground until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import grp
import http.client
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.environment import UMASK, environment
from ..base.errors import PipelineError
from ..base.records import digest_of
from ..base.run import ProgramMissing, run
from ..base.text import last_words
from . import nginx_rules

DEADLINE = 5.0
"""Seconds in which nginx must answer, or end."""

_CONF = """\
# Written by mistralrs-rpm at every start.
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
    {types}
    sendfile on;
    charset utf-8;

    {cache_control}

    server {{
        listen 127.0.0.1:{port};
        server_name _;
        root "{root}";
        index index.html;
        autoindex on;
        add_header Cache-Control $mistralrs_cache_control;
        add_header X-Served-By "{marker}" always;

        location ~ /\\. {{ return 403; }}
        {links}
    }}
}}
"""


@dataclass(frozen=True)
class Site:
    """A folder that nginx serves on a port of 127.0.0.1; ``state_dir`` holds nginx's files."""

    root: Path
    port: int
    state_dir: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def marker(self) -> str:
        """The value of X-Served-By. It does not depend on ``state_dir`` or the account: several may use one site."""
        rules = (nginx_rules.CACHE_CONTROL, nginx_rules.TYPES, nginx_rules.LINKS)
        digest = digest_of([_CONF, *rules, str(self.root), self.port])
        return f"mistralrs-rpm {digest[:16]}"

    @property
    def conf(self) -> str:
        """The text of nginx.conf."""
        return self._render(str(self.state_dir), self.marker)

    def argv(self, *more: str) -> list[str]:
        """The command that runs nginx for this site."""
        state = str(self.state_dir)
        return [_nginx(), "-p", state, "-e", f"{state}/error.log", "-c", f"{state}/nginx.conf", *more]

    def _render(self, state: str, marker: str) -> str:
        user = f"user {_account(self.root)};\n" if os.geteuid() == 0 else ""
        for text in (str(self.root), state):
            if re.search(r'["$\\\n]', text):
                raise PipelineError("nginx cannot serve a folder with this name", text, "Choose another name")
        return _CONF.format(
            user=user,
            state=state,
            root=self.root,
            port=self.port,
            marker=marker,
            cache_control=nginx_rules.CACHE_CONTROL,
            types=nginx_rules.TYPES,
            links=nginx_rules.LINKS,
        )


def started(site: Site, *, check: bool = False) -> bool:
    """Serve ``site``; True if that is a change. With ``check`` nothing starts."""
    if answers(site):
        return False
    if _pid(site.state_dir) is None:
        _expect_free(site.port)
    if check:
        return True
    _nginx()  # fails before the old server stops
    stopped(site.state_dir)
    _expect_free(site.port)
    _write(site)
    run(site.argv(), timeout=DEADLINE * 2)
    _await_answer(site)
    return True


def stopped(state_dir: Path, *, check: bool = False) -> bool:
    """Stop the nginx of ``state_dir``; True if there was one. With ``check`` it keeps running."""
    pid = _pid(state_dir)
    if pid is None or check:
        return pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + DEADLINE
    while _pid(state_dir) is not None:
        if time.monotonic() > end:
            raise PipelineError(
                f"nginx, process {pid}, does not stop", str(state_dir), f"Find out why, then kill -9 {pid}"
            )
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """Serve ``root`` in the block, on a port of its own, and leave no files; yields the URL.

    Another run, or ``make serve``, may serve the same folder meanwhile and end when it likes.
    """
    with tempfile.TemporaryDirectory(prefix="mistralrs-site-") as folder:
        site = _started_somewhere(root.resolve(), Path(folder))
        try:
            yield site.url
        finally:
            stopped(site.state_dir)


def _started_somewhere(root: Path, state_dir: Path) -> Site:
    """Serve on a free port. Another program may take it first; then on another one."""
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            site = Site(root, probe.getsockname()[1], state_dir)
        try:
            started(site)
        except PipelineError:
            if not _taken(site.port):
                raise
        else:
            return site
    raise PipelineError("no port is free for long enough", "127.0.0.1", "Run again")


def answers(site: Site) -> bool:
    """Whether this very site (rule 3) is served now."""
    request = urllib.request.Request(f"{site.url}/.marker", method="HEAD")  # noqa: S310
    # To a proxy of the environment 127.0.0.1 is another host.
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
    """Serve ``root`` until Ctrl-C or SIGTERM and leave no files; the exit status."""
    with tempfile.TemporaryDirectory(prefix="mistralrs-site-") as folder:
        site = Site(root.resolve(), port, Path(folder))
        if answers(site):
            print(f"{site.url} already serves {site.root}")
            return 0
        _expect_free(port)
        _write(site)
        # A shell without job control starts background processes with SIGINT ignored, so SIGTERM must not depend on it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        nginx = subprocess.Popen(site.argv("-g", "daemon off;"), env=environment(), umask=UMASK)  # noqa: S603
        try:
            _await_answer(site)
            print(f"serving {site.root} on {site.url} until Ctrl-C", flush=True)
            return nginx.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            # Ctrl-C in a terminal reaches nginx too: it may have ended.
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
            errors = last_words(log.read_text(errors="replace")) if log.exists() else "no log"
            raise PipelineError(
                f"nginx does not serve {site.root} after {DEADLINE:g} s: {errors}",
                site.url,
                f"Read {log}",
            )
        time.sleep(0.02)


def _nginx() -> str:
    """nginx's path. Debian and Fedora install it in sbin, which a user's PATH may lack."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
    if found is None:
        raise ProgramMissing("nginx")
    return found


def _account(root: Path) -> str:
    """The account and group as which root's nginx reads ``root``: root's where others may not enter, as in its home."""
    folder = root.resolve()
    open_to_all = all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents) if path.exists())
    account = pwd.getpwnam("nobody") if open_to_all else pwd.getpwuid(0)
    return f"{account.pw_name} {grp.getgrgid(account.pw_gid).gr_name}"


def _pid(state_dir: Path) -> int | None:
    """The pid of the running nginx of ``state_dir``. A pid file may be stale, and its pid another program's."""
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
                f"this account may not listen on port {port}",
                f"127.0.0.1:{port}",
                f"Choose another port: {_OTHER_PORT}",
            ) from error
        except OSError as error:
            raise PipelineError(
                f"port {port} is taken by {_holder(port)}",
                f"127.0.0.1:{port}",
                f"Stop that program, or choose another port: {_OTHER_PORT}",
            ) from error


_OTHER_PORT = "make release PORT=8700, or -e local_port=8700"


def _taken(port: int) -> bool:
    try:
        _expect_free(port)
    except PipelineError:
        return True
    return False


def _holder(port: int) -> str:
    """The program that listens on ``port``, from ss."""
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
