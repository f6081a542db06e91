"""Can this host make the sandbox of a build? One is made; where that fails, the cause is looked for.

Rules:

1. Nothing is built unprotected: a sandbox that cannot be made is an error. Only ``sandbox: none`` builds without one,
   which is a warning here and in each report.
2. A build whose state is apart from that of releases requires overlays too (base/sandbox: Layer).
3. A finding names the cause and its remedy. Where no known cause applies, it shows the message.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.run import CommandFailed, ProgramMissing
from ..base.sandbox import Layer, Sandbox
from ..base.text import shown
from ..base.versions import dotted

CHECK, OVERLAYS = "sandbox", "sandbox's overlays"
INSTALL = "Install bubblewrap (the package bubblewrap of Debian and of Fedora); playbooks/builders.yml brings it"
OLDEST = "0.8"
"""The first bubblewrap with --disable-userns."""

_SETTINGS = (
    "kernel/unprivileged_userns_clone", "user/max_user_namespaces", "kernel/apparmor_restrict_unprivileged_userns",
)  # fmt: skip
_OTHERWISE = "To build without protection set sandbox=none: upstream's code then has all rights of the building account"


@dataclass(frozen=True)
class Host:
    """What decides whether namespaces can be made: kernel ``settings`` by sysctl's names, and more.

    ``container`` is the kind of container that this host is, or ""; ``root``: the account is root; ``file_system`` is
    that of the builder's root.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    container: str = ""
    root: bool = False
    kernel: str = ""
    file_system: str = ""


# ---------------------------------------------------------------- decisions


def check_sandbox(failure: str, host: Host, *, protected: bool = True) -> Finding:
    """The finding for a sandbox that was tried; ``failure`` is its message, or ""."""
    if not protected:
        remedy = "sandbox is none: upstream's code runs with all rights of the building account. Set it to bubblewrap"
        return Finding.warn(CHECK, "none", "bubblewrap", remedy)
    if not failure:
        return Finding.ok(CHECK, "bubblewrap", "bubblewrap")
    found, remedy = cause(failure, host)
    return Finding.bad(CHECK, found, "bubblewrap", f"{remedy}. {_OTHERWISE}")


def check_overlays(failure: str, host: Host) -> Finding:
    """The finding for a sandbox with an overlay, on a host that makes one without."""
    if not failure:
        return Finding.ok(OVERLAYS, "work", "work")
    if dotted(".".join(re.findall(r"^\d+\.\d+", host.kernel))) < (5, 11) and not host.root:
        remedy = f"Linux {host.kernel} may not mount overlayfs in a user namespace (5.11 or later may): update it"
    else:
        remedy = (
            f"overlayfs does not work on {host.file_system or 'this file system'}: let builder_root be on ext4, XFS or "
            "Btrfs with extended attributes"
        )
    share = "Or set builder_share_trust=true: builds of any commit then write what releases are built from"
    return Finding.bad(OVERLAYS, shown(failure), "work", f"{remedy}. {share}")


def cause(failure: str, host: Host) -> tuple[str, str]:
    """What forbids a sandbox, and the remedy."""
    if "is not installed" in failure or "bwrap: not found" in failure:
        return "bubblewrap is not installed", INSTALL
    if "Unknown option" in failure or "unrecognized option" in failure:
        return "bubblewrap is too old", f"Install bubblewrap {OLDEST} or later"
    for name, bad, remedy in (
        ("user.max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
        ("kernel.unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ):
        if host.settings.get(name) == bad:
            keep = f"and keep it in /etc/sysctl.d: {remedy.removeprefix('sysctl -w ')}"
            return f"{name} is {bad}: the kernel forbids user namespaces", f"As root: {remedy}, {keep}"
    if host.settings.get("kernel.apparmor_restrict_unprivileged_userns") == "1" and not host.root:
        found = "AppArmor forbids user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)"
        profile = "abi <abi/4.0>, profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }"
        remedy = f"As root write /etc/apparmor.d/bwrap: {profile} (the same for /usr/bin/unshare)"
        return found, f"{remedy}, then run systemctl reload apparmor; or set that sysctl to 0"
    if host.container:
        found = f"this host is a container ({host.container}) that forbids namespaces inside: {shown(failure, 120)}"
        options = "--security-opt seccomp=unconfined --security-opt systempaths=unconfined --cap-add SYS_ADMIN"
        nspawn = "systemd-nspawn: mount -t proc proc /run/proc"
        remedy = f"Let it make user namespaces and mount /proc ({nspawn}; docker and podman: {options})"
        return found, f"{remedy}, or build on a machine of its own"
    return shown(failure), "Run bwrap --unshare-all --ro-bind / / true as the building account to see the reason"


# ---------------------------------------------------------------- the edge


def check(root: Path, *, protected: bool, overlays: bool) -> list[Finding]:
    """Make a sandbox, and with ``overlays`` one on top of a folder of ``root``."""
    if not protected:
        return [check_sandbox("", Host(), protected=False)]
    failure = attempt(Sandbox())
    host = measured(root) if failure else Host()
    if failure or not overlays:
        return [check_sandbox(failure, host)]
    failure = _overlay_failure(_existing(root))
    return [check_sandbox("", host), check_overlays(failure, measured(root) if failure else host)]


def _overlay_failure(folder: Path) -> str:
    try:
        with tempfile.TemporaryDirectory(prefix=".sandbox-", dir=folder) as name:
            lower = Path(name) / "lower"
            lower.mkdir()
            layer = Layer(lower, lower, Path(name) / "upper")
            failure = attempt(Sandbox(layers=[layer], cwd=lower), ["touch", "written"])
            layer.discard()
    except OSError as error:
        return str(error)
    return failure


def attempt(sandbox: Sandbox, words: list[str | Path] | None = None) -> str:
    """Why this sandbox cannot be made, or ""."""
    try:
        sandbox.run(words or ["true"], timeout=30)
    except ProgramMissing:
        return "bubblewrap is not installed"
    except CommandFailed as error:
        return error.stderr.strip() or error.what
    except PipelineError as error:
        return error.what
    except OSError as error:
        return str(error)
    return ""


def measured(root: Path) -> Host:
    settings = {}
    for name in _SETTINGS:
        with suppress(OSError):
            settings[name.replace("/", ".")] = Path("/proc/sys", name).read_text().strip()
    return Host(settings, container(), os.geteuid() == 0, os.uname().release, _file_system(_existing(root)))


def container() -> str:
    """The kind of container that this host is, or "" (systemd's container interface; marks of docker and podman)."""
    with suppress(OSError):
        return shown(Path("/run/systemd/container").read_text())
    marks = {"/run/.containerenv": "podman", "/.dockerenv": "docker"}
    return next((kind for mark, kind in marks.items() if Path(mark).exists()), "")


def _existing(folder: Path) -> Path:
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _file_system(folder: Path) -> str:
    """The type of the file system of a folder, from /proc/mounts (proc_pid_mounts(5))."""
    found = ""
    longest = -1
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, place, kind, *_ = line.split(" ")
            if folder.is_relative_to(place) and len(place) >= longest:
                found, longest = kind, len(place)
    return found
