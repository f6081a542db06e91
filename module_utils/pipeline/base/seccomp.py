"""A system-call filter for a sandbox, as the BPF program that ``bwrap --seccomp`` loads (seccomp(2), linux/filter.h).

The sandbox's namespaces and missing capabilities stop most calls already. The filter refuses what they do not cover:

- kernel interfaces with a history of holes, which no compiler needs (BPF, io_uring, perf, userfaultfd, ptrace);
- what namespaces do not isolate: the kernel's keyrings, sockets of other families (vsock reaches a virtual machine's
  host), input for a terminal (TIOCSTI), files by handle;
- new namespaces and mounts, as a second wall.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

# asm/unistd_64.h
DENIED = {
    "ptrace": 101, "syslog": 103, "pivot_root": 155, "acct": 163, "mount": 165, "umount2": 166, "swapon": 167,
    "reboot": 169, "init_module": 175, "delete_module": 176, "quotactl": 179, "kexec_load": 246, "add_key": 248,
    "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425,
    "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "mount_setattr": 442,
}  # fmt: skip
_SOCKET, _SOCKETPAIR, _IOCTL, _CLONE, _CLONE3 = 41, 53, 16, 56, 435
_NAMESPACES = 0x7E020000
"""The flags of clone(2) that make a namespace; CLONE_NEWTIME's bit belongs to the exit signal there."""
_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: of the sandbox's own network namespace."""
_TERMINAL = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, which write input for the terminal."""
_ARCH_X86_64 = 0xC000003E
_X32 = 0x40000000

_LOAD, _EQUAL, _ABOVE, _SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16


def program() -> bytes | None:
    """The filter for this machine; None where the machine is no x86_64."""
    return b"".join(_instructions()) if platform.machine() == "x86_64" else None


def sockets() -> bytes | None:
    """A filter that refuses only sockets of other families; None where the machine is no x86_64."""
    parts = [*_native(), *_families(), _code(_RETURN, _ALLOW)]
    return b"".join(parts) if platform.machine() == "x86_64" else None


def load(rules: bytes) -> None:
    """Load a filter into this process, for it and all that it starts. Root only: others would gain no privileges."""
    libc = ctypes.CDLL(None, use_errno=True)
    table = ctypes.create_string_buffer(rules, len(rules))
    fprog = struct.pack("=HxxxxxxQ", len(rules) // 8, ctypes.addressof(table))
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _instructions() -> Iterable[bytes]:
    yield from _native()
    for number in DENIED.values():
        yield _code(_EQUAL, number, 0, 1)
        yield _refuse(errno.EPERM)
    # The C library then uses clone, whose flags a filter can read.
    yield _code(_EQUAL, _CLONE3, 0, 1)
    yield _refuse(errno.ENOSYS)
    yield from _argument(_CLONE, 0, [_code(_SET, _NAMESPACES, 0, 1), _refuse(errno.EPERM)])
    refused = [part for request in _TERMINAL for part in (_code(_EQUAL, request, 0, 1), _refuse(errno.EPERM))]
    yield from _argument(_IOCTL, 1, refused)
    yield from _families()
    yield _code(_RETURN, _ALLOW)


def _native() -> Iterable[bytes]:
    """Refuse calls of other architectures, and load the number."""
    yield _code(_LOAD, _ARCH)
    yield _code(_EQUAL, _ARCH_X86_64, 1, 0)
    yield _refuse(errno.ENOSYS)
    yield _code(_LOAD, _NUMBER)
    yield _code(_ABOVE, _X32, 0, 1)
    yield _refuse(errno.ENOSYS)


def _families() -> Iterable[bytes]:
    for call in (_SOCKET, _SOCKETPAIR):
        known = [_code(_EQUAL, family, len(_FAMILIES) - at, 0) for at, family in enumerate(_FAMILIES)]
        yield from _argument(call, 0, [*known, _refuse(errno.EAFNOSUPPORT)])


def _argument(call: int, at: int, body: list[bytes]) -> Iterable[bytes]:
    """``body`` for one system call, on the lower half of its argument ``at``; then the number is loaded again."""
    yield _code(_EQUAL, call, 0, len(body) + 2)
    yield _code(_LOAD, _ARGUMENTS + 8 * at)
    yield from body
    yield _code(_LOAD, _NUMBER)


def _refuse(number: int) -> bytes:
    return _code(_RETURN, _ERRNO | number)


def _code(operation: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, yes, no, value)
