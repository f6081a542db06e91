#!/usr/bin/env python3
"""The test hosts: systemd-nspawn containers on their own bridge, each an overlay over a cached tree.

    python molecule/default/hosts.py up [NAME...]     starts services and hosts that do not run yet
    python molecule/default/hosts.py down             ends everything that `up` started and leaves no trace
    python molecule/default/hosts.py kill NAME...     simulates a power failure: SIGKILL, the disk stays
    python molecule/default/hosts.py boot NAME...     starts a killed host again, with the same disk
    python molecule/default/hosts.py reset NAME...    makes a host bare again
    python molecule/default/hosts.py status           lists hosts and services, and whether they run
    python molecule/default/hosts.py mirror           updates the mirror from the roles

A host reaches nothing beyond the bridge. Its overlay is mounted in a mount namespace that ends with the host.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import mirror
import processes
import services
from services import ServiceError, run
from settings import (
    BRIDGE,
    CA,
    CONTROLLER,
    KEY,
    KNOWN_HOSTS,
    LOGS,
    PEBBLE_ROOT,
    PIDS,
    SSH_CONFIG,
    STATE,
    ZONE,
    Host,
    hosts,
)

BOOT_SECONDS = 90
# Each host gets its control group: in a shared one the hosts' systemds would stop each other's services.
ENTER = """echo $$ >"$1/cgroup.procs" &&
mount -t overlay -o "lowerdir=$2,upperdir=$3/upper,workdir=$3/work" overlay "$3/root" && shift 3 && exec "$@" """
NETWORK = "[Match]\nName=host0\n\n[Network]\nAddress={address}/24\nGateway={gateway}\nLinkLocalAddressing=no\n"
APT = f"deb [trusted=yes] http://mirror.{ZONE}/debian ./\n"
DNF = f"""[fedora]
name=Fedora, the packages that the roles need
baseurl=http://mirror.{ZONE}/fedora/
enabled=1
gpgcheck=0
skip_if_unavailable=0
"""
PIP = f"[global]\nno-index = true\nfind-links = http://mirror.{ZONE}/wheels/\ntrusted-host = mirror.{ZONE}\n"
SSH = """# For Ansible and the tests.
User root
IdentityFile {key}
IdentitiesOnly yes
UserKnownHostsFile {known_hosts}
StrictHostKeyChecking yes
BatchMode yes
LogLevel ERROR
"""


def up(names: list[str]) -> None:
    with locked():
        services.start()
        if not KEY.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test hosts", "-f", KEY])
        SSH_CONFIG.write_text(SSH.format(key=KEY, known_hosts=KNOWN_HOSTS))
        each(chosen(names), start)


def start(host: Host) -> None:
    if not processes.pid(record(host)):
        if not disk(host).exists():
            prepare(host)
        boot(host)


def down() -> None:
    with locked():
        each(made(), kill)
        services.stop()
        for host in made():
            for folder in ("propagate", "unix-export"):
                shutil.rmtree(Path("/run/systemd/nspawn", folder, host.name), ignore_errors=True)
        keep = STATE / "records"
        for path in STATE.glob("*"):
            if path != keep:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def reset(host: Host) -> None:
    kill(host)
    shutil.rmtree(disk(host), ignore_errors=True)
    prepare(host)
    boot(host)


def kill(host: Host) -> None:
    processes.stop(record(host), gently=False)
    # Afterwards: a run that still works on the host would open the next one at once.
    close_connections(host)
    note = disk(host) / "group"
    if note.exists():
        remove_control_group(Path(note.read_text()))


def status() -> None:
    for host in known():
        print(
            f"{host.name:16}{host.address:15}{host.platform:11}{'runs' if processes.pid(record(host)) else 'is down'}"
        )
    for path in sorted(PIDS.glob("*")):
        if not path.name.startswith("host-"):
            print(f"{path.name:16}{CONTROLLER:26}{'runs' if processes.pid(path) else 'is down'}")


# -- one host


def record(host: Host) -> Path:
    return PIDS / f"host-{host.name}"


def disk(host: Host) -> Path:
    return STATE / "hosts" / host.name


def control_group(host: Host) -> Path:
    """Below the controller's own group; ServiceError without control groups of version 2."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    place = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)
    if place is None:
        raise ServiceError("the test hosts need control groups of version 2, and none are mounted on this system")
    own = re.search(r"^0::(/.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    return Path(place + (own[1] if own else ""), f"mrpm-{host.name}")


def remove_control_group(group: Path) -> None:
    """Retries: the kernel may not have noticed yet that its processes are gone."""
    deadline = time.monotonic() + 5
    while group.exists():
        try:
            for folder in sorted([group, *group.rglob("*/")], reverse=True):
                folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def prepare(host: Host) -> None:
    """Writes the host's own files, such as its name, address and keys, to its layer."""
    part = disk(host).with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    lowest = mirror.tree(host.platform)
    upper = part / "upper"
    for folder in (upper, part / "work", part / "root"):
        folder.mkdir(parents=True)
    (part / "lower").write_text(":".join(map(str, lowest)))

    def write(path: str, text: str, mode: int = 0o644) -> None:
        place = upper / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    write("etc/hostname", f"{host.name}\n")
    write("etc/machine-id", f"{secrets.token_hex(16)}\n")
    write("etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{host.address} {host.fqdn} {host.name}\n")
    write("etc/resolv.conf", f"nameserver {CONTROLLER}\nsearch {ZONE}\n")
    write("etc/systemd/network/10-host0.network", NETWORK.format(address=host.address, gateway=CONTROLLER))
    write("etc/pip.conf", PIP)
    write("root/.ssh/authorized_keys", KEY.with_suffix(".pub").read_text(), 0o600)
    (upper / "root").chmod(0o700)
    (upper / "root/.ssh").chmod(0o700)
    if host.platform.startswith("debian"):
        write("etc/apt/sources.list", APT)
    else:
        for file in (lowest[-1] / "etc/yum.repos.d").glob("*.repo"):
            write(f"etc/yum.repos.d/{file.name}", "# A test host uses only the mirror.\n")
        write("etc/yum.repos.d/fedora.repo", DNF)
    host_key = upper / "etc/ssh/ssh_host_ed25519_key"
    host_key.parent.mkdir(parents=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.fqdn, "-f", host_key])
    trust(host, lowest, write)
    part.rename(disk(host))
    know(host)


