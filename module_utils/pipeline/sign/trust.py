"""Trust: signatures verified against the trusted keys alone, and the file that holds them.

Rules:

1. The trusted keys are a file of armored public keys, one block for each certificate: of a block with two, rpm 4 reads
   only the first. No keyring, trust database or configuration of the caller is used.
2. A signature is valid if gpgv calls it good, it is by no weak digest (gpgv by itself accepts SHA-1, Fedora's rpm does
   not), and neither it nor its key is expired or revoked.
3. A file that a signature covers is verified here before it is parsed.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..base.errors import PipelineError
from ..base.run import CommandFailed, run
from .strength import WEAK_DIGESTS

KEYS_NAME = "RPM-GPG-KEY-mistralrs"
"""The name of the trusted keys' file on the site."""

CLIENT_KEYS = f"/etc/pki/rpm-gpg/{KEYS_NAME}"
"""Its path on a client, in Fedora's folder for keys. mistralrs-release owns it, and every .repo file names it."""

MEND = (
    "Restore the file from a backup, or publish an older snapshot again: rollback.yml"
    " (docs/operate.md, A damaged snapshot)"
)
WEAK = [word for digest in WEAK_DIGESTS.values() for word in ("--weak-digest", digest)]
"""gpgv's options that refuse signatures by these digests."""

_SIGNATURE = re.compile(r"\nSignature.*?Key (?:ID|Fingerprint):? *([0-9a-fA-F]{16,})", re.DOTALL)
_BLOCK = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*\r?\n(?P<body>[A-Za-z0-9+/=\r\n]+?)"
    rb"(?:=[A-Za-z0-9+/]{4}\r?\n)?-----END PGP PUBLIC KEY BLOCK-----"
)


def read_public_keys(path: Path) -> bytes:
    """The keys of an armored file, in the binary form that gpgv reads."""
    try:
        blocks = [base64.b64decode(found["body"]) for found in _BLOCK.finditer(path.read_bytes())]
    except (OSError, binascii.Error) as error:
        raise PipelineError(
            f"the trusted keys cannot be read: {error}",
            str(path),
            "repo_host.yml makes them with a site's first key. If the signer was lost: docs/keys.md, A lost signer",
        ) from error
    if not blocks:
        raise PipelineError(
            "this is not an armored public key", str(path), "Export one: gpg --armor --export FINGERPRINT"
        )
    return b"".join(blocks)


def list_public_keys(path: Path) -> str:
    """gpg's --with-colons listing of an armored file."""
    return _listed(read_public_keys(path), str(path))


def list_packets(path: Path) -> str:
    """gpg's --list-packets listing of an armored file, for ``strength``."""
    return gpg_output(read_public_keys(path), str(path), "--list-packets")


def read_certificates(path: Path) -> dict[str, str]:
    """The armored certificates of a file by their fingerprints, in its order."""
    read_public_keys(path)  # fails for any other file
    return certificates(path.read_text(), str(path))


def certificates(text: str, where: str) -> dict[str, str]:
    """The armored certificates of a text; none of one without armored public keys."""
    found: dict[str, str] = {}
    for block in _BLOCK.finditer(text.encode()):
        colons = _listed(base64.b64decode(block["body"]), where).splitlines()
        kinds = [line.split(":") for line in colons if line.startswith(("pub:", "sub:", "fpr:"))]
        names = [fields[9] for above, fields in zip([[""], *kinds], kinds, strict=False) if above[0] == "pub"]
        if len(names) != 1:
            raise PipelineError(
                f"a block of this file holds {len(names)} certificates, of which rpm reads only one",
                where,
                "Export each into a block of its own: gpg --armor --export FINGERPRINT >> FILE",
            )
        found[names[0]] = block[0].decode() + "\n"
    return found


def write_certificates(path: Path, certificates: Mapping[str, str]) -> None:
    """Replace the file by these certificates, whole or not at all, with mode 0644."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text("".join(certificates.values()))
    partial.chmod(0o644)
    partial.replace(path)


def _listed(keys: bytes, where: str) -> str:
    return gpg_output(keys, where, "--with-colons", "--show-keys")


def gpg_output(keys: bytes, where: str, *words: str) -> str:
    """The output of gpg, in a home of its own, that reads ``keys``; PipelineError if it cannot."""
    with tempfile.TemporaryDirectory() as home:
        try:
            return run(["gpg", "--homedir", home, "--batch", *words], stdin=keys).stdout
        except CommandFailed as error:
            raise PipelineError(f"gpg cannot read the public keys: {error.what}", where, "Export them again") from error


def signer_of(information: str) -> str:
    """The id of the key that signed a package, from ``rpm -qi``: 16 hex digits, or "" for an unsigned package.

    rpm 4 prints an id and rpm 6 a fingerprint, of which the id is the end.
    """
    above_description = information.partition("\nSource RPM")[0]
    found = _SIGNATURE.search(above_description)
    return found[1][-16:].lower() if found else ""


def verify_detached(data: bytes, signature: bytes, trusted_keys: Path, where: str) -> str:
    """The fingerprint of the trusted key that made the valid ``signature`` of ``data``; else PipelineError.

    ``where`` names the signed file in the error.
    """
    keyring = read_public_keys(trusted_keys)
    with tempfile.TemporaryDirectory() as folder:
        (ring := Path(folder, "keyring.gpg")).write_bytes(keyring)
        (detached := Path(folder, "signature")).write_bytes(signature)
        done = run(
            ["gpgv", "--homedir", folder, *WEAK, "--keyring", ring, "--status-fd", "1", detached, "-"],
            stdin=data,
            accept=range(256),
        )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("[GNUPG:] ")]
    status = {words[1]: words[2:] for words in lines}
    if done.returncode == 0 and "VALIDSIG" in status and "GOODSIG" in status:
        return status["VALIDSIG"][0]
    what, remedy = _refusal(status)
    raise PipelineError(what, where, remedy.format(trusted_keys=trusted_keys))


def _refusal(status: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    digest = status.get("ERRSIG", ("", "", ""))[2]
    if digest.isdecimal() and int(digest) in WEAK_DIGESTS:
        return (
            f"the signature is by {WEAK_DIGESTS[int(digest)]}, which clients refuse",
            "Remove digest-algo from the gpg.conf of the signer's GnuPG home, then publish a new snapshot",
        )
    if "BADSIG" in status:
        return (
            "the signature does not fit the file: one of the two was changed",
            f"Unless a disk failed or somebody changed the tree by hand, treat the host as compromised. {MEND}",
        )
    if {"EXPKEYSIG", "KEYEXPIRED", "EXPSIG"} & set(status):
        return (
            "the signature's key has expired",
            "Publish a new snapshot with a key that is valid: rotate_key.yml",
        )
    if "REVKEYSIG" in status:
        return "the signature's key is revoked", "Publish a new snapshot with a key that is trusted and not revoked"
    if "NO_PUBKEY" in status:
        return (
            "the signature is by a key that is not trusted",
            "Check that {trusted_keys} holds the key of the signer that publishes here",
        )
    return (
        "the file has no readable signature",
        MEND,
    )
