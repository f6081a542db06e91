"""A sandbox for programs that are hostile until proved otherwise: upstream's code, its binary, a package's scripts.

bubblewrap makes it, as root or as any account. Rules:

1. User, process, mount, network, ipc, uts and cgroup namespaces of its own; no capability, no new privileges, no
   further user namespace, a session of its own, a system-call filter (seccomp).
2. Visible are the system's programs and libraries, read-only, and what the caller names. /tmp, /var/tmp, HOME, /dev and
   /proc are its own. There is no network, no process, no socket and no other file of the host.
3. Its environment is what the caller gives. No descriptor but stdin, stdout and stderr enters.
4. It ends whole: with its first program, with ``Running.end``, and with this process (also by SIGKILL). ``end`` returns
   when no process of it exists any more.
5. A layer is an overlay (overlayfs): inside, ``lower`` with all that was written on top of it in ``upper``. ``lower``
   never changes.

The kernel ends a sandbox with the *thread* that started it (PR_SET_PDEATHSIG, prctl(2)): start it in one that stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from . import seccomp
from .errors import PipelineError
from .run import CommandFailed, ProgramMissing

PLAIN = Path("/run/plain")
"""Inside, the folder of paths that are odd on the host."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9._+@~^-]+")

USER = 1000
HOME = Path("/home/builder")
PATH = "/usr/local/bin:/usr/bin:/bin"
LARGEST = 64 << 20
"""The bytes of output that ``run`` accepts."""

_FILES = {
    "/etc/passwd": f"builder:x:{USER}:{USER}::{HOME}:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n".encode(),
    "/etc/group": f"builder:x:{USER}:\nnogroup:x:65534:\n".encode(),
    "/etc/hosts": b"127.0.0.1 localhost builder\n",
}
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "rpm")
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Arguments: pairs of mount options and the place, a "--", and the command.
_OVERLAYS = 'while [ "$1" != -- ]; do mount -t overlay -o "$1" overlay "$2"; shift 2; done; shift; exec "$@"'


def plain(path: Path) -> Path:
    """The path itself, or one for the inside of a sandbox if compilers, cargo or build scripts would split it.

    They separate words at blanks, options at commas, folders at colons, and know only some letters. All up to the last
    odd name becomes the digest of that part, so that paths below a folder stay below it.
    """
    odd = [at for at, name in enumerate(path.parts[1:], 2) if not _PLAIN_NAME.fullmatch(name)]
    if not odd:
        return path
    digest = hashlib.sha256(os.fsencode(Path(*path.parts[: odd[-1]]))).hexdigest()
    return Path(PLAIN, digest[:12], *path.parts[odd[-1] :])