def trust(host: Host, lowest: list[Path], write: Callable[[str, str], None]) -> None:
    """Adds the CAs of the stand-ins with the results of update-ca-certificates or update-ca-trust."""
    store, anchors = "etc/ssl/certs", "usr/local/share/ca-certificates"
    if not (lowest[-1] / store / "ca-certificates.crt").exists():
        store, anchors = "etc/pki/ca-trust/extracted/pem", "etc/pki/ca-trust/source/anchors"
    bundle = next(name for name in ("ca-certificates.crt", "tls-ca-bundle.pem") if (lowest[-1] / store / name).exists())
    text = (lowest[-1] / store / bundle).read_text()
    for name, file in (("stand-ins", CA), ("pebble", PEBBLE_ROOT)):
        own = file.read_text()
        write(f"{anchors}/{name}.crt", own)
        if host.platform.startswith("fedora"):
            write(f"etc/pki/ca-trust/source/anchors/{name}.pem", own)
        text += own
        if store == "etc/ssl/certs":
            digest = run(["openssl", "x509", "-noout", "-hash", "-in", file]).strip()
            write(f"{store}/{digest}.0", own)
    write(f"{store}/{bundle}", text)


def know(host: Host) -> None:
    """Replaces the host's key in known_hosts."""
    key = (disk(host) / "upper/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
    with locked("known_hosts"):
        lines = KNOWN_HOSTS.read_text().splitlines() if KNOWN_HOSTS.exists() else []
        lines = [line for line in lines if line.split(",", 1)[0] != host.name]
        lines.append(f"{host.name},{host.fqdn},{host.address} {' '.join(key)}")
        KNOWN_HOSTS.write_text("\n".join(lines) + "\n")


def boot(host: Host) -> None:
    """Starts the host on its disk and waits until systemd finished the boot and ssh answers."""
    if processes.pid(record(host)):
        return
    record(host).unlink(missing_ok=True)
    if not disk(host).exists():
        raise ServiceError(f"{host.name} has no disk: run hosts.py up {host.name}")
    nspawn = ["systemd-nspawn", "--quiet", "--boot", f"--directory={disk(host) / 'root'}", f"--machine={host.name}"]
    nspawn += ["--register=no", "--keep-unit", f"--network-bridge={BRIDGE}", "--resolv-conf=off", "--link-journal=no"]
    nspawn += ["--timezone=off", "--settings=no", "--console=pipe"]
    group = control_group(host)
    (disk(host) / "group").write_text(str(group))
    group.mkdir(exist_ok=True)
    shell: list[str | Path] = ["sh", "-c", ENTER, "sh", group, (disk(host) / "lower").read_text(), disk(host)]
    words = ["unshare", "--mount", "--propagation=slave", *shell, *nspawn]
    # Debian 12's nspawn would mount the controller's mix of cgroup versions, which newer systemd refuses.
    processes.start(record(host), words, LOGS / f"{host.name}.log", {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"})
    wait(host)


def wait(host: Host) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    answer = ""
    while time.monotonic() < deadline:
        if not processes.pid(record(host)):
            break
        done = ssh(host, "systemctl", "is-system-running", "--wait")
        answer = (done.stdout + done.stderr).strip()
        if answer == "running":
            finish(host)
            return
        if answer == "degraded":
            failed = ssh(host, "systemctl", "--failed", "--plain", "--no-legend").stdout.strip()
            raise ServiceError(f"{host.name} started with failed units: {failed}")
        time.sleep(0.2)
    raise ServiceError(f"{host.name} did not start: {answer or 'no answer'}; its console is {LOGS / host.name}.log")


def finish(host: Host) -> None:
    """Makes a whole /proc visible, as a real host's is, and downloads apt's package index, as Debian's installer does.

    systemd-nspawn covers parts of /proc, and the kernel lets a sandbox mount one only where a whole one is visible.
    """
    done = ssh(host, "mkdir -p /run/proc && mount -t proc proc /run/proc")
    if done.returncode:
        raise ServiceError(f"{host.name} cannot mount a whole /proc: {done.stderr.strip()}")
    if host.platform.startswith("debian"):
        done = ssh(host, "apt-get", "--quiet", "update")
        if done.returncode:
            raise ServiceError(f"{host.name} cannot read the mirror: {done.stderr.strip()}")


def ssh(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-F", SSH_CONFIG, "-o", "ConnectTimeout=3", host.address, *words],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=BOOT_SECONDS,
    )


def close_connections(host: Host) -> None:
    """Ends the connections that Ansible and testinfra keep for a minute: to a dead host they would hang."""
    for socket in Path.home().glob(f".ansible/cp/*@{host.address}*"):
        subprocess.run(["ssh", "-O", "exit", "-S", socket, "host"], capture_output=True, check=False)


# -- all hosts


def known() -> list[Host]:
    return list(hosts().values())


def made() -> list[Host]:
    """Every host that has a disk, even if no inventory lists it any more."""
    every = hosts()
    names = [path.name for path in (STATE / "hosts").glob("*") if path.suffix != ".part"]
    return [every.get(name, Host(name, "unknown", "unknown")) for name in names]


def chosen(names: Iterable[str]) -> list[Host]:
    every = hosts()
    unknown = [name for name in names if name not in every]
    if unknown:
        raise ServiceError(f"no test host is named {', '.join(unknown)}; the hosts are {', '.join(every)}")
    return [every[name] for name in names] or list(every.values())


def each(these: Iterable[Host], action: Callable[[Host], None]) -> None:
    """Runs the action on all hosts in parallel, to the end on each; ServiceError lists the failures."""
    failures = []

    def guarded(host: Host) -> None:
        try:
            action(host)
        except Exception as error:  # noqa: BLE001  the others go on
            failures.append(f"{host.name}: {error}")

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(guarded, these))
    if failures:
        raise ServiceError("\n".join(failures))


@contextmanager
def locked(name: str = "up") -> Iterator[None]:
    STATE.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(STATE.with_name(f"molecule-{name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=["up", "down", "kill", "boot", "reset", "status", "mirror"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="the hosts; for up the default is all")
    options = parser.parse_args()
    one = {"kill": kill, "boot": boot, "reset": reset}
    try:
        if os.geteuid():
            raise ServiceError("only root can start hosts")
        if options.action in one:
            if not options.names:
                parser.error(f"{options.action} needs the name of a host")
            each(chosen(options.names), one[options.action])
        elif options.action == "up":
            up(options.names)
        elif options.action == "mirror":
            services.start_mirror()
        else:
            {"down": down, "status": status}[options.action]()
    except (ServiceError, OSError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"hosts: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
