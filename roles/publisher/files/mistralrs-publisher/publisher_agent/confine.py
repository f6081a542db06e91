"""Walls around the programs that read hostile bytes: Landlock for files, network and signals; limits of resources.

rsync, gpgv and rpm parse what an uploader sends. A defect in one of them must not give the uploader this account. A
confined program reads the system's own folders and what its caller names, writes below one folder or nowhere, opens
no TCP connection and signals no process outside. Landlock needs Linux 5.13; the network 6.7 and signals 6.12. On a
kernel without it the programs run with limits alone, and ``status`` shows ``landlock: 0``.

Source of the numbers: linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION, PATH_BENEATH = 1, 1
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
EXECUTE, WRITE, READ, LIST, REMOVE_FOLDER, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_FOLDER, MAKE_FILE, TRUNCATE = 1 << 7, 1 << 8, 1 << 14
# Rights that exist since an ABI. Handled and granted to nobody: links, devices, fifos, sockets, moves between folders.
FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: TRUNCATE, 5: 1 << 15}
TCP = {4: 0b11}  # bind, connect
SCOPES = {6: 0b11}  # abstract sockets, signals

RUN = EXECUTE | READ | LIST
LOOK = READ | LIST
KEEP = LOOK | WRITE | TRUNCATE | REMOVE_FOLDER | REMOVE_FILE | MAKE_FOLDER | MAKE_FILE
OF_FILES = EXECUTE | WRITE | READ | TRUNCATE  # the rights that a rule for a plain file may have
SYSTEM = ("/usr", "/bin", "/lib", "/lib64")
# What libraries read of /etc: no more of it, since root too may run the agent.
SETTINGS = (
    *("/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/localtime", "/etc/alternatives"),
    *("/etc/rpm", "/etc/crypto-policies", "/etc/gcrypt", "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf"),
    "/proc/sys/crypto/fips_enabled",
)
DEVICES = ("/dev/null", "/dev/urandom")
PROCESSES = 512  # of the account; root has no limit


class Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class Limits(NamedTuple):
    """``cpu`` in seconds, ``memory`` (address space) and ``file`` (written) in bytes."""

    cpu: int
    memory: int
    file: int = 0

    def apply(self) -> None:
        rows = {resource.RLIMIT_CPU: self.cpu, resource.RLIMIT_AS: self.memory, resource.RLIMIT_FSIZE: self.file}
        rows |= {resource.RLIMIT_CORE: 0, resource.RLIMIT_NPROC: PROCESSES}
        for kind, value in rows.items():
            hard = resource.getrlimit(kind)[1]
            lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (lowest, lowest))


def adopt_orphans() -> None:
    """Let this process inherit the orphans of its descendants, in place of init."""
    libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@functools.cache
def landlock() -> int:
    """The kernel's version of Landlock; 0 without it."""
    return max(0, call(CREATE_RULESET, None, 0, VERSION))


def confined(limits: Limits, *, read: Iterable[Path] = (), write: Iterable[Path] = ()) -> Callable[[], None]:
    """What a child runs before its program (``preexec_fn``). OSError if the kernel has Landlock and refuses."""
    rights = {
        **dict.fromkeys(map(Path, SYSTEM), RUN),
        **dict.fromkeys(map(Path, SETTINGS), LOOK),
        **dict.fromkeys(map(Path, DEVICES), READ | WRITE),
        **dict.fromkeys(read, LOOK),
        **dict.fromkeys(write, KEEP),
    }

    def enter() -> None:
        if landlock():
            restrict(rights)
        limits.apply()  # last: this process may need more memory than the program

    return enter


def restrict(rights: dict[Path, int]) -> None:
    """Take from this process and its children every right on files that ``rights`` does not name, for good."""
    handled = Ruleset(*(sum(bits for abi, bits in row.items() if abi <= landlock()) for row in (FILES, TCP, SCOPES)))
    ruleset = checked(CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    for path, allowed in rights.items():
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        kind = ~0 if path.is_dir() else OF_FILES
        rule = Beneath(allowed & handled.files & kind, descriptor)
        checked(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
        os.close(descriptor)
    libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    checked(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def checked(number: int, *arguments: object) -> int:
    answer = call(number, *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), f"Landlock refuses: {os.strerror(ctypes.get_errno())}")
    return answer


def call(number: int, *arguments: object) -> int:
    return int(libc().syscall(number, *arguments))


@functools.cache
def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
