"""The files of a throw-away client: what it gets of a system's, and what is made for it.

Rules:

1. /usr is the system's, as the lower layer of an overlay. Of /etc the client gets the files of ``ETC``, without those
   that not everybody may read. Every other folder is empty: no home, no state, no secret of the system is visible.
2. The client's root is another account of the host, ``owner``. The upper layer repeats the folders of /usr down to the
   level ``DEPTH`` in its name, so that packages can add and replace files there. The system's own files belong to
   nobody in the client: no id of the host is mapped there, and a setuid bit of theirs has no effect.
   Idmapped mounts would do the same; not every file system has them (overlayfs has none).
3. The client has none of the system's packages: neither rpm's and dnf's state nor, in /usr and in /etc, a name with
   "mistralrs" in it. A system with an installed package does not shadow the package on trial.
4. dnf's configuration is Fedora's own, whatever the system's is: what a user's dnf would let pass fails here too.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

DEPTH = 4

EMPTY = frozenset({"src", "lib/sysimage", "share/dnf5/repos.d"})
"""Folders of /usr that are empty in a client: kernels' sources, the databases of rpm and dnf5, and repositories."""

ETC = (
    "alternatives",
    "crypto-policies",
    "debian_version",
    "fedora-release",
    "gnutls",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "login.defs",
    "magic",
    "os-release",
    "pki/ca-trust/extracted",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "redhat-release",
    "rpm",
    "services",
    "shells",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "system-release",
)
"""What dnf, rpm, gpg, curl and scriptlets read."""

FOLDERS = (
    *("boot", "dev", "etc", "home", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr"),
    *("etc/dnf", "etc/pki/rpm-gpg", "etc/rpm", "etc/sysconfig", "etc/systemd/system", "etc/yum.repos.d"),
    *("var/cache", "var/lib/alternatives", "var/lib/dpkg/alternatives", "var/lib/dnf", "var/log", "var/tmp"),
)

DNF_CONF = """\
# see `man dnf.conf` for defaults and possible options

[main]
gpgcheck=True
installonly_limit=3
clean_requirements_on_remove=True
best=False
skip_if_unavailable=True
"""
"""A copy of Fedora's for dnf 4 (package dnf-data), which Debian ships unchanged for dnf 4 and dnf5. For dnf5 Fedora has
the last two lines in /usr/share/dnf5/libdnf.conf.d/20-fedora-defaults.conf (package fedora-release-common)."""

FILES = {
    "etc/dnf/dnf.conf": DNF_CONF,
    "etc/group": "root:x:0:\nnobody:x:65534:\n",
    "etc/gshadow": "root:*::\nnobody:*::\n",
    "etc/hostname": "client\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    # Two plugins of rpm act on a scriptlet with capabilities that the client's root lacks: unshare fails, prioreset
    # logs after a fork, where dnf5 can wait for its logger's lock for ever.
    "etc/rpm/macros.client": "%__transaction_unshare %{nil}\n%__transaction_prioreset %{nil}\n",
    "etc/shadow": "root:*:19000::::::\nnobody:*:19000::::::\n",
}
"""Accounts are the client's own: the system's would only name the people who use it."""

MODES = {"root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777, "etc/shadow": 0o600, "etc/gshadow": 0o600}


def make_tree(system: Path, root: Path, upper: Path, owner: int, names: tuple[str, ...]) -> None:
    """Fill the empty folders ``root`` and ``upper`` for a client of ``system``.

    ``upper`` becomes the upper layer over /usr. ``names`` are host names that resolve to 127.0.0.1 in the client; there
    is no other name resolution.
    """
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        if (system / link).is_symlink():
            (root / link).symlink_to((system / link).readlink())
    for name in ETC:
        copy(system / "etc" / name, root / "etc" / name)
    for name, text in {**FILES, "etc/hosts": f"127.0.0.1 {' '.join(dict.fromkeys(('localhost', *names)))}\n"}.items():
        (root / name).write_text(text)
    for name, mode in MODES.items():
        (root / name).chmod(mode)
    for folder, folders, files in os.walk(root):
        for name in (".", *folders, *files):
            os.chown(f"{folder}/{name}", owner, owner, follow_symlinks=False)
    make_upper(system / "usr", upper, owner)


def copy(source: Path, target: Path) -> None:
    """Copy what everybody may read: files, folders, links as links. Nothing, if there is no ``source``."""
    if not os.path.lexists(source) or "mistralrs" in source.name:
        return
    status = source.lstat()
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISLNK(status.st_mode):
        target.symlink_to(source.readlink())
    elif stat.S_ISDIR(status.st_mode) and status.st_mode & 0o005 == 0o005:
        target.mkdir(exist_ok=True)
        for path in source.iterdir():
            copy(path, target / path.name)
    elif stat.S_ISREG(status.st_mode) and status.st_mode & 0o004:
        shutil.copyfile(source, target)
        target.chmod(stat.S_IMODE(status.st_mode) & 0o755)


def make_upper(usr: Path, upper: Path, owner: int) -> None:
    """Make the folders of ``usr`` that a client may change in ``upper``, and hide what is not for it."""
    os.chown(upper, owner, owner)
    for name, status in folders_of(usr, ""):
        place = upper / name
        if is_hidden(name):
            os.mknod(place, stat.S_IFCHR, 0)  # overlayfs' mark of a removed file
            continue
        place.mkdir()
        os.chown(place, owner, owner)
        place.chmod(stat.S_IMODE(status.st_mode) & 0o755)
        if name in EMPTY:
            os.setxattr(place, "trusted.overlay.opaque", b"y")


def is_hidden(name: str) -> bool:
    """Whether a client does not see this path below /usr: rule 3, and what is installed by hand, but CUDA."""
    folder, _, own = name.rpartition("/")
    return "mistralrs" in own or (folder == "local" and not own.startswith("cuda"))


def folders_of(usr: Path, below: str) -> Iterator[tuple[str, os.stat_result]]:
    """The folders of ``usr`` that everybody may read, parents first, and all that is hidden, without its content."""
    with os.scandir(usr / below) as entries:
        for entry in entries:
            name = f"{below}/{entry.name}".lstrip("/")
            hidden = is_hidden(name)
            if not hidden and not entry.is_dir(follow_symlinks=False):
                continue
            status = entry.stat(follow_symlinks=False)
            if not hidden and status.st_mode & 0o005 != 0o005:
                continue
            yield name, status
            if not hidden and name not in EMPTY and name.count("/") < DEPTH - 1:
                yield from folders_of(usr, name)
