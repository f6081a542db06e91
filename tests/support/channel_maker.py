"""A small signer: keys, tiny signed packages, signed snapshots, uploads.

It is independent of the pipeline's composer, so the publisher agent is tested against the wire format
and not against that code. RSA 2048 keys are fast to generate.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import createrepo_c as cr
from pipeline.base.records import Snapshot, Transaction, sha256_file

SPEC = """
Name: mistralrs-{flavour}
Version: {version}
Release: 1
Summary: A test package
License: MIT
BuildArch: {arch}
%description
{text}
%files
"""


def call(*argv: str | Path, env: dict[str, str] | None = None, stdin: str = "") -> str:
    done = subprocess.run(
        argv, env={**os.environ, **(env or {})}, input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def forged(record: Snapshot, **changes: object) -> Snapshot:
    """The record with other fields, also such as no record can have that is made here."""
    made = copy.copy(record)
    for name, value in changes.items():
        object.__setattr__(made, name, value)
    return made


@dataclass(frozen=True)
class Key:
    """A signing key in a GNUPGHOME of its own; ``public`` is the armored public key."""

    home: Path
    public: Path
    clock: str = ""  # gpg's --faked-system-time

    @classmethod
    def make(cls, folder: Path, *, clock: str = "", expire: str = "never") -> Key:
        folder.mkdir(mode=0o700)
        key = cls(folder, folder / "public.asc", clock)
        key.gpg("--passphrase", "", "--quick-generate-key", "Test <test@localhost>", "rsa2048", "sign", expire)
        key.gpg("--armor", "--output", key.public, "--export")
        return key

    def gpg(self, *words: str | Path) -> None:
        faked = ("--faked-system-time", self.clock) if self.clock else ()
        call("gpg", "--batch", "--yes", "--homedir", self.home, *faked, *words)

    def sign_file(self, path: Path) -> None:
        self.gpg("--armor", "--detach-sign", "--output", path.with_name(f"{path.name}.asc"), path)

    def sign_package(self, path: Path) -> None:
        defines = {"__gpg": "/usr/bin/gpg", "_gpg_name": "test@localhost", "_gpg_path": str(self.home)}
        words = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
        call("rpmsign", "--addsign", *words, path)


def make_package(
    folder: Path,
    version: str,
    *,
    flavour: str = "ada",
    arch: str = "noarch",
    text: str = "",
    key: Key | None = None,
) -> Path:
    """An RPM with no files, of the name mistralrs-<flavour>-<version>-1.<arch>.rpm."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / f"{flavour}-{version}.spec"
    spec.write_text(SPEC.format(flavour=flavour, version=version, arch=arch, text=text or version))
    defines = [word for name in ("_rpmdir", "_builddir", "_topdir") for word in ("--define", f"{name} {folder}")]
    call(
        "rpmbuild",
        "-bb",
        "--target",
        arch,
        "--define",
        "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        *defines,
        spec,
    )
    path = folder / f"mistralrs-{flavour}-{version}-1.{arch}.rpm"
    if key:
        key.sign_package(path)
    return path


# Revisions must increase even between snapshots of the same second.
_LATER = itertools.count()


@dataclass(frozen=True)
class Maker:
    """Composes uploads for one channel, signed with ``key``."""

    folder: Path
    key: Key
    channel: str = "stable"

    def compose(
        self,
        packages: list[Path],
        *,
        parent: Snapshot | None = None,
        before: Sequence[Path] = (),
        new: list[Path] | None = None,
        **changes: object,
    ) -> Transaction:
        """A transaction whose snapshot holds ``packages``; ``before`` are its parent's.

        ``new`` are uploaded, by default those missing from the parent. ``changes`` replace fields of
        the snapshot's record before it is signed.
        """
        transaction = f"{self.channel}-{os.urandom(4).hex()}"
        root = self.folder / transaction
        repodata = root / "snapshot" / "repodata"
        repodata.mkdir(parents=True)
        (root / "Packages").mkdir()
        fresh = [path for path in packages if path not in before]
        for path in fresh if new is None else new:
            shutil.copy2(path, root / "Packages" / path.name)
        now = int(time.time())
        self.write_metadata(repodata, packages, revision=now + next(_LATER))
        lines = sorted((path.name, sha256_file(path)) for path in packages)
        (root / "snapshot/packages.txt").write_text("".join(f"{digest}  {name}\n" for name, digest in lines))
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        record = Snapshot(
            id=f"{stamp}-{sha256_file(repodata / 'repomd.xml')[:8]}",
            channel=self.channel,
            parent=parent.id if parent else "",
            time=now,
            reason="test",
            added=tuple(path.name for path in fresh),
            removed=tuple(path.name for path in before if path not in packages),
            yanked=parent.yanked if parent else (),
        )
        record = forged(record, **changes)
        record.write(root / "snapshot/snapshot.json")
        self.key.sign_file(root / "snapshot/snapshot.json")
        return Transaction(transaction, record, str(root))

    def write_metadata(self, repodata: Path, packages: list[Path], revision: int) -> None:
        """Write a signed repomd.xml and its gzip files."""
        repomd = cr.Repomd()
        repomd.set_revision(str(revision))
        loaded = []
        for path in packages:
            package = cr.package_from_rpm(str(path))
            package.location_href = f"Packages/{path.name}"
            loaded.append(package)
        writers = {"primary": cr.PrimaryXmlFile, "filelists": cr.FilelistsXmlFile, "other": cr.OtherXmlFile}
        for kind, writer in writers.items():
            path = repodata / f"{kind}.xml.gz"
            file = writer(str(path), cr.GZ_COMPRESSION)
            file.set_num_of_pkgs(len(loaded))
            for package in loaded:
                file.add_pkg(package)
            file.close()
            record = cr.RepomdRecord(kind, str(path))
            record.fill(cr.SHA256)
            record.rename_file()
            repomd.set_record(record)
        (repodata / "repomd.xml").write_text(repomd.xml_dump())
        self.key.sign_file(repodata / "repomd.xml")

    def forge_primary(self, transaction: Transaction, old: str, new: str) -> Transaction:
        """Change text in primary.xml; update and sign repomd.xml and the snapshot's record to match."""
        repodata = Path(transaction.folder, "snapshot/repodata")
        (path,) = repodata.glob("*-primary.xml.gz")
        text = gzip.decompress(path.read_bytes()).decode()
        assert old in text
        data = gzip.compress(text.replace(old, new).encode())
        digest = hashlib.sha256(data).hexdigest()
        path.unlink()
        (repodata / f"{digest}-primary.xml.gz").write_bytes(data)
        before, mark, after = (repodata / "repomd.xml").read_text().partition('<data type="primary">')
        after = after.replace(path.name[:64], digest)
        after = re.sub("<size>[0-9]+</size>", f"<size>{len(data)}</size>", after, count=1)
        (repodata / "repomd.xml").write_text(before + mark + after)
        self.key.sign_file(repodata / "repomd.xml")
        return self.change_record(
            transaction, id=f"{transaction.snapshot.id[:-8]}{sha256_file(repodata / 'repomd.xml')[:8]}"
        )

    def change_record(self, transaction: Transaction, **changes: object) -> Transaction:
        """Replace fields of snapshot.json and sign it."""
        record = forged(transaction.snapshot, **changes)
        path = Path(transaction.folder, "snapshot/snapshot.json")
        record.write(path)
        self.key.sign_file(path)
        return replace(transaction, snapshot=record)
