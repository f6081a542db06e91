"""The controller's services for the test hosts: bridge, DNS, mirror, git, Cloudflare's stand-in and an ACME server.

Everything listens only on the bridge's address, is recorded in the state's folder, and ends with `stop` even if `start`
failed halfway. A service that runs already is not started again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mirror
import processes
from settings import BRIDGE, CA, CONTROLLER, LOGS, NETWORK, PEBBLE_ROOT, PIDS, PROJECT, STATE, WWW, ZONE, hosts

DNS_API = f"http://{CONTROLLER}:8055"
ACME = f"{CONTROLLER}:14000"
ACME_API = f"{CONTROLLER}:15000"
SERVED = [f"{name}.{ZONE}" for name in ("mirror", "pebble", "api.cloudflare")]
"""The controller's own names for the hosts."""

ROOM = Path("/proc/sys/fs/inotify/max_user_instances")
ROOM_BEFORE = STATE / "max_user_instances"
ROOM_NEEDED = 1024

NGINX = """daemon off;
user root;
pid {state}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    types {{ text/html html; }}
    default_type application/octet-stream;
    access_log off;
    client_body_temp_path {state}/nginx-body;
    proxy_temp_path {state}/nginx-proxy;
    fastcgi_temp_path {state}/nginx-fastcgi;
    uwsgi_temp_path {state}/nginx-uwsgi;
    scgi_temp_path {state}/nginx-scgi;
    server {{
        listen {address}:80;
        root {www};
        autoindex on;
    }}
}}
"""


class ServiceError(Exception):
    """A service failed: which one, why, and its log."""


def start() -> None:
    for folder in (STATE, PIDS, LOGS, WWW, WWW / "rpm"):
        folder.mkdir(parents=True, exist_ok=True)
    for program in ("ip", "nginx", "git", "openssl", "pebble", "pebble-challtestsrv", "systemd-nspawn"):
        if not shutil.which(program):
            raise ServiceError(f"the program {program} is not installed: run make setup")
    make_room()
    make_bridge()
    make_certificates()
    start_dns()
    start_pebble()
    start_mirror()
    start_git()
    start_cloudflare()


def stop() -> None:
    for record in sorted(PIDS.glob("*")):
        processes.stop(record)
    remove_bridge()
    if ROOM_BEFORE.exists():
        ROOM.write_text(ROOM_BEFORE.read_text())


def make_room() -> None:
    """Raises the limit of inotify instances: a host's systemd takes a dozen, and root's default limit is 128."""
    before = ROOM.read_text()
    if int(before) < ROOM_NEEDED:
        if not ROOM_BEFORE.exists():
            ROOM_BEFORE.write_text(before)
        ROOM.write_text(str(ROOM_NEEDED))


# -- the bridge


def make_bridge() -> None:
    if not Path("/sys/class/net", BRIDGE).exists():
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", NETWORK, "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")


def remove_bridge() -> None:
    """Removes the bridge, unless a foreign interface is attached to it."""
    ports = Path("/sys/class/net", BRIDGE, "brif")
    deadline = time.monotonic() + 3
    while ports.exists() and any(ports.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if ports.exists() and not any(ports.iterdir()):
        ip("link", "delete", BRIDGE)


def ip(*words: str) -> None:
    run(["ip", *words])


# -- trust


def make_certificates() -> None:
    """Creates a CA for a fortnight and the stand-ins' certificate; its key stays in the state's folder."""
    if (STATE / "stand-in.pem").exists():
        return
    common = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "14",
    ]
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    run([*common, "-subj", "/CN=CA of the test hosts", *usage, "-keyout", STATE / "ca.key", "-out", CA])
    names = ",".join(f"DNS:{name}" for name in [*SERVED, "api.cloudflare.com"])
    words = ["-CA", CA, "-CAkey", STATE / "ca.key", "-subj", "/CN=stand-in", "-addext", f"subjectAltName={names}"]
    words += ["-addext", "basicConstraints=critical,CA:false", "-addext", "extendedKeyUsage=serverAuth"]
    words += ["-addext", "keyUsage=critical,digitalSignature"]
    run([*common, *words, "-keyout", STATE / "stand-in.key", "-out", STATE / "stand-in.part"])
    (STATE / "stand-in.part").rename(STATE / "stand-in.pem")


# -- the services


