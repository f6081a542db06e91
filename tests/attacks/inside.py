# ruff: noqa: PTH208
"""What hostile code tries in a sandbox. Prints the attempts that succeeded, one a line; runs on any Python 3.

Arguments: the process id of a process outside, the port of a server on the host's loopback, the name of an abstract
socket and the path of a socket on the host, a secret file of the host, a folder that is read-only inside.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

OUTSIDE, PORT, ABSTRACT, SOCKET, SECRET, READ_ONLY = sys.argv[1:7]
DESCRIPTORS = [name for name in os.listdir("/proc/self/fd") if int(name) > 3]
LIBC = ctypes.CDLL(None, use_errno=True)
ATTEMPTS: list[Callable[[], object]] = []


def attempt(function: Callable[[], object]) -> Callable[[], object]:
    """An attempt succeeds unless it raises OSError or returns a false value."""
    ATTEMPTS.append(function)
    return function


def call(number: int, *arguments: object) -> bool:
    """A system call by its number; whether it succeeded."""
    return LIBC.syscall(number, *arguments) >= 0


@attempt
def read_secret_of_host() -> object:
    return Path(SECRET).read_bytes()


@attempt
def read_secret_through_proc() -> object:
    return any(Path("/proc", pid, "root" + SECRET).exists() for pid in os.listdir("/proc") if pid.isdecimal())


@attempt
def see_processes_of_host() -> object:
    names = [name for name in os.listdir("/proc") if name.isdecimal()]
    return len(names) > 4 or any(b"pytest" in Path("/proc", name, "cmdline").read_bytes() for name in names)


@attempt
def signal_process_of_host() -> object:
    os.kill(int(OUTSIDE), signal.SIGTERM)
    return True


@attempt
def read_environment_of_host_process() -> object:
    return Path("/proc", OUTSIDE, "environ").read_bytes()


@attempt
def trace_a_process() -> object:
    return call(101, 16, os.getppid(), 0, 0)


@attempt
def read_memory_of_a_process() -> object:
    return call(310, 1, 0, 0, 0, 0, 0)


@attempt
def reach_loopback_of_host() -> object:
    return socket.create_connection(("127.0.0.1", int(PORT)), timeout=2)


@attempt
def have_another_network_interface() -> object:
    return [name for _, name in socket.if_nameindex() if name != "lo"]


@attempt
def resolve_a_name() -> object:
    return socket.getaddrinfo("example.org", 80)


@attempt
def reach_abstract_socket() -> object:
    socket.socket(socket.AF_UNIX).connect("\0" + ABSTRACT)
    return True


@attempt
def reach_socket_file() -> object:
    socket.socket(socket.AF_UNIX).connect(SOCKET)
    return True


@attempt
def reach_the_virtual_machines_host() -> object:
    return socket.socket(40, socket.SOCK_STREAM)


@attempt
def open_raw_packets() -> object:
    return socket.socket(17, socket.SOCK_RAW, 3)


@attempt
def find_other_sockets() -> object:
    return [path for path in ("/run/dbus", "/run/systemd", "/var/run/docker.sock", "/run/user") if Path(path).exists()]


@attempt
def have_a_capability() -> object:
    return [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("Cap") and int(line.split()[1], 16)
    ]


@attempt
def gain_privileges_by_setuid() -> object:
    return "NoNewPrivs:\t1" not in Path("/proc/self/status").read_text()


@attempt
def become_root() -> object:
    os.setuid(0)
    return True


@attempt
def make_user_namespace() -> object:
    return LIBC.unshare(0x10000000) == 0


@attempt
def make_user_namespace_by_clone() -> object:
    pid = LIBC.syscall(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return pid > 0


@attempt
def make_user_namespace_by_clone3() -> object:
    arguments = struct.pack("=11Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    pid = LIBC.syscall(435, arguments, len(arguments))
    if pid == 0:
        os._exit(0)
    return pid > 0


@attempt
def enter_a_namespace() -> object:
    return LIBC.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0) == 0


@attempt
def mount_something() -> object:
    return LIBC.mount(b"x", b"/tmp", b"tmpfs", 0, b"") == 0


@attempt
def mount_by_the_new_calls() -> object:
    return call(430, b"tmpfs", 0) or call(428, -100, b"/usr", 1)


@attempt
def remove_a_mount() -> object:
    return LIBC.umount2(b"/usr", 2) == 0 or LIBC.umount2(b"/proc/sys", 2) == 0


@attempt
def make_a_device() -> object:
    os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0))
    return True


@attempt
def find_devices() -> object:
    known = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "fd", "core"}
    return set(os.listdir("/dev")) - known - {"stdin", "stdout", "stderr"}


@attempt
def write_kernel_settings() -> object:
    Path("/proc/sys/kernel/core_pattern").write_text("|/tmp/x")
    return True


@attempt
def change_how_the_kernel_kills() -> object:
    Path("/proc/self/oom_score_adj").write_text("-1000")
    return True


@attempt
def find_a_writable_file_of_the_kernel() -> object:
    own = str(os.getpid())
    for folder, folders, files in os.walk("/proc"):
        folders[:] = [name for name in folders if folder != "/proc" or not name.isdecimal() or name == own]
        for name in files:
            with contextlib.suppress(OSError):
                os.close(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_NONBLOCK))
                if "/fd/" not in f"{folder}/{name}":
                    return f"{folder}/{name}"
    return ""


@attempt
def press_the_system_request_key() -> object:
    Path("/proc/sysrq-trigger").write_text("h")
    return True


@attempt
def find_sys() -> object:
    return Path("/sys/kernel").exists() or Path("/sys/fs/cgroup").exists()


@attempt
def use_the_kernels_keyring() -> object:
    return call(250, 0, -3, 1) or call(248, b"user", b"x", b"y", 1, -3)


@attempt
def load_a_kernel_program() -> object:
    return call(321, 0, ctypes.create_string_buffer(struct.pack("=4I", 2, 4, 4, 1), 128), 128)


@attempt
def use_io_uring() -> object:
    return call(425, 1, ctypes.create_string_buffer(256))


@attempt
def type_into_the_terminal() -> object:
    for name in ("/dev/tty", "/dev/console", "/proc/self/fd/0"):
        with contextlib.suppress(OSError), Path(name).open("rb") as stream:
            fcntl.ioctl(stream, 0x5412, b"x")
            return True
    # The call itself is refused, whatever the descriptor is.
    master, _ = os.openpty()
    fcntl.ioctl(master, 0x5412, b"x")
    return True


@attempt
def find_a_leaked_descriptor() -> object:
    return DESCRIPTORS


@attempt
def write_the_system() -> object:
    return Path("/usr/bin/hostile").write_text("") == 0


@attempt
def write_the_root() -> object:
    return Path("/hostile").write_text("") == 0


@attempt
def write_a_read_only_folder() -> object:
    return Path(READ_ONLY, "hostile").write_text("") == 0


@attempt
def change_mode_in_a_read_only_folder() -> object:
    Path(READ_ONLY, "file").chmod(0o777)
    return True


@attempt
def see_the_operators_home() -> object:
    return [path for path in ("/root", "/home", "/srv", "/var/lib", "/work") if _seen(path)]


def _seen(path: str) -> list[str]:
    with contextlib.suppress(OSError):
        return [name for name in os.listdir(path) if (path, name) != ("/home", "builder")]
    return []


@attempt
def see_the_callers_environment() -> object:
    return set(os.environ) - {"PATH", "HOME", "LANG", "PWD", "OLDPWD", "LC_CTYPE"}


@attempt
def read_passwords_of_host() -> object:
    return Path("/etc/shadow").exists() or len(Path("/etc/passwd").read_text().splitlines()) > 2


for each in ATTEMPTS:
    try:
        result = each()
    except OSError:
        continue
    if result:
        print(f"{each.__name__}: {result}")
print(f"{len(ATTEMPTS)} attempts")
