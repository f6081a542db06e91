"""A throw-away client: a sandbox with a copy of a system, the running one or another tree on this machine.

Rules:

1. systemd-nspawn makes it: its own user, mount, pid, network, ipc and control group namespaces, a system-call filter,
   no new privileges, and of root's capabilities those that rpm requires (``CAPABILITIES``). The client's root is an
   account without rights on the host. What nspawn set up is verified before a command runs.
2. Of the system's files it sees what ``client_tree`` lists. Its own are in a tmpfs. ``site_door`` is its only network.
3. Commands go to a shell inside, by a pipe; output comes back by another. Nothing of the host enters the client later:
   no process, no descriptor, no environment. The host never opens a file by a path that the client could redirect.
4. A client whose package is hostile can lie about itself, and no more. Output is limited to ``MOST`` bytes a command.
5. When the context ends, or this process is killed, everything ends: processes by their control group, mounts with
   their namespace. Neither the host nor the system changes; only the transcript of the commands remains.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import select
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from ..base import seccomp
from ..base.environment import environment
from ..base.errors import PipelineError
from ..base.run import ProgramMissing, run
from ..base.text import last_words
from .client_tree import make_tree
from .site_door import SiteDoor, route_of
from .transcript import Transcript

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

LONGEST = 1800.0
"""Seconds after which a command fails: enough for a large package over a slow line."""

MOST = 64 * 2**20
"""Bytes of output after which a command fails: the transcript is on the host's disk."""

PATHS = 500_000
"""Changed paths after which a client is refused; a release has thousands."""

MOUNTS = frozenset({"usr", "proc", "sys", "dev", "run", "tmp"})
"""Folders of the client's root with mounts of their own; /usr has its layer."""

CAPABILITIES = {
    "chown": 0, "dac_override": 1, "dac_read_search": 2, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7,
    "setfcap": 31,
}  # fmt: skip
"""What the client's root keeps, in its own user namespace: to install files, run scriptlets and change accounts. The
values are the bits of capabilities(7)."""

DROPPED = (
    "audit_control", "audit_write", "ipc_owner", "lease", "linux_immutable", "mknod", "net_admin", "net_bind_service",
    "net_broadcast", "net_raw", "setpcap", "sys_admin", "sys_boot", "sys_chroot", "sys_nice", "sys_ptrace",
    "sys_resource", "sys_tty_config",
)  # fmt: skip
"""What else nspawn keeps by default (its man page, --capability)."""

IDS = range(0x80000, 0x6FFF0000, 0x10000)
"""The first ids of the ranges that systemd gives to containers (its UIDS-GIDS page)."""

# Runs in a mount namespace of its own, and ends the client when its standard input ends: with this process at the
# latest. It stays outside of the client's control group. What nspawn and it leave in /run and /tmp goes with the
# namespace; nspawn sees no socket of the host there.
_HOLDER = r"""
    set -u
    system=$1 group=$2 commands=/proc/self/fd/$3 folders=$4; shift 4
    end() {
        [ ! -e "$group/cgroup.kill" ] || echo 1 > "$group/cgroup.kill"
        wait
        for try in $(seq 100); do
            rmdir "$group"/*/ "$group" 2>/dev/null
            [ -e "$group" ] || break
            sleep 0.02
        done
    }
    trap end EXIT
    trap 'exit 1' HUP INT TERM
    # Not by its name: mount would split it at a colon or a comma.
    cd "$system" || exit
    mount -t tmpfs -o mode=0755 client /run || exit
    mkdir /run/root /run/upper /run/work /run/proc
    while [ "$folders" != 0 ]; do
        mkdir -p "/run/folders/$folders" && mount --bind "$1" "/run/folders/$folders" || exit
        folders=$((folders - 1)); shift
    done
    mount -t tmpfs client /tmp || exit
    # A whole one: in a container /proc/sys is read-only.
    mount -t proc proc /run/proc || exit
    echo made
    read -r go || exit
    mount -t overlay client -o lowerdir=usr,upperdir=/run/upper,workdir=/run/work /run/root/usr || exit
    cd /
    mkdir "$group" || exit
    (echo 0 > "$group/cgroup.procs" && exec setpriv --pdeathsig KILL "$@" < "$commands") &
    exec >/dev/null
    read -r end
"""


