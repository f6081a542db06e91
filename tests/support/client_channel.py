"""A small signed channel for tests of the proof: real rpmbuild, rpmsign, createrepo_c, gpg and nginx.

It has the layout of a real repository: a pool, immutable snapshots, a mirrorlist, a .repo file. Packages are built from
the real spec with a shell script as the binary.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.base.flavours import table
from pipeline.base.records import Package, sha256_file
from pipeline.channel.release_package import PROGRAM
from pipeline.channel.repo_file import ChannelRow
from pipeline.hosts.loopback_site import Site
from pipeline.package.rpm import read_package
from pipeline.sign.trust import KEYS_NAME

from . import PROJECT
from .flavours import FLAVOURS
from .rpms import sh

FOLDER = "fedora/43/x86_64"

SOURCES = PROJECT / "rpm/systemd"

# Requirements of the real binary on CUDA and glibc, which a shell script lacks.
REQUIRES = "Requires: systemd >= 255, libcudart.so.13()(64bit), libc.so.6(GLIBC_2.34)(64bit)\n"


def with_ghosts(spec: str) -> str:
    """The spec of packages that own the links of update-alternatives, as they did before."""
    links = {"%{_bindir}/mistralrs": "%{binary}", "%{_unitdir}/mistralrs@.service": "%{unit}"}
    made = "".join(f"ln -s {target} %{{buildroot}}{link}\n" for link, target in links.items())
    before, _, files = spec.partition("%transfiletriggerpostun")
    files = "%files\n" + "".join(f"%ghost {link}\n" for link in links) + files.partition("%files\n")[2]
    return before.replace("\n%check\n", f"\n{made}\n%check\n", 1) + files


@dataclass(frozen=True)
class Key:
    """A throw-away key in its own GNUPGHOME: a primary key that certifies, a subkey that signs."""

    home: Path
    name: str

    @classmethod
    def make(cls, home: Path, name: str) -> Key:
        home.mkdir(mode=0o700, parents=True)
        key = cls(home, name)
        key.gpg("--passphrase", "", "--quick-gen-key", f"{name} <{name}@example.org>", "ed25519", "cert", "never")
        primary = next(
            line.split(":")[9] for line in key.gpg("--with-colons", "-K").splitlines() if line.startswith("fpr")
        )
        key.gpg("--passphrase", "", "--quick-add-key", primary, "ed25519", "sign", "never")
        key.public.write_text(key.gpg("--armor", "--export"))
        return key

    @property
    def public(self) -> Path:
        return self.home / "public.asc"

    def gpg(self, *argv: str) -> str:
        return sh("gpg", "--batch", "--yes", "--pinentry-mode", "loopback", "--homedir", self.home, *argv)

    def sign_package(self, rpm: Path) -> None:
        sh("rpmsign", "--define", "__gpg /usr/bin/gpg", "--define", f"_gpg_name {self.name}",
           "--define", f"_gpg_path {self.home}", "--addsign", rpm)  # fmt: skip

    def sign_file(self, path: Path) -> None:
        self.gpg("--armor", "--output", f"{path}.asc", "--detach-sign", str(path))

    def close(self) -> None:
        sh("gpgconf", "--homedir", self.home, "--kill", "all")


@dataclass
class Channel:
    """The stable channel below ``site.root``."""

    site: Site
    key: Key
    work: Path
    revision: int = field(default=1000)

    @property
    def folder(self) -> Path:
        return self.site.root / FOLDER

    @property
    def url(self) -> str:
        return f"{self.site.url}/{FOLDER}"

    @property
    def repo_file(self) -> Path:
        return self.site.root / "mistralrs.repo"

    @property
    def head(self) -> Path:
        return self.folder / (self.folder / "repodata").readlink().parent

    def package(
        self,
        version: str,
        flavour: str = "ada",
        *,
        key: Key | None = None,
        post: str = "",
        script: str = "",
        priority: str = "",
        before: bool = False,
    ) -> Package:
        """Build a package by the real spec, sign it, and add it to the pool; ``publish`` adds it to a snapshot.

        Its binary is the shell ``script``; ``post`` runs before the spec's own %post; ``priority`` ranks its command,
        by default by its generation. ``before``: it owns the links of update-alternatives as ghosts, as packages did
        before there was a package mistralrs.
        """
        work = self.work / f"build-{version}-{flavour}"
        (work / "SOURCES").mkdir(parents=True)
        for source in SOURCES.iterdir():
            shutil.copy(source, work / "SOURCES")
        script = f"#!/bin/sh\n{script or f'echo mistralrs {version}'}\n"
        (work / f"SOURCES/mistralrs-{flavour}").write_text(script)
        spec = (PROJECT / "rpm/mistralrs.spec").read_text()
        spec = spec.replace("\n%description", f"\n{REQUIRES}\n%description", 1)
        (work / "p.spec").write_text(
            (with_ghosts(spec) if before else spec).replace("\n%post\n", f"\n%post\n{post}\n", 1)
        )
        defines = {
            "_topdir": work,
            "_rpmdir": work,
            "_dbpath": work / "db",
            "_build_name_fmt": "out.rpm",
            "dist": ".fc43",
            "mistralrs_version": version,
            "mistralrs_flavour": flavour,
            "mistralrs_priority": priority or next(f.compute_cap for f in FLAVOURS if f.name == flavour) or "10",
        }
        sh(
            "rpmbuild",
            "-bb",
            *(f"--define={name} {value}" for name, value in defines.items()),
            work / "p.spec",
        )
        return self.add(work / "out.rpm", key)

    def chooser(self, number: int = 1, more: str = "") -> Package:
        """Build the package mistralrs by the real spec, with ``more`` in its header; sign it and add it to the pool."""
        work = self.work / f"build-chooser-{number}"
        work.mkdir()
        (work / KEYS_NAME).write_bytes(self.key.public.read_bytes())
        shutil.copy(PROJECT / "rpm" / PROGRAM, work)
        (work / "flavours").write_text(table(FLAVOURS))
        repo = ChannelRow("stable", "fedora/$releasever/$basearch", "mistralrs.repo").repo_file(
            self.site.url, enabled=True
        )
        (work / "mistralrs.repo").write_text(repo)
        spec = (PROJECT / "rpm/mistralrs-release.spec").read_text()
        (work / "p.spec").write_text(
            spec.replace("%description -n mistralrs\n", f"{more}\n%description -n mistralrs\n")
        )
        defines = dict.fromkeys(("_topdir", "_sourcedir", "_rpmdir"), work) | {"_dbpath": work / "db"}
        defines |= {"mistralrs_fedora": 43, "mistralrs_release": number, "mistralrs_repos": "mistralrs.repo"}
        sh("rpmbuild", "-bb", *(f"--define={name} {value}" for name, value in defines.items()), work / "p.spec")
        return self.add(work / f"noarch/mistralrs-43-{number}.noarch.rpm")

    def add(self, rpm: Path, key: Key | None = None) -> Package:
        """Sign a package and move it to the pool."""
        (key or self.key).sign_package(rpm)
        package = read_package(rpm)
        (self.folder / "Packages").mkdir(parents=True, exist_ok=True)
        shutil.move(rpm, self.folder / "Packages" / package.filename)
        return dataclasses.replace(package, path=package.filename)

    def stage(self, *packages: Package, key: Key | None = None) -> str:
        """Stage a snapshot with exactly these packages; returns its id. No mirrorlist names it yet."""
        self.revision += 1
        snapshots = self.folder / "snapshots"
        snapshot = snapshots / "next"
        snapshot.mkdir(parents=True)
        (snapshot / "Packages").symlink_to("../../Packages")
        (self.work / "list").write_text("".join(f"Packages/{p.filename}\n" for p in packages))
        options = ("--quiet", "--no-database", "--general-compress-type=gz", f"--revision={self.revision}")
        sh("createrepo_c", *options, f"--pkglist={self.work / 'list'}", snapshot)
        repomd = snapshot / "repodata/repomd.xml"
        (key or self.key).sign_file(repomd)
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(1_790_000_000 + self.revision))
        name = f"{moment}-{sha256_file(repomd)[:8]}"
        snapshot.rename(snapshots / name)
        self.site_files()
        return name

    def publish(self, *packages: Package, key: Key | None = None) -> str:
        """Make a new snapshot with exactly these packages the head; returns its id."""
        name = self.stage(*packages, key=key)
        (self.folder / "mirrorlist").write_text(f"{self.url}/snapshots/{name}/\n")
        (self.folder / "repodata").unlink(missing_ok=True)
        (self.folder / "repodata").symlink_to(f"snapshots/{name}/repodata")
        return name

    def site_files(self) -> None:
        """Write the site's key and .repo file."""
        shutil.copy(self.key.public, self.site.root / KEYS_NAME)
        row = ChannelRow("stable", "fedora/$releasever/$basearch", self.repo_file.name)
        self.repo_file.write_text(row.repo_file(self.site.url, enabled=True))

    def state(self) -> str:
        """A digest of every file and link below the site's root."""
        digest = hashlib.sha256()
        for path in sorted(self.site.root.rglob("*")):
            content = str(path.readlink()) if path.is_symlink() else sha256_file(path) if path.is_file() else ""
            digest.update(f"{path.relative_to(self.site.root)} {content}\n".encode())
        return digest.hexdigest()
