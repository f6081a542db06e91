"""A small signed channel for the client's tests: real rpmbuild, rpmsign, createrepo_c, gpg and nginx.

Its layout is the one of the design: a pool, immutable snapshots, a mirrorlist, a .repo file. Its packages
are made by the real spec; their binary is a shell script.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.loopback_site import Site
from pipeline.records import Package, sha256_file

PROJECT = Path(__file__).parents[2]
FOLDER = "fedora/43/x86_64"

SOURCES = PROJECT / "rpm/systemd"

# What the real binary would need of CUDA and glibc; a shell script needs nothing of it.
REQUIRES = "Requires: systemd >= 255, libcudart.so.13()(64bit), libc.so.6(GLIBC_2.34)(64bit)\n"


def sh(*argv: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in argv],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Key:
    """A throw-away key in a GNUPGHOME of its own: a primary that certifies, a subkey that signs."""

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
    def repo_file(self) -> Path:
        return self.site.root / "mistralrs.repo"

    @property
    def head(self) -> Path:
        return self.folder / (self.folder / "repodata").readlink().parent

    def package(
        self, version: str, flavour: str = "ada", *, key: Key | None = None, post: str = "", script: str = ""
    ) -> Package:
        """Build a package by the real spec, sign it, put it into the pool; ``publish`` makes it known.

        Its binary is a shell ``script``; ``post`` is put before the spec's own %post.
        """
        work = self.work / f"build-{version}-{flavour}"
        (work / "SOURCES").mkdir(parents=True)
        for source in SOURCES.iterdir():
            shutil.copy(source, work / "SOURCES")
        script = f"#!/bin/sh\n{script or f'echo mistralrs {version}'}\n"
        (work / "SOURCES/mistralrs").write_text(script)
        spec = (PROJECT / "rpm/mistralrs.spec").read_text()
        spec = spec.replace("\n%description", f"\n{REQUIRES}\n%description", 1)
        (work / "p.spec").write_text(spec.replace("\n%post\n", f"\n%post\n{post}\n", 1))
        defines = {
            "_topdir": work,
            "_rpmdir": work,
            "_dbpath": work / "db",
            "_build_name_fmt": "out.rpm",
            "dist": ".fc43",
            "mistralrs_version": version,
            "mistralrs_flavour": flavour,
        }
        sh(
            "rpmbuild",
            "-bb",
            *(f"--define={name} {value}" for name, value in defines.items()),
            work / "p.spec",
        )
        (key or self.key).sign_package(work / "out.rpm")
        name = f"mistralrs-{flavour}"
        package = Package(
            name, version, "1.fc43", "x86_64", "", f"{name}-{version}-1.fc43.x86_64.rpm",
            sha256_file(work / "out.rpm"), (work / "out.rpm").stat().st_size,
        )  # fmt: skip
        (self.folder / "Packages").mkdir(parents=True, exist_ok=True)
        shutil.move(work / "out.rpm", self.folder / "Packages" / package.filename)
        return package

    def publish(self, *packages: Package, key: Key | None = None) -> None:
        """Commit a new snapshot with exactly these packages."""
        self.revision += 1
        snapshot = self.folder / "snapshots" / f"{self.revision}"
        snapshot.mkdir(parents=True)
        (snapshot / "Packages").symlink_to("../../Packages")
        (self.work / "list").write_text("".join(f"Packages/{p.filename}\n" for p in packages))
        options = ("--quiet", "--no-database", "--general-compress-type=gz", f"--revision={self.revision}")
        sh("createrepo_c", *options, f"--pkglist={self.work / 'list'}", snapshot)
        (key or self.key).sign_file(snapshot / "repodata/repomd.xml")
        url = f"{self.site.url}/{FOLDER}"
        (self.folder / "mirrorlist").write_text(f"{url}/snapshots/{self.revision}/\n")
        (self.folder / "repodata").unlink(missing_ok=True)
        (self.folder / "repodata").symlink_to(f"snapshots/{self.revision}/repodata")
        shutil.copy(self.key.public, self.site.root / "RPM-GPG-KEY-mistralrs")
        self.repo_file.write_text(
            "[mistralrs]\nname=mistral.rs\nenabled=1\n"
            f"mirrorlist={self.site.url}/fedora/$releasever/$basearch/mirrorlist\n"
            f"gpgcheck=1\nrepo_gpgcheck=1\ngpgkey={self.site.url}/RPM-GPG-KEY-mistralrs\nmetadata_expire=6h\n"
        )
