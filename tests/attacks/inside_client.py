# ruff: noqa: PTH101, PTH102, PTH110, PTH208, S103, S606
"""What a hostile package tries in a proof's client beside ``inside.py``; each attempt in a process of its own.

Prints "won: name" for each that succeeded. The argument is a JSON object of the test's places on the host.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HOST = json.loads(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
CLIENTS = {"shadow", "gshadow", "shadow-", "gshadow-", ".pwd.lock"}
ATTEMPTS: list[Callable[[], object]] = []


def attempt(function: Callable[[], object]) -> Callable[[], object]:
    ATTEMPTS.append(function)
    return function


def secret_in(root: str) -> bool:
    return Path(root + HOST["secret"]).exists()


@attempt
def escape_by_the_root_of_pid_1() -> object:
    os.chroot("/proc/1/root")
    return secret_in("")


@attempt
def escape_by_a_second_chroot() -> object:
    os.mkdir("/tmp/in")
    os.chroot("/tmp/in")
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    return secret_in("")


@attempt
def escape_by_a_folder_descriptor() -> object:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.path.exists(f"/proc/self/fd/{name}/../../../../../..{HOST['secret']}"):
                return True
    return False


@attempt
def escape_by_working_folders() -> object:
    pids = [pid for pid in os.listdir("/proc") if pid.isdecimal()]
    return any(secret_in(f"/proc/{pid}/{way}") for pid in pids for way in ("root", "cwd/../../../../../.."))


@attempt
def enter_any_namespace_of_any_process() -> object:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        for kind in ("mnt", "pid", "net", "user", "ipc", "uts", "cgroup"):
            with contextlib.suppress(OSError):
                if LIBC.setns(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY), 0) == 0:
                    return f"{pid} {kind}"
    return ""


@attempt
def run_nsenter() -> object:
    words = ["nsenter", "--target", "1", "--all", "true"]
    return subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode == 0


@attempt
def open_the_disk() -> object:
    os.mknod("/tmp/disk-of-host", 0o60600, int(HOST["disk"]))
    return os.open("/tmp/disk-of-host", os.O_RDONLY)


@attempt
def open_a_disk_that_is_there() -> object:
    return [name for name in os.listdir("/dev") if Path("/dev", name).is_block_device()]


@attempt
def write_core_pattern_by_a_descriptor() -> object:
    return os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)


@attempt
def write_the_kernels_other_doors() -> object:
    doors = ("/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/proc/sys/kernel/modprobe", "/sys/kernel/mm/ksm/run")
    for door in doors:
        with contextlib.suppress(OSError):
            return os.open(door, os.O_WRONLY)
    return False


@attempt
def make_the_kernels_settings_writable() -> object:
    return LIBC.mount(None, b"/proc/sys", None, 4096 | 32, None) == 0 or LIBC.umount2(b"/proc/sys", 2) == 0


@attempt
def load_a_module() -> object:
    return LIBC.syscall(175, b"x", 1, b"") >= 0 or ctypes.get_errno() not in (1, 38)


@attempt
def set_the_clock_or_the_name_of_the_host() -> object:
    return LIBC.sethostname(b"x", 1) == 0


@attempt
def see_a_process_of_the_host() -> object:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if b"sleep\x006" in Path("/proc", pid, "cmdline").read_bytes():
                return True
    return False


@attempt
def see_the_hosts_accounts() -> object:
    names = {line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()}
    return names - {"root", "nobody", "mistralrs"}


@attempt
def read_the_hosts_shadow() -> object:
    return [line for line in Path("/etc/shadow").read_text().splitlines() if line.split(":")[1] not in ("*", "!", "!*")]


@attempt
def read_the_hosts_secrets() -> object:
    places = ("/etc/ssh", "/etc/letsencrypt", "/etc/ssl/private", "/etc/gitea-runner", "/work", "/usr/local/bin")
    return [place for place in places if Path(place).exists()]


@attempt
def read_what_only_the_hosts_root_may() -> object:
    for folder, _, files in os.walk("/etc"):
        for name in files:
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                if path.stat().st_mode & 0o004 == 0 and name not in CLIENTS:
                    return str(path)
    return ""


@attempt
def have_a_route() -> object:
    return len(Path("/proc/net/route").read_text().splitlines()) > 1


@attempt
def reach_cloud_metadata() -> object:
    return socket.create_connection(("169.254.169.254", 80), timeout=1)


@attempt
def add_an_address() -> object:
    return subprocess.run(["ip", "link", "add", "x", "type", "dummy"], capture_output=True, check=False).returncode == 0


@attempt
def reach_the_hosts_systemd_or_bus() -> object:
    for path in ("/run/systemd/private", "/run/dbus/system_bus_socket", "/run/systemd/notify", "/run/host/notify"):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with contextlib.suppress(OSError):
                socket.socket(socket.AF_UNIX, kind).connect(path)
                return path != "/run/host/notify"
    return False


@attempt
def hear_of_devices() -> object:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as audit:
        return audit.send(b"\0" * 16)


@attempt
def ignore_no_new_privileges() -> object:
    """A setuid program of the system has an owner that is nobody here."""
    programs = [path for path in Path("/usr/bin").iterdir() if path.stat().st_mode & 0o4000]
    return [path for path in programs if path.stat().st_uid == 0]


@attempt
def raise_limits() -> object:
    resource.setrlimit(resource.RLIMIT_NPROC, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return True


@attempt
def write_the_transcript() -> object:
    return Path(HOST["transcript"]).exists() or (os.getuid() != 0 and os.ftruncate(1, 0) is None)


@attempt
def change_control_groups() -> object:
    """The limits of its group, and the escape by version 1's release_agent."""
    doors = {"memory.max", "memory.high", "pids.max", "cpu.max", "release_agent", "memory.limit_in_bytes"}
    for folder, _, files in os.walk("/sys/fs/cgroup"):
        for name in doors & set(files):
            with contextlib.suppress(OSError):
                return os.open(f"{folder}/{name}", os.O_WRONLY)
    return False


@attempt
def become_another_id_of_the_host() -> object:
    os.setuid(70000)
    return True


def tried(function: Callable[[], object]) -> bool:
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        try:
            result = function()
        except BaseException:  # noqa: BLE001
            result = None
        os._exit(1 if result else 0)
    return os.waitpid(pid, 0)[1] == 256


for each in ATTEMPTS:
    if tried(each):
        print(f"won: {each.__name__}")
print(f"{len(ATTEMPTS)} more attempts")

# What stays: a process, and files with setuid bits where the proof looks for what the package left.
if os.getuid() == 0:
    for number in range(2):
        Path(f"/opt/mistralrs-stays-{number}").write_text("#!/bin/sh\n")
        os.chmod(f"/opt/mistralrs-stays-{number}", 0o6755)
    Path("/opt/mistralrs-stays-link").symlink_to(HOST["secret"])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(3):
            os.dup2(os.open("/dev/null", os.O_RDWR), number)
        os.execvp("sh", ["left-behind-4711", "-c", "trap '' TERM HUP INT; while :; do sleep 599; done"])
    os._exit(0)
