"""The check finds out why a host cannot make the sandbox of a build, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pipeline.base import sandbox
from pipeline.check import sandboxes
from pipeline.check.sandboxes import Host, cause, check_overlays, check_sandbox
from support.builds import program_environment

PROGRAM = (
    "import sys; from pathlib import Path; from pipeline.check import sandboxes\n"
    "for f in sandboxes.check(Path(sys.argv[1]), protected=True, overlays=True):\n"
    "    print(f.fits, f.found, f.remedy, sep='|')"
)


def checked(folder: Path, *before: str) -> list[list[str]]:
    """The findings of the check, run by the command ``before``: whether each fits, what was found, the remedy."""
    words = [*before, sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(words, env=program_environment(), capture_output=True, text=True, check=True)
    return [line.split("|") for line in done.stdout.splitlines()]


def test_a_host_that_makes_sandboxes_with_overlays_fits(tmp_path: Path) -> None:
    assert checked(tmp_path / "root") == [["True", "bubblewrap", ""], ["True", "work", ""]]
    assert list(tmp_path.iterdir()) == []


def test_user_namespaces_are_forbidden(tmp_path: Path) -> None:
    """The limit is real: it is set in a user namespace of the test's own."""
    limit = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'
    ((fits, found, remedy),) = checked(tmp_path, "unshare", "-Urpf", "--mount-proc", "sh", "-c", limit, "sh")
    assert (fits, found) == ("False", "user.max_user_namespaces is 0: the kernel forbids user namespaces")
    assert remedy.startswith("As root: sysctl -w user.max_user_namespaces=15000, and keep it in /etc/sysctl.d")
    assert "set sandbox=none: upstream's code then has all rights" in remedy


def test_bubblewrap_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PATH", str(tmp_path))
    (finding,) = sandboxes.check(tmp_path, protected=True, overlays=True)
    assert (finding.fits, finding.found) == (False, "bubblewrap is not installed")
    assert finding.remedy.startswith("Install bubblewrap (the package bubblewrap of Debian and of Fedora)")


def test_overlays_cannot_be_made_where_the_root_lies() -> None:
    """/proc takes no folder."""
    (first, second) = checked(Path("/proc/nothing"))
    assert first[0] == "True"
    assert (second[0], "overlayfs does not work on proc" in second[2]) == ("False", True)
    assert "Or set builder_share_trust=true" in second[2]


@pytest.mark.parametrize(
    ("failure", "host", "found", "remedy"),
    [
        ("bwrap: Unknown option --disable-userns", Host(), "bubblewrap is too old", "Install bubblewrap 0.8"),
        (
            "bwrap: No permissions to create new namespace, likely because the kernel does not allow",
            Host({"kernel.unprivileged_userns_clone": "0", "user.max_user_namespaces": "9"}),
            "kernel.unprivileged_userns_clone is 0",
            "As root: sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "bwrap: setting up uid map: Permission denied",
            Host({"kernel.apparmor_restrict_unprivileged_userns": "1"}),
            "AppArmor forbids user namespaces",
            "profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }",
        ),
        (
            "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
            Host(container="docker"),
            "this host is a container (docker) that forbids namespaces inside: bwrap: Can't mount proc",
            "--security-opt systempaths=unconfined",
        ),
        ("bwrap: something else", Host(root=True), "bwrap: something else", "to see the reason"),
    ],
)
def test_each_cause_has_its_remedy(failure: str, host: Host, found: str, remedy: str) -> None:
    assert cause(failure, host)[0].startswith(found)
    assert remedy in cause(failure, host)[1]
    finding = check_sandbox(failure, host)
    assert not finding.fits
    assert finding.remedy.endswith("upstream's code then has all rights of the building account")


def test_an_old_kernel_mounts_no_overlay_for_an_account() -> None:
    finding = check_overlays("mount: wrong fs type", Host(kernel="5.10.0-30-amd64", file_system="ext4"))
    assert "Linux 5.10.0-30-amd64 may not mount overlayfs in a user namespace" in finding.remedy
    assert "on ext4" in check_overlays("mount: no", Host(kernel="6.1.0", file_system="nfs4")).remedy


def test_no_sandbox_is_a_warning(tmp_path: Path) -> None:
    (finding,) = sandboxes.check(tmp_path, protected=False, overlays=True)
    assert (finding.fits, finding.warning, finding.found) == (True, True, "none")
    assert "all rights of the building account" in finding.remedy
