"""A throw-away copy of a system, the running one or another tree on this machine, to install packages in.

Rules:

1. The copy is an overlay over the system's root. Its upper layer is a tmpfs in a mount and pid namespace of its own.
   When the context ends, or this process is killed, the kernel ends its processes and removes its mounts.
2. Its programs and libraries are the system's; it has none of the system's packages, repositories and dnf state.
   /tmp, /run and /dev are its own. It uses the host's network and name resolution. Of the caller's environment its
   programs see only the proxies.
3. Neither the host nor the system changes; only the transcript of the commands remains.
"""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ..base.environment import environment
from ..base.errors import PipelineError
from ..base.run import ProgramMissing, run

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

LONGEST = 1800.0
"""Seconds after which a command fails: enough for a large package over a slow line."""


class Client:
    """A throw-away copy of the system whose root is ``system``; it ends with the context.

    ``folders`` of the host are mounted in it at the same path, read-only.
    """

    # The holder still has the host's /proc: the first field of its stat is its pid on the host.
    _HOLDER = r"""
        set -eu
        base=$1; system=$2; shift 2
        root=$base/root
        mount -t tmpfs -o mode=0755 client "$base"
        mkdir "$base/upper" "$base/work" "$root"
        # Not by its name: mount would split it at a colon or a comma.
        cd "$system"
        mount -t overlay client -o "lowerdir=.,upperdir=$base/upper,workdir=$base/work" "$root"
        cd /
        mount -t proc proc "$root/proc"
        mount --bind "$root/proc/sys" "$root/proc/sys"
        mount -o remount,bind,ro "$root/proc/sys"
        for place in dev run tmp; do mount -t tmpfs -o mode=0755 client "$root/$place"; done
        chmod 1777 "$root/tmp"
        for device in null zero full random urandom tty; do
            : > "$root/dev/$device"
            mount --bind "/dev/$device" "$root/dev/$device"
        done
        ln -s /proc/self/fd "$root/dev/fd"
        mkdir -m 1777 "$root/dev/shm"
        for folder; do
            mkdir -p "$root$folder"
            mount --bind "$folder" "$root$folder"
            mount -o remount,bind,ro "$root$folder"
        done
        read -r pid rest < /proc/self/stat
        echo "$pid"
        exec cat
    """

    def __init__(self, transcript: Path, folders: Sequence[str] = (), system: Path = Path("/")) -> None:
        self.transcript = transcript
        self.folders = folders
        self.system = system
        self._base = ""
        self._pid = ""

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise PipelineError(
                "only root can make the throw-away client of a proof",
                f"uid {os.geteuid()}",
                "Run it as root, or with become: true",
            )
        self._base = tempfile.mkdtemp(prefix="mistralrs-client-")
        try:
            self._holder = subprocess.Popen(  # noqa: S603
                [
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
                    *("sh", "-c", self._HOLDER, "sh", self._base, str(self.system), *self.folders),
                ],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError as error:
            Path(self._base).rmdir()
            raise ProgramMissing("unshare") from error
        assert self._holder.stdout is not None
        self._pid = self._holder.stdout.readline().strip()
        if not self._pid:
            stderr = self._close()
            raise PipelineError(
                f"a throw-away client cannot be made: {stderr.strip() or 'no overlay'}",
                "unshare, mount -t overlay",
                "Prove on a host where root may mount an overlay: a machine, not a container",
            )
        try:
            self._empty()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> str:
        """End the holder, the namespace's init: all processes and mounts end with it. Returns its stderr."""
        try:
            _, stderr = self._holder.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            _, stderr = self._holder.communicate()
        # The last process may hold the folder for a moment. The tmpfs was never visible in the host's folder.
        for _ in range(50):
            with suppress(OSError):
                Path(self._base).rmdir()
                break
            time.sleep(0.02)
        return str(stderr)

    def _empty(self) -> None:
        """Remove the system's packages, repositories and dnf state from the client."""
        state = ("/var/lib/dnf", "/var/cache/dnf", "/var/cache/libdnf5", "/usr/lib/sysimage/libdnf5")
        self._inside(
            'database=$(rpm --eval %_dbpath); rm -rf "$database" "$@"; mkdir -p "$database" "$1"',
            *("/etc/yum.repos.d", "/etc/dnf", *state),
        )
        # If /var is a mount of its own, an overlay of / does not contain it.
        self._inside("mkdir -p /var/cache /var/lib /var/log; mkdir -p -m 1777 /var/tmp")
        # resolv.conf is often a link into /run, which is empty here.
        for name in ("/etc/resolv.conf", "/etc/hosts"):
            self._inside('rm -f "$1"; cat > "$1"', name, stdin=_text_of(Path(name)))

    def path(self, inside: str) -> Path:
        """The host's path of the client's ``inside``, for reading only: a link in it may point to the host's files."""
        return Path(f"/proc/{self._pid}/root{self._base}/root{inside}")

    def write(self, inside: str, text: str) -> None:
        self._inside('mkdir -p "${1%/*}"; cat > "$1"', inside, stdin=text)

    def _inside(self, script: str, *words: str, stdin: str = "") -> None:
        run([*self._enter(), "sh", "-ec", script, "sh", *words], env={"PATH": PATH, "HOME": "/root"}, stdin=stdin)

    def _enter(self) -> list[str]:
        # --root: the caller may be in a chroot.
        nsenter = ("nsenter", "--target", self._pid, "--mount", "--pid", "--root", "--")
        return [*nsenter, "chroot", f"{self._base}/root"]

    def changed(self) -> set[str]:
        """The paths that the client created or changed, relative to the root.

        A character device 0:0 is the overlay's mark of a removed file.
        """
        upper = Path(f"/proc/{self._pid}/root{self._base}/upper")
        return {
            os.path.relpath(f"{folder}/{name}", upper)
            for folder, folders, files in os.walk(upper)
            for name in (*folders, *files)
            if not _whiteout(Path(folder, name))
        }

    def run(self, *argv: str, env: dict[str, str] | None = None) -> tuple[int, str]:
        """Run a command; returns its status and output. The output also goes to the transcript while it runs.

        After ``LONGEST`` seconds the command is killed and its status is 124.
        """
        inner = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        inner |= {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
        inner["no_proxy"] = f"{os.environ.get('no_proxy', '')},127.0.0.1".lstrip(",")
        # Set by env(1): LD_LIBRARY_PATH is for the program, not for nsenter.
        words = ["env", *(f"{name}={value}" for name, value in (env or {}).items()), *argv]
        with self.transcript.open("ab") as log:
            log.write(f"$ {shlex.join(words[1:])}\n".encode())
            log.flush()
            start = log.tell()
            try:
                # A file instead of a pipe: after a timeout this does not wait for the command's children.
                status = subprocess.run(  # noqa: S603
                    [*self._enter(), *words],
                    env=inner,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=LONGEST,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                log.write(f"was killed after {LONGEST:g} s\n".encode())
                status = 124
        with self.transcript.open("rb") as log:
            log.seek(start)
            return status, log.read().decode(errors="replace")


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