@dataclass(frozen=True)
class Layer:
    """At ``place`` inside, an overlay of ``upper`` over ``lower``. Both exist, on one file system."""

    place: Path
    lower: Path
    upper: Path

    @property
    def work(self) -> Path:
        """The folder that overlayfs needs beside ``upper``."""
        return self.upper.with_name(f"{self.upper.name}.overlay")

    def options(self, *, root: bool) -> str:
        for path in (self.lower, self.upper):
            if set(str(path)) & set(":,\\"):
                raise PipelineError(
                    "a path of the sandbox holds a colon, a comma or a backslash", str(path), "Use another builder_root"
                )
        kind = "" if root else "userxattr,"
        return f"{kind}lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"

    def discard(self) -> None:
        """Delete all that was written on top of ``lower``."""
        # overlayfs leaves a folder of mode 0000 there.
        with suppress(OSError):
            (self.work / "work").chmod(0o700)
        for folder in (self.upper, self.work):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Sandbox:
    """What a sandbox shows beside the system.

    ``readable`` and ``writable`` paths of the host are at the same place inside; ``places`` and ``writable_places`` map
    a place inside to a path of the host; ``private`` places are empty and vanish at the end. ``environment`` is added
    to PATH, HOME and the locale. With ``protected`` False there is no sandbox: programs run as they are, and only
    ``environment`` and ``cwd`` count.
    """

    readable: Sequence[Path] = ()
    writable: Sequence[Path] = ()
    places: Mapping[Path, Path] = field(default_factory=dict)
    writable_places: Mapping[Path, Path] = field(default_factory=dict)
    private: Sequence[Path] = ()
    layers: Sequence[Layer] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = Path("/")
    protected: bool = True

    def variables(self) -> dict[str, str]:
        """The whole environment inside."""
        return {"PATH": PATH, "HOME": str(HOME), "LANG": "C.UTF-8", **self.environment}

    def argv(self, words: Sequence[str | Path], given: Mapping[str, int] | None = None) -> list[str]:
        """The command line that runs ``words`` inside.

        ``given`` maps options of bubblewrap, and paths of files inside, to descriptors.
        """
        if not self.protected:
            return [str(word) for word in words]
        root = os.geteuid() == 0
        files = {name: str(number) for name, number in (given or {}).items()}
        bwrap: list[str | Path] = [
            *("bwrap", "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
            *("--unshare-cgroup-try", *_no_user_namespaces(), "--uid", str(USER), "--gid", str(USER)),
            *("--cap-drop", "ALL", "--new-session", "--die-with-parent", "--hostname", "builder"),
            *_system(),
            *(word for name, number in files.items() for word in _given(name, number)),
            *self._mounts(),
            *("--remount-ro", "/", "--chdir", self.cwd, "--", *words),
        ]
        return [*self._overlays(root=root), *map(str, bwrap)]

    def _overlays(self, *, root: bool) -> list[str]:
        """What mounts the layers, over their lower folders in a namespace of its own, and starts bubblewrap."""
        if not self.layers:
            return []
        pairs = [word for layer in self.layers for word in (layer.options(root=root), str(layer.lower))]
        namespace = ["--mount"] if root else ["--user", "--map-root-user", "--mount"]
        return ["unshare", *namespace, "sh", "-euc", _OVERLAYS, "sh", *pairs, "--"]

    def _mounts(self) -> list[str | Path]:
        """The caller's places, outer ones first."""
        at: dict[Path, list[str | Path]] = {place: ["--tmpfs", place] for place in self.private}
        at |= {place: ["--ro-bind", path, place] for place, path in self.places.items()}
        at |= {path: ["--ro-bind", path, path] for path in self.readable}
        at |= {place: ["--bind", path, place] for place, path in self.writable_places.items()}
        at |= {path: ["--bind", path, path] for path in self.writable}
        at |= {layer.place: ["--bind", layer.lower, layer.place] for layer in self.layers}
        return [word for place in sorted(at, key=lambda place: len(place.parts)) for word in at[place]]

    def start(
        self,
        words: Sequence[str | Path],
        *,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = subprocess.PIPE,
        stderr: int | IO[bytes] | None = subprocess.PIPE,
    ) -> Running:
        """Start a program inside."""
        for layer in self.layers:
            layer.upper.mkdir(parents=True, exist_ok=True)
            layer.work.mkdir(exist_ok=True)
        reader, writer = os.pipe()
        given = {"--info-fd": writer}
        try:
            if self.protected:
                given |= {name: _memory(data) for name, data in _FILES.items()}
                if rules := seccomp.program():
                    given["--seccomp"] = _memory(rules)
            process = subprocess.Popen(  # noqa: S603  argv is a list; the environment is this alone
                self.argv(words, given),
                # bubblewrap changes to cwd itself, inside.
                cwd="/" if self.protected else self.cwd, env=self.variables(),
                stdin=stdin, stdout=stdout, stderr=stderr,
                pass_fds=list(given.values()) if self.protected else (), process_group=0,
            )  # fmt: skip
        except FileNotFoundError as error:
            os.close(reader)
            raise ProgramMissing(error.filename or str(words[0])) from error
        finally:
            for number in given.values():
                os.close(number)
        with os.fdopen(reader, "rb") as stream:
            return Running(process, _first_process(stream.read()))

    def run(
        self,
        words: Sequence[str | Path],
        *,
        stdin: bytes = b"",
        timeout: float = 600,
        accept: Sequence[int] = (0,),
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, which is the sandbox's, and return its output as text.

        Raises CommandFailed for a status not in ``accept``, PipelineError after ``timeout`` seconds, for more than
        ``LARGEST`` bytes of output, and where no sandbox can be made.
        """
        name = Path(words[0]).name
        with os.fdopen(_memory(stdin), "rb") as data:
            running = self.start(words, stdin=data)
        with running:
            outputs = _outputs(running.process, name, timeout)
            status = running.process.wait()
        stdout, stderr = (output.decode(errors="replace") for output in outputs)
        if status not in accept:
            if self.protected and (error := not_made(stderr, name)):
                raise error
            raise CommandFailed([str(word) for word in words], status, stdout, stderr)
        return subprocess.CompletedProcess([str(word) for word in words], status, stdout, stderr)


def not_made(output: str, where: str) -> PipelineError | None:
    """The error where the sandbox itself failed; None where its program did."""
    if not output.startswith(("bwrap: ", "unshare: ", "mount: ")):
        return None
    remedy = "Run the check: it names the cause and its remedy"
    return PipelineError(f"the sandbox cannot be made: {output.strip()[:300]}", where, remedy)


class Running:
    """A program in its sandbox. Leaving the context ends it."""

    def __init__(self, process: subprocess.Popen[bytes], first: int | None) -> None:
        self.process = process
        self._first = first

    def end(self) -> None:
        """Kill all processes of the sandbox, and wait until none exists."""
        # Its own group, and through the death of their parent all of the namespace.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self._first is None:
            return
        # The namespace's first process ends after all others (pid_namespaces(7)).
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._first, signal.SIGKILL)
        ended = select.poll()
        ended.register(self._first, select.POLLIN)
        ended.poll()
        os.close(self._first)
        self._first = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


def _no_user_namespaces() -> list[str]:
    """The kernel's wall against further user namespaces, beside the filter's.

    It is a setting below /proc/sys, which is read-only in a container of systemd-nspawn.
    """
    whole = not os.statvfs("/proc/sys").f_flag & os.ST_RDONLY
    return ["--disable-userns"] if whole or seccomp.program() is None else []


def _system() -> list[str | Path]:
    """The places that each sandbox has."""
    words: list[str | Path] = ["--ro-bind", "/usr", "/usr"]
    for name in _MERGED:
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", path.readlink(), path]
        elif path.is_dir():
            words += ["--ro-bind", path, path]
    for name in _ETC:
        words += ["--ro-bind-try", Path("/etc", name), Path("/etc", name)]
    # Read-only: to the kernel, root without capabilities may still write its settings below /proc/sys.
    words += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev"]
    for place in ("/tmp", "/var/tmp", str(HOME)):  # noqa: S108  the sandbox's own
        words += ["--tmpfs", place]
    return words


def outside_the_system(folders: Iterable[str | Path]) -> list[Path]:
    """The folders that a sandbox does not show by itself."""
    found = [Path(folder) for folder in folders]
    return [path for path in dict.fromkeys(found) if path.exists() and not path.is_relative_to("/usr")]


def _given(name: str, descriptor: str) -> list[str]:
    return [name, descriptor] if name.startswith("--") else ["--perms", "0644", "--file", descriptor, name]


def _memory(data: bytes) -> int:
    """A descriptor with these bytes, at their start."""
    number = os.memfd_create("given")
    with os.fdopen(number, "wb", closefd=False) as stream:
        stream.write(data)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _first_process(info: bytes) -> int | None:
    """A descriptor of the sandbox's first process, from bubblewrap's information; None if it has ended already."""
    try:
        return os.pidfd_open(json.loads(info)["child-pid"])
    except (ValueError, KeyError, ProcessLookupError):
        return None


def _outputs(process: subprocess.Popen[bytes], name: str, timeout: float) -> tuple[bytes, bytes]:
    """All of stdout and stderr. Raises PipelineError after ``timeout`` seconds and for more than ``LARGEST`` bytes."""
    assert process.stdout is not None
    assert process.stderr is not None
    outputs = {process.stdout: bytearray(), process.stderr: bytearray()}
    end = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for stream, output in outputs.items():
            selector.register(stream, selectors.EVENT_READ, output)
        while selector.get_map():
            ready = selector.select(max(end - time.monotonic(), 0))
            if time.monotonic() >= end:
                raise PipelineError(f"{name} did not end within {timeout:g} s", "in its sandbox")
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
                if len(key.data) > LARGEST:
                    raise PipelineError(f"{name} printed more than {LARGEST >> 20} MiB", "in its sandbox")
    try:
        process.wait(max(end - time.monotonic(), 0))
    except subprocess.TimeoutExpired as error:
        raise PipelineError(f"{name} did not end within {timeout:g} s", "in its sandbox") from error
    return bytes(outputs[process.stdout]), bytes(outputs[process.stderr])
