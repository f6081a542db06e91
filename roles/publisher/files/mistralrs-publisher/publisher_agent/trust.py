"""The trusted keys: every verification of a signature.

gpgv verifies metadata, rpmkeys verifies packages, both with the trusted keys alone. The agent holds no private key.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from .confine import Limits, confined
from .disk import run, sync
from .formats import MAX_SIGNATURE, check_rpm, signature_packet
from .host import Config
from .refusal import Refused

# gpgv accepts signatures by SHA-1, clients with rpm 6 do not.
WEAK = tuple(word for digest in ("SHA1", "RIPEMD160") for word in ("--weak-digest", digest))
PROBE = 1 << 17  # bytes that rpm may need to open its key database
# gpgv hashes one file of metadata; rpm reads a package of at most 4 GiB. Without Landlock rpm writes to its database.
OF_GPGV, OF_RPM = Limits(cpu=10, memory=512 << 20), Limits(cpu=120, memory=1 << 30, file=16 << 20)


class Trust(NamedTuple):
    """The trusted keys in the forms of gpgv and rpm, made once for each content of the key file."""

    keyring: Path
    rpmdb: Path

    @classmethod
    def load(cls, config: Config) -> Trust:
        remedy = "Put the armored public key of the signer there"
        try:
            armored = config.key.read_bytes()
            binary = dearmor(armored.decode("ascii"))
        except (OSError, ValueError) as error:
            raise Refused(f"the trusted key cannot be read: {error}", config.key, remedy) from error
        home = config.root / ".publisher" / ".trust" / hashlib.sha256(armored).hexdigest()[:16]
        if not home.is_dir():
            home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            making = home.parent / f"new-{os.getpid()}"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            try:
                (making / "trusted.gpg").write_bytes(binary)
                (making / "trusted.asc").write_bytes(armored)
                (making / "rpmdb").mkdir()
                done = run("rpmkeys", "--dbpath", making / "rpmdb", "--import", making / "trusted.asc")
                if done.returncode:
                    raise Refused(f"rpm rejects the trusted key: {done.stderr.strip()}", config.key, remedy)
                for path in (*making.rglob("*"), making):
                    sync(path)
                try:
                    making.rename(home)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # a command on another channel was first
                        raise
                sync(home.parent)
            finally:
                shutil.rmtree(making, ignore_errors=True)
        return cls(home / "trusted.gpg", home / "rpmdb")

    def check_signature(self, path: Path) -> None:
        """Refuse a file unless <file>.asc is one good detached signature by a trusted key that has not expired.

        gpgv exits with 0 for an expired key too, so its status lines decide.
        """
        signature = path.with_name(f"{path.name}.asc")
        with signature.open("rb") as stream:
            armored = stream.read(MAX_SIGNATURE + 1)
        try:
            binary = signature_packet(armored)
        except ValueError as error:
            raise Refused(f"this is not a detached armored signature: {error}", signature) from error
        # gpgv reads the packet that was examined, not the armor around it.
        enter = confined(OF_GPGV, read=[self.keyring, path])
        words = ("--status-fd", "1", "--keyring", self.keyring, "-", path)
        done = run("gpgv", *WEAK, *words, stdin=binary, enter=enter)
        lines = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("[GNUPG:] ")]
        verdicts = [word for word in lines if word.endswith("SIG") and word != "NEWSIG"]
        if done.returncode or verdicts != ["GOODSIG", "VALIDSIG"]:
            raise Refused(
                f"this is not one good signature by the trusted key ({', '.join(verdicts) or 'none'})",
                signature,
                "Sign with the key that the repo host trusts (publisher_key), and check that it has not expired",
            )

    def check_package(self, path: Path) -> None:
        """Refuse a package without a good signature by a trusted key, or with another file name than its NEVRA."""
        try:
            with path.open("rb") as stream:
                check_rpm(stream, path.stat().st_size)
        except ValueError as error:
            raise Refused(f"the package cannot be read: {error}", path.name) from error
        enter = confined(OF_RPM, read=[self.rpmdb, path])
        # Without the level, rpmkeys accepts an unsigned package.
        level = ("--define", "_pkgverify_level all")
        # In its folder: rpm takes quotes and brackets in a path for those of a shell.
        done = run("rpmkeys", "--dbpath", self.rpmdb, *level, "--checksig", path.name, enter=enter, cwd=path.parent)
        if done.returncode:
            self.expect_space()
            raise Refused(
                f"the package is not signed by the trusted key: {verdict(done)}",
                path.name,
                "Sign it with the key that the repo host trusts (publisher_key), then compose again",
            )
        query = "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm"
        words = ("--query", "--package", "--queryformat", query, path.name)
        name = run("rpm", "--dbpath", self.rpmdb, *words, enter=enter, cwd=path.parent).stdout
        if name != path.name:
            raise Refused(f"the file is not named after its package, {name}", path.name)

    def expect_space(self) -> None:
        """Raise OSError if the disk is full: rpm then cannot open its key database and blames the signature."""
        probe = self.rpmdb / "probe"
        try:
            probe.write_bytes(bytes(PROBE))
        finally:
            probe.unlink(missing_ok=True)


def verdict(done: subprocess.CompletedProcess[str]) -> str:
    """The reason that rpmkeys gives, or that it exceeded its limits."""
    if done.returncode < 0:
        return f"its verification took more than {OF_RPM.cpu} s or {OF_RPM.memory} bytes of memory"
    return done.stdout.strip().rpartition(": ")[2]


def dearmor(text: str) -> bytes:
    """The binary form of the armored public keys in ``text``; ValueError if there are none."""
    begin, end = (f"-----{word} PGP PUBLIC KEY BLOCK-----" for word in ("BEGIN", "END"))
    headers, checksum = r"\n(?:[^\n]+\n)*\n", r"(?:\n=[\w+/]{4})?\n"
    bodies = re.findall(f"{begin}{headers}(.*?){checksum}{end}", text.replace("\r", ""), re.DOTALL)
    if not bodies:
        raise ValueError("it holds no armored public key")
    try:
        return b"".join(base64.b64decode("".join(body.split()), validate=True) for body in bodies)
    except binascii.Error as error:
        raise ValueError("its armor is damaged") from error
