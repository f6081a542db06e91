"""What clients refuse in a certificate although gpg accepts it: weak algorithms, weak self-signatures, lacking ones.

Rules:

1. Fedora's rpm decides by the cryptographic policy of Sequoia, which is stricter than gpg and rpm 4 (tried with rpm 6.1
   and rpm-sequoia 1.10): it imports no certificate whose primary key is weak, and uses no weak subkey.
2. A key is RSA with 2048 bits or more, ECDSA on a NIST curve, or Ed25519. rpm 6 takes DSA with 2048 bits too; Fedora's
   crypto policy does not.
3. The newest self-signature of each user id, of the primary key itself and of the subkey decides, and in it the back
   signature that the subkey makes: all by SHA-2 or SHA-3. An older signature by SHA-1 is superseded.
4. ``gpg --list-packets`` is the source: gpg's listings do not show back signatures. Numbers are those of RFC 9580, 9.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

RSA, ECDSA, EDDSA = 1, 19, 22
ALGORITHMS = {2: "RSA", 3: "RSA", 16: "ElGamal", 17: "DSA", 18: "ECDH", 20: "ElGamal"}
CURVES = {ECDSA: ("nistp256", "nistp384", "nistp521"), EDDSA: ("ed25519",)}
SHORTEST_RSA = 2048  # bits
STRONG = {8, 9, 10, 11, 12, 14}
WEAK_DIGESTS = {1: "MD5", 2: "SHA1", 3: "RIPEMD160"}
CERTIFICATIONS, DIRECT, BINDING, REVOCATION = range(0x10, 0x14), 0x1F, 0x18, 0x30

_PACKET = re.compile(r"^:(?P<kind>[^:]+?) packet:", re.MULTILINE)
_KEY = re.compile(r"\tversion (\d+), algo (\d+), created")
_ID = re.compile(r"\tkeyid: ([0-9A-F]{16})")
_FIRST = re.compile(r"\tpkey\[0\]: \[(\d+) bits\](?: (\S+))?")
_SIGNATURE = re.compile(
    r"packet: algo \d+, keyid ([0-9A-F]{16})\n"
    r"\tversion (\d+), created (\d+), md5len \d+, sigclass 0x([0-9a-f]{2})\n\tdigest algo (\d+)"
)
_BACK = re.compile(
    r"^\t(?:hashed |critical )*subpkt 32 .*\(signature: v\d+, class 0x19, .*digest algo (\d+)\)", re.MULTILINE
)


@dataclass(frozen=True)
class _Signature:
    """A self-signature; ``back`` is the digest's number of the back signature in it, 0 without one."""

    created: int
    kind: int
    version: int
    digest: int
    back: int


@dataclass
class _Part:
    """A key, subkey or user id with its self-signatures. ``weakness`` is that of the key's own algorithm."""

    name: str
    weakness: str = ""
    signatures: list[_Signature] = field(default_factory=list)

    def newest(self, *kinds: int) -> list[_Signature]:
        """The newest signatures of these kinds: several where they were made in the same second."""
        found = [signature for signature in self.signatures if signature.kind in kinds]
        last = max((signature.created for signature in found), default=0)
        return [signature for signature in found if signature.created == last]


def weaknesses(packets: str) -> dict[str, str]:
    """Why clients refuse the keys of a ``gpg --list-packets`` listing, by key id of 16 digits; "" for accepted ones.

    A subkey has the weaknesses of its certificate too.
    """
    found: dict[str, str] = {}
    for certificate in _certificates(packets):
        primary, subkeys = certificate[0], [part for part in certificate[1:] if not part.name.startswith("user id")]
        users = [part for part in certificate if part.name.startswith("user id")]
        above = [_of_primary(primary), *(_of_user(user) for user in users)]
        found[primary.name] = "; ".join(filter(None, above))
        for subkey in subkeys:
            found[subkey.name] = "; ".join(filter(None, [*above, _of_subkey(subkey)]))
    return found


def _of_primary(primary: _Part) -> str:
    signed = [_of_signature(one, "the self-signature of the primary key") for one in primary.newest(DIRECT)]
    return "; ".join(filter(None, [f"the primary key is {primary.weakness}" if primary.weakness else "", *signed]))


def _of_user(user: _Part) -> str:
    """The weakness of a user id. A revoked one does not count, and gpg imports none without a self-signature."""
    newest = [one for one in user.newest(*CERTIFICATIONS, REVOCATION) if one.kind != REVOCATION]
    return next(filter(None, (_of_signature(one, user.name) for one in newest)), "")


def _of_subkey(subkey: _Part) -> str:
    name = f"the subkey {subkey.name}"
    if subkey.weakness:
        return f"{name} is {subkey.weakness}"
    for binding in subkey.newest(BINDING):
        if weakness := _of_signature(binding, f"the binding of {name}"):
            return weakness
        if not binding.back:
            return f"{name} has no back signature"
        if binding.back not in STRONG:
            return f"the back signature of {name} is by {_digest(binding.back)}"
    return ""


def _of_signature(signature: _Signature, name: str) -> str:
    if signature.version != 4:
        return f"{name} is signed in the old form, version {signature.version}"
    return "" if signature.digest in STRONG else f"{name} is signed by {_digest(signature.digest)}"


def _digest(number: int) -> str:
    return WEAK_DIGESTS.get(number, f"digest algorithm {number}")


def _certificates(packets: str) -> Iterator[list[_Part]]:
    """The parts of each certificate, the primary key first."""
    parts: list[_Part] = []
    for kind, text in _packets(packets):
        if "key" in kind and (found := _ID.search(text)):
            if "sub key" not in kind:
                if parts:
                    yield parts
                parts = []
            parts.append(_Part(found[1], _of_key(text)))
        elif kind in ("user ID", "attribute") and parts:
            parts.append(_Part(f"user id {text.partition(': ')[2].splitlines()[0]}"))
        elif kind == "signature" and parts and (signed := _SIGNATURE.search(text)) and signed[1] == parts[0].name:
            back = [int(one[1]) for one in _BACK.finditer(text)]
            made = _Signature(int(signed[3]), int(signed[4], 16), int(signed[2]), int(signed[5]), min(back, default=0))
            parts[-1].signatures.append(made)
    if parts:
        yield parts


def _packets(listing: str) -> Iterator[tuple[str, str]]:
    """The kind and the text of each packet."""
    starts = list(_PACKET.finditer(listing))
    ends = [*(start.start() for start in starts[1:]), len(listing)]
    for start, end in zip(starts, ends, strict=True):
        yield start["kind"], listing[start.start() : end]


def _of_key(text: str) -> str:
    """The weakness of a key's version, algorithm or size, "" without one."""
    found, first = _KEY.search(text), _FIRST.search(text)
    version, algorithm = (int(found[1]), int(found[2])) if found else (0, 0)
    bits, curve = (int(first[1]), first[2] or "") if first else (0, "")
    if version != 4:
        return f"of version {version}"
    if algorithm == RSA:
        return f"RSA with {bits} bits" if bits < SHORTEST_RSA else ""
    if algorithm in CURVES:
        return "" if curve in CURVES[algorithm] else f"on the curve {curve}"
    return ALGORITHMS.get(algorithm, f"of algorithm {algorithm}")
