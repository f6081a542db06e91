"""Certificates that gpg makes and accepts, and clients refuse: a table of kinds, made by gpg on demand.

A kind is the primary key's algorithm, the subkey's, and gpg's options for each. Three kinds are changed afterwards:
their names are in ``WeakKey``.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

WEAK = ("--allow-weak-digest-algos", "--allow-weak-key-signatures")
SHA1 = (*WEAK, "--cert-digest-algo", "SHA1")
SHA256 = ("--cert-digest-algo", "SHA256")
PAST = ("--faked-system-time", "1500000000")


@dataclass(frozen=True)
class Kind:
    """``refused`` is part of the message, "" for a certificate that clients accept."""

    refused: str
    primary: str = "ed25519"
    subkey: str = "ed25519"
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    expires: str = "5y"


KINDS = {
    "ed25519": Kind(""),
    "rsa2048": Kind("", "rsa2048", "rsa2048"),
    "nistp256": Kind("", "nistp256/ecdsa", "nistp256/ecdsa"),
    "SHA-1 in the user id": Kind('user id "S <s@x>" is signed by SHA1', first=SHA1),
    "SHA-1 in the binding": Kind("the binding of the subkey [0-9A-F]{16} is signed by SHA1", second=SHA1),
    "MD5 in the binding": Kind("signed by MD5", "rsa2048", "rsa2048", second=(*WEAK, "--cert-digest-algo", "MD5")),
    "SHA-1 in the back signature": Kind("the back signature of the subkey [0-9A-F]{16} is by SHA1", second=SHA1),
    "no back signature": Kind("the subkey [0-9A-F]{16} has no back signature"),
    "short primary": Kind("the primary key is RSA with 1024 bits", "rsa1024"),
    "short subkey": Kind("the subkey [0-9A-F]{16} is RSA with 1024 bits", subkey="rsa1024"),
    "DSA": Kind("the subkey [0-9A-F]{16} is DSA", subkey="dsa1024", second=("--cert-digest-algo", "SHA224")),
    "brainpool": Kind("the primary key is on the curve brainpoolP256r1", "brainpoolP256r1/ecdsa"),
    "secp256k1": Kind("the subkey [0-9A-F]{16} is on the curve secp256k1", subkey="secp256k1/ecdsa"),
    "SHA-1 superseded": Kind("", first=(*SHA1, *PAST)),
}


@dataclass(frozen=True)
class WeakKey:
    """A certificate in a GnuPG home of its own, without a passphrase."""

    home: Path

    @classmethod
    def make(cls, home: Path, name: str) -> WeakKey:
        kind, key = KINDS[name], cls(home)
        home.mkdir(mode=0o700)
        key.gpg(*kind.first, "--quick-generate-key", "S <s@x>", kind.primary, "cert", kind.expires)
        if name == "SHA-1 superseded":
            key.gpg(*SHA256, "--quick-set-expire", key.fingerprint, "6y")
        key.gpg(*kind.second, "--quick-add-key", key.fingerprint, kind.subkey, "sign", kind.expires)
        if name == "SHA-1 in the back signature":  # the primary key signs the binding again, by SHA-2
            key.gpg(*SHA256, "--quick-set-expire", key.fingerprint, "4y", "*")
        return key

    def gpg(self, *words: str, stdin: bytes = b"") -> bytes:
        options = ("--batch", "--quiet", "--yes", "--pinentry-mode", "loopback", "--passphrase", "")
        done = subprocess.run(
            ["gpg", "--homedir", self.home, *options, *words], input=stdin, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    @property
    def fingerprint(self) -> str:
        rows = self.gpg("--with-colons", "--list-keys").decode().splitlines()
        return next(row.split(":")[9] for row in rows if row.startswith("fpr:"))

    def public(self, name: str) -> str:
        """The armored public key."""
        return self._armored("--export", name)

    def secret(self, name: str) -> str:
        """The armored secret subkey, as an operator exports it."""
        return self._armored("--export-secret-subkeys", name)

    def _armored(self, verb: str, name: str) -> str:
        data = self.gpg(verb)
        data = without_back_signatures(data) if name == "no back signature" else data
        kind = "PUBLIC KEY BLOCK" if verb == "--export" else "PRIVATE KEY BLOCK"
        done = subprocess.run(["gpg", "--enarmor"], input=data, capture_output=True, check=True).stdout.decode()
        return done.replace("ARMORED FILE", kind).replace('Comment: Use "gpg --dearmor" for unpacking\n', "")

    def stop(self) -> None:
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=True)


def without_back_signatures(data: bytes) -> bytes:
    """A key without its embedded signatures. They stand in the area that the binding's signature does not cover."""
    found, at = b"", 0
    while at < len(data):
        tag = data[at] >> 2 & 15
        size = 1 << (data[at] & 3)
        start = at + 1 + size
        end = start + int.from_bytes(data[at + 1 : start])
        body = data[start:end]
        at = end
        if tag == 2:
            hashed = 6 + int.from_bytes(body[4:6])
            loose = hashed + 2 + int.from_bytes(body[hashed : hashed + 2])
            kept = b"".join(one for one in subpackets(body[hashed + 2 : loose]) if one[-1:] and kind_of(one) != 32)
            body = body[:hashed] + len(kept).to_bytes(2) + kept + body[loose:]
        found += bytes([0x80 | tag << 2 | 1]) + len(body).to_bytes(2) + body
    return found


def subpackets(area: bytes) -> list[bytes]:
    """The subpackets of an area, each with its length."""
    found = []
    while area:
        head = 1 if area[0] < 192 else 2
        length = area[0] if head == 1 else (area[0] - 192 << 8) + area[1] + 192
        found.append(area[: head + length])
        area = area[head + length :]
    return found


def kind_of(subpacket: bytes) -> int:
    head = 1 if subpacket[0] < 192 else 2
    return subpacket[head] & 0x7F