def start_dns() -> None:
    words = ["pebble-challtestsrv", "-defaultIPv4", "", "-defaultIPv6", "", "-http01", "", "-https01", ""]
    words += ["-tlsalpn01", "", "-dns01", f"{CONTROLLER}:53", "-management", f"{CONTROLLER}:8055"]
    service("dns", words, lambda: dns("clear-txt", host="nothing."))
    addresses = dict.fromkeys(SERVED, CONTROLLER) | {host.fqdn: host.address for host in hosts().values()}
    for name, address in addresses.items():
        dns("clear-a", host=f"{name}.")
        dns("add-a", host=f"{name}.", addresses=[address])


def dns(what: str, **values: object) -> None:
    """One request to the management interface of pebble-challtestsrv."""
    request = urllib.request.Request(f"{DNS_API}/{what}", json.dumps(values).encode())
    with opener().open(request, timeout=5):
        pass


def start_pebble() -> None:
    """Starts the ACME server and fetches its root, which is new at each start."""
    config = STATE / "pebble.json"
    facts = {
        "listenAddress": ACME,
        "managementListenAddress": ACME_API,
        "certificate": str(STATE / "stand-in.pem"),
        "privateKey": str(STATE / "stand-in.key"),
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "certificateValidityPeriod": 90 * 86400,
    }
    config.write_text(json.dumps({"pebble": facts}))

    def ready() -> None:
        with opener().open(f"https://{ACME_API}/roots/0", timeout=5) as answer:
            PEBBLE_ROOT.write_bytes(answer.read())

    words = ["pebble", "-strict", "-config", config, "-dnsserver", f"{CONTROLLER}:53"]
    service("pebble", words, ready, {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"})
    (STATE / "bundle.pem").write_bytes(CA.read_bytes() + PEBBLE_ROOT.read_bytes())


def start_mirror() -> None:
    mirror.link(WWW)
    config = STATE / "nginx.conf"
    config.write_text(NGINX.format(state=STATE, www=WWW, address=CONTROLLER))
    service("mirror", ["nginx", "-e", "stderr", "-c", config], lambda: fetch(f"http://{CONTROLLER}/"))


def start_git() -> None:
    run([sys.executable, PROJECT / "tests/fixtures/upstream_repository.py", STATE / "git/upstream.git"])
    program = Path(run(["git", "--exec-path"]).strip(), "git-daemon")
    words = [program, "--reuseaddr", f"--listen={CONTROLLER}", "--export-all", f"--base-path={STATE / 'git'}"]
    service("git", words, lambda: run(["git", "ls-remote", f"git://{CONTROLLER}/upstream.git", "HEAD"]))


def start_cloudflare() -> None:
    token = STATE / "secrets/cloudflare_token"
    if not token.exists():
        token.parent.mkdir(mode=0o700, exist_ok=True)
        token.touch(0o600)
        token.write_text(secrets.token_urlsafe(30))
    words = [sys.executable, Path(__file__).with_name("cloudflare.py"), CONTROLLER, STATE]
    service("cloudflare", words, lambda: fetch(f"https://{CONTROLLER}/client/v4/zones"))


def service(
    name: str, words: Sequence[str | Path], ready: Callable[[], object], more: Mapping[str, str] | None = None
) -> None:
    """Starts a service unless it runs, and waits until ``ready`` raises no error."""
    record, log = PIDS / name, LOGS / f"{name}.log"
    if not processes.pid(record):
        record.unlink(missing_ok=True)
        processes.start(record, words, log, more)
    deadline = time.monotonic() + 60
    while True:
        try:
            ready()
        except (OSError, ServiceError) as error:
            if time.monotonic() > deadline or not processes.pid(record):
                tail = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise ServiceError(
                    f"{name} does not answer on {CONTROLLER}: {error}: {''.join(tail)}; {log}"
                ) from error
            time.sleep(0.05)
        else:
            return


def fetch(url: str) -> bytes:
    try:
        with opener().open(url, timeout=5) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        return error.read()


def opener() -> urllib.request.OpenerDirector:
    """Connects without a proxy, and without a check of the host name: requests go to the bridge's address."""
    context = ssl.create_default_context(cafile=CA)
    context.check_hostname = False
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def run(words: Sequence[str | Path]) -> str:
    """The output of a program; ServiceError with its error output if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise ServiceError(f"{' '.join(map(str, words))} failed: {done.stderr.strip()}")
    return done.stdout
