"""A signer and a repo host in a folder: real keys, small real packages, the real agent."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.base.records import Package, sha256_file
from pipeline.base.run import run
from pipeline.channel.agent_client import AgentClient
from pipeline.channel.engine import Engine, Result
from pipeline.channel.heads import Memory
from pipeline.channel.reader import Repository
from pipeline.sign import keyring
from pipeline.sign.rotation import Recipe, ensure
from pipeline.sign.rpm_signature import sign_package
from pipeline.sign.signer import Signer

AGENT = [sys.executable, "-I", str(Path(__file__).parents[2] / "roles/publisher/files/mistralrs-publisher")]
STABLE = "fedora/43/x86_64"
COMMIT = "0123456789" * 4
SPEC = """
Name: mistralrs-{flavour}
Version: {version}
Release: {release}
Summary: A test package
License: MIT
Provides: mistralrs(commit) = {commit}
%description
{text}
%install
install -Dm 0644 /dev/null %{{buildroot}}/usr/share/mistralrs-{flavour}/{version}
%files
/usr/share/mistralrs-{flavour}
"""


class QuickFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder that is a fast GnuPG home."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        make_quick(Path(self.name))


def make_quick(home: Path) -> None:
    """Fix gpg-agent's S2K count; without it each start of gpg-agent calibrates the count for seconds."""
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "gpg-agent.conf").write_text("s2k-count 65536\n")


def make_signer(folder: Path, passphrase: str = "") -> Signer:
    """A signer with a key of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    passphrase_file = folder / "pass phrase" if passphrase else None
    signer = Signer(folder.with_name("signer"), folder / "gnupg", passphrase_file, folder / "public.asc")
    if signer.passphrase_file:
        signer.passphrase_file.write_text(f"{passphrase}\n")
        make_quick(signer.home)
    with mock.patch.object(keyring.tempfile, "TemporaryDirectory", QuickFolder):
        ensure(signer, Recipe("Test", "test@localhost", folder / "primary", "ed25519"))
    return signer


def make_package(
    folder: Path,
    version: str = "0.9.2",
    *,
    flavour: str = "ada",
    release: str = "1.fc43",
    text: str = "test",
) -> Package:
    """An unsigned package with one file."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / f"{flavour}.spec"
    spec.write_text(SPEC.format(flavour=flavour, version=version, release=release, commit=COMMIT, text=text))
    macros = {"_topdir": folder, "_rpmdir": folder, "_build_id_links": "none", "_rpmfilename": "%%{NAME}.rpm"}
    defines = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
    run(["rpmbuild", "-bb", "--target", "x86_64", *defines, spec])
    nevra = f"mistralrs-{flavour}-{version}-{release}.x86_64"
    path = (folder / f"mistralrs-{flavour}.rpm").rename(folder / f"{nevra}.rpm")
    return Package(
        f"mistralrs-{flavour}",
        version,
        release,
        "x86_64",
        COMMIT,
        str(path),
        sha256_file(path),
        path.stat().st_size,
    )


@dataclass(frozen=True)
class Site:
    """A signer and a repo host that trusts it."""

    folder: Path
    signer: Signer

    @classmethod
    def make(cls, folder: Path, **retention: int) -> Site:
        """A new site; ``retention`` is that of the agent (snapshots, days, grace_hours)."""
        return cls(folder, make_signer(folder / "keys"))._configured(retention)

    def another(self, folder: Path, *, empty: bool = False) -> Site:
        """A copy of this site with the same key; with ``empty``, no packages are published in it."""
        configured = json.loads((self.folder / "publisher.json").read_text())["channels"]["stable"]
        retention = {name: value for name, value in configured.items() if name != "path"}
        site = Site(folder, self.signer_in(folder))._configured(retention)
        if not empty:
            shutil.copytree(self.root, site.root, symlinks=True, dirs_exist_ok=True)
        return site

    def signer_in(self, folder: Path) -> Signer:
        """The same key with another working folder."""
        return replace(self.signer, root=folder / "signer")

    def _configured(self, retention: dict[str, int]) -> Site:
        self.root.mkdir(parents=True)
        config = {
            "root": str(self.root),
            "base_url": "http://repo.invalid",
            "key": str(self.signer.trusted_keys),
            "channels": {"stable": {"path": STABLE, **retention}},
        }
        (self.folder / "publisher.json").write_text(json.dumps(config))
        return self

    @property
    def root(self) -> Path:
        return self.folder / "srv"

    @property
    def agent(self) -> AgentClient:
        return AgentClient([*AGENT, "--config", str(self.folder / "publisher.json"), "--rsh"], "local")

    @property
    def channel(self) -> Repository:
        return Repository(str(self.root / STABLE), self.signer.trusted_keys)

    def package(self, version: str = "0.9.2", flavour: str = "ada", text: str = "test") -> Package:
        """A signed package."""
        unsigned = make_package(self.folder / "unsigned" / text, version, flavour=flavour, text=text)
        return sign_package(unsigned, self.signer).package

    @property
    def engine(self) -> Engine:
        """The engine of the channel stable."""
        repository = Repository(self.channel.location, self.signer.trusted_keys, self.memory)
        return Engine("stable", repository, self.agent, self.signer)

    @property
    def memory(self) -> Memory:
        """What the signer knows of the channel stable."""
        return Memory.of(self.signer, "stable", self.channel.location)

    def publish(self, *packages: Package, check: bool = False) -> Result:
        """Add packages to the channel stable."""
        return self.engine.publish(packages, reason="test", check=check)

    def stage(self, *packages: Package) -> Result:
        """Stage packages for the channel stable."""
        return self.engine.stage(packages, reason="test")

    def names(self, snapshot: str | None = None) -> list[str]:
        """The package file names of a snapshot, by default of the head."""
        return [package.filename for package in self.channel.read(snapshot).packages]

    def served(self) -> dict[str, str]:
        """The digest or link target of every file that clients can reach, by path."""
        return {
            str(path.relative_to(self.root)): str(path.readlink()) if path.is_symlink() else sha256_file(path)
            for path in self.root.rglob("*")
            if ".publisher" not in path.parts and (path.is_symlink() or path.is_file())
        }