class Client:
    """A throw-away copy of the system whose root is ``system``; it ends with the context.

    ``folders`` of the host are visible in it, read-only, at ``places``. ``site`` is the URL that it may reach, ``at``
    the address at which this host reaches that site, if it is another one.
    """

    def __init__(
        self,
        transcript: Transcript,
        folders: Sequence[str] = (),
        system: Path = Path("/"),
        site: str = "",
        at: str = "",
    ) -> None:
        self.transcript = transcript
        self.folders = folders
        self.system = system
        route = route_of(site) if site else None
        self._route = route.leading(at) if route and at else route
        self._door: SiteDoor | None = None
        self._said = b""
        self._commands = -1

    @property
    def places(self) -> tuple[str, ...]:
        """Where ``folders`` are: their own paths may lead through a home that the program cannot enter."""
        return tuple(f"/mnt/{number}" for number in range(len(self.folders), 0, -1))

    # -- its life

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise PipelineError(
                "only root can make the throw-away client of a proof",
                f"uid {os.geteuid()}",
                "Run it as root, or with become: true",
            )
        for program in ("systemd-nspawn", "unshare", "setpriv", "nsenter"):
            if shutil.which(program, path=PATH) is None:
                raise ProgramMissing(program)
        if not (self.system / "bin").is_symlink():
            raise PipelineError(
                "this system keeps programs outside of /usr",
                str(self.system / "bin"),
                "Give a system whose /bin is a link, as in Debian and Fedora",
            )
        self._owner = free_ids({account.pw_uid for account in pwd.getpwall()})
        name = f"mistralrs-client-{secrets.token_hex(4)}"
        group = own_control_group() / name
        commands, self._commands = os.pipe()
        self._holder = subprocess.Popen(  # noqa: S603
            [
                *("unshare", "--mount", "--propagation", "private", "sh", "-c", _HOLDER, "sh"),
                *(str(self.system), str(group), str(commands), str(len(self.folders)), *self.folders),
                *nspawn(name, self._owner, self.places),
            ],
            # Debian 12's nspawn would mount the machine's mix of both versions of control groups.
            env=environment({"PATH": PATH, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[commands],
            preexec_fn=partial(seccomp.load, rules) if (rules := seccomp.sockets()) else None,  # noqa: PLW1509
            start_new_session=True,
            bufsize=0,
        )
        os.close(commands)
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        self._out, self._answers = self._holder.stdout.fileno(), self._holder.stderr.fileno()
        try:
            self._start(group)
        except BaseException:
            self._close()
            raise
        return self

    def _start(self, group: Path) -> None:
        assert self._holder.stdin is not None
        names = (self._route.host,) if self._route and self._route.inside == "127.0.0.1" else ()
        if os.read(self._out, 5) != b"made\n":
            raise self._unmade()
        make_tree(self.system, self._seen / "root", self._seen / "upper", self._owner, names)
        self._holder.stdin.write(b"go\n")
        try:
            # Debian's rpm has its database elsewhere than Fedora's.
            self._expect('mkdir -p "$(rpm --eval %_dbpath)"')
        except PipelineError as error:
            raise self._unmade() from error
        pid = walled_in(group)
        # A user namespace in the client would have all capabilities in itself: its limit is that of the client's.
        spaces = (f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--user=/proc/{pid}/ns/user")
        limit = "echo 0 > /run/proc/sys/user/max_user_namespaces"
        run(["nsenter", *spaces, "--", "sh", "-c", limit], timeout=LONGEST)
        if self._route:
            self._door = SiteDoor(self._route, f"/proc/{pid}/ns/net", self.transcript.write)

    @property
    def _seen(self) -> Path:
        """The holder's /run, with the client's layers."""
        return Path(f"/proc/{self._holder.pid}/root/run")

    def _unmade(self) -> PipelineError:
        errors = self._close()
        reason = last_words(self._said.decode(errors="replace") + errors)
        return PipelineError(
            f"a throw-away client cannot be made: {reason}",
            "systemd-nspawn, mount -t overlay",
            "Prove on a host where root may mount an overlay and make user namespaces: docs/provision.md, Verifiers",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> str:
        """End the client whole. Returns what the holder and nspawn printed as errors; "" the second time."""
        if self._commands < 0:
            return ""
        if self._door:
            self._door.close()
            self._door = None
        with suppress(OSError):
            os.close(self._commands)
        self._commands = -1
        try:
            _, errors = self._holder.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            # Its death kills nspawn, and nspawn's the client.
            self._holder.kill()
            _, errors = self._holder.communicate()
        return str(errors.decode(errors="replace"))[:4096]

    # -- commands

    def run(self, *argv: str, env: dict[str, str] | None = None, account: str = "root") -> tuple[int, str]:
        """Run a command; returns its status and output. The output also goes to the transcript while it runs.

        Another ``account`` than root has none of root's groups and capabilities. After ``LONGEST`` seconds, or ``MOST``
        bytes of output, the client ends with the command, and the status is 124.
        """
        words = [f"{name}={value}" for name, value in (env or {}).items()] + list(argv)
        self.transcript.write(f"$ {shlex.join(words)}\n")
        variables = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root" if account == "root" else "/"} | (env or {})
        inner = ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), *argv]
        if account != "root":
            inner = ["setpriv", f"--reuid={account}", f"--regid={account}", "--clear-groups", "--inh-caps=-all", *inner]
        status, output = self._tell(f"exec {shlex.join(inner)}", self.transcript)
        return status, output.decode(errors="replace")

    def write(self, inside: str, text: str) -> None:
        """Make a file of the client, with its folder."""
        folder, file = shlex.quote(str(Path(inside).parent)), shlex.quote(inside)
        self._expect(f"mkdir -p {folder}; printf %s {shlex.quote(text)} > {file}")

    def read(self, inside: str) -> bytes:
        """The content of a file of the client, read by a program in it."""
        return self._expect(f"cat < {shlex.quote(inside)}")

    def paths(self, pattern: str) -> list[str]:
        """The paths of the client that match a pattern of the shell; the caller's, not quoted."""
        return self._expect(f'for path in {pattern}; do [ ! -e "$path" ] || echo "$path"; done').decode().splitlines()

    def _expect(self, script: str) -> bytes:
        status, output = self._tell(f"set -e; {script}")
        if status != 0:
            raise self._failed(
                f"the throw-away client failed to {script[:80]}: {last_words(output.decode(errors='replace'))}"
            )
        return output

    def _failed(self, what: str) -> PipelineError:
        return PipelineError(what, str(self.transcript.path), "Read the transcript")

    def _tell(self, script: str, transcript: Transcript | None = None) -> tuple[int, bytes]:
        """Let the shell inside run a script; returns its status and output.

        The limits hold whatever the client sends. A client that has ended is an error.
        """
        if self._commands < 0:
            raise self._failed("the throw-away client has ended")
        # New each time: what is left in the pipe from an earlier command is no answer.
        word = secrets.token_hex(8)
        line = f"({script}\n) < /dev/null 2>&1; echo {word} $? >&2\n".encode()
        output, answers = bytearray(), b""
        end = time.monotonic() + LONGEST
        while not (answered := re.search(rf"^{word} (\d+)$".encode(), answers, re.MULTILINE)):
            left = end - time.monotonic()
            if left <= 0 or len(output) > MOST:
                return self._killed(
                    f"took more than {LONGEST:g} s" if left <= 0 else f"printed over {MOST} bytes", output
                )
            ready, able, _ = select.select([self._out, self._answers], [self._commands] if line else [], [], left)
            if able:
                line = line[self._send(line[:4096]) :]
            if self._out in ready:
                if not (data := os.read(self._out, 262144)):
                    raise self._failed("the throw-away client ended by itself")
                output += data
                if transcript:
                    transcript.write(data)
            elif ready:
                # Only when no output waits: the answer comes after it.
                answers = self._said = (answers + os.read(self._answers, 65536))[-65536:]
        return int(answered[1]), bytes(output)

    def _send(self, data: bytes) -> int:
        """The bytes that the shell's pipe took; all of them if nobody reads it."""
        try:
            return os.write(self._commands, data)
        except BrokenPipeError:
            return len(data)

    def _killed(self, fault: str, output: bytearray) -> tuple[int, bytes]:
        self._close()
        reason = f"\nThe command {fault}: killed, with the whole client\n"
        self.transcript.write(reason)
        return 124, bytes(output) + reason.encode()

    # -- what it changed

    def changed(self) -> set[str]:
        """The paths that the client created or changed, relative to the root.

        The walk goes from folder to folder by descriptors and follows no link. A character device 0:0 is the overlay's
        mark of a removed file.
        """
        found: set[str] = set()
        try:
            for layer, prefix in ((self._seen / "root", ""), (self._seen / "upper", "usr/")):
                for folder, folders, files, here in os.fwalk(layer):
                    if folder == str(layer) and not prefix:
                        folders[:] = sorted({*folders} - MOUNTS)
                    relative = f"{prefix}{os.path.relpath(folder, layer)}/"
                    found |= {relative + name for name in (*folders, *files) if not _whiteout(name, here)}
                    if len(found) > PATHS:
                        raise self._failed(f"the throw-away client has more than {PATHS} changed files")
        except (OSError, RecursionError) as error:
            raise self._failed(f"the throw-away client's files cannot be listed: {error}") from error
        return {os.fsencode(os.path.normpath(path)).decode(errors="replace") for path in found}


def _whiteout(name: str, folder: int) -> bool:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def nspawn(name: str, owner: int, places: Sequence[str]) -> list[str]:
    """The command line of a client's systemd-nspawn; in it a shell reads commands. The holder binds the folders."""
    return [
        *("systemd-nspawn", "--quiet", "--settings=no", "--register=no", "--keep-unit", "--as-pid2", "--console=pipe"),
        *(f"--machine={name}", "--directory=/run/root"),
        *(f"--private-users={owner}:{IDS.step}", "--private-users-ownership=off", "--private-network"),
        f"--drop-capability={','.join(f'CAP_{one.upper()}' for one in DROPPED)}",
        *("--no-new-privileges=yes", f"--system-call-filter=~{' '.join(seccomp.DENIED)}"),
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--rlimit=NPROC=4096", "--rlimit=CORE=0"),
        *(f"--bind-ro=/run/folders/{place.removeprefix('/mnt/')}:{place}" for place in places),
        *("--", "/bin/sh"),
    ]


def free_ids(taken: set[int]) -> int:
    """The first of a random range of ids for a client, in which this machine has no account."""
    used = {uid // IDS.step for uid in taken}
    return secrets.choice([first for first in IDS if first // IDS.step not in used])


def own_control_group() -> Path:
    """This process's folder in the hierarchy of control groups of version 2."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    place = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)
    own = re.search(r"^0::(/.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    if place is None or own is None:
        raise PipelineError(
            "a throw-away client needs control groups of version 2, and none are mounted",
            "/sys/fs/cgroup",
            "mount -t cgroup2 none /sys/fs/cgroup, or prove on a machine with systemd",
        )
    return Path(place + own[1])


def walled_in(group: Path) -> int:
    """Check rule 1 for the processes of a fresh client; the pid of one of them. PipelineError names what is missing."""
    allowed = sum(1 << bit for bit in CAPABILITIES.values())
    own = Path("/proc/self/ns/user").readlink()
    inside = 0
    for file in group.rglob("cgroup.procs"):
        for pid in file.read_text().split():
            process = Path("/proc", pid)
            if (process / "ns/user").readlink() == own:
                continue  # nspawn itself
            facts = dict(
                line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line
            )
            missing = [
                what
                for what, holds in (
                    ("its own ids", (process / "uid_map").read_text().split()[1] != "0"),
                    ("few capabilities", int(facts["CapBnd"], 16) & ~allowed == 0),
                    ("no new privileges", facts["NoNewPrivs"] == "1"),
                    ("a system-call filter", facts["Seccomp"] == "2"),
                    ("its own network", (process / "ns/net").readlink() != Path("/proc/self/ns/net").readlink()),
                )
                if not holds
            ]
            if missing:
                raise PipelineError(
                    f"the throw-away client lacks {', '.join(missing)}",
                    "systemd-nspawn",
                    "Use a systemd with seccomp, of Debian 12 or Fedora 43 or later",
                )
            inside = int(pid)
    if not inside:
        raise PipelineError("the throw-away client has no process", str(group), "Run the proof again")
    return inside
