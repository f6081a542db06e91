"""Whose signature counts: detached signatures, checked against the trusted key and no other.

Rules:

1. The trusted key is a file of armored public keys. No keyring, trust database or configuration of
   the caller takes part.
2. A signature counts when gpgv calls it good and neither it, nor its key, is expired or revoked.
3. Whoever reads a file that is covered by a signature checks it here before looking into it.
"""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from pathlib import Path

from .errors import PipelineError
from .run import run

_BLOCK = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*\r?\n(?P<body>[A-Za-z0-9+/=\r\n]+?)"
    rb"(?:=[A-Za-z0-9+/]{4}\r?\n)?-----END PGP PUBLIC KEY BLOCK-----"
)


def read_public_keys(path: Path) -> bytes:
    """The keys of an armored file in the binary form that gpgv reads."""
    try:
        blocks = [base64.b64decode(found["body"]) for found in _BLOCK.finditer(path.read_bytes())]
    except (OSError, binascii.Error) as error:
        raise PipelineError(
            f"the trusted public key cannot be read: {error}", str(path), "signing_key leaves one there"
        ) from error
    if not blocks:
        raise PipelineError(
            "this is not an armored public key", str(path), "Export one: gpg --armor --export FINGERPRINT"
        )
    return b"".join(blocks)


def verify_detached(data: bytes, signature: bytes, key: Path, where: str) -> None:
    """Return if ``signature`` is a good one of ``data`` by a key in the file ``key``; else PipelineError.

    ``where`` names the signed file in the error.
    """
    keyring = read_public_keys(key)
    with tempfile.TemporaryDirectory() as folder:
        (ring := Path(folder, "keyring.gpg")).write_bytes(keyring)
        (detached := Path(folder, "signature")).write_bytes(signature)
        done = run(
            ["gpgv", "--homedir", folder, "--keyring", ring, "--status-fd", "1", detached, "-"],
            stdin=data,
            accept=range(256),
        )
    status = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("[GNUPG:] ")}
    if done.returncode == 0 and "VALIDSIG" in status and "GOODSIG" in status:
        return
    what, remedy = _refusal(status)
    raise PipelineError(what, where, remedy.format(key=key))


def _refusal(status: set[str]) -> tuple[str, str]:
    if "BADSIG" in status:
        return (
            "the signature does not fit the file: one of the two was changed",
            "Publish a new snapshot; unless somebody changed the tree by hand, take the host for broken into",
        )
    if status & {"EXPKEYSIG", "KEYEXPIRED", "EXPSIG"}:
        return (
            "the signature's key has expired",
            "Extend the key, export it again to {key}, and publish a new snapshot",
        )
    if "REVKEYSIG" in status:
        return "the signature's key is revoked", "Publish a new snapshot with a key that is trusted and not revoked"
    if "NO_PUBKEY" in status:
        return (
            "the signature is by a key that is not trusted",
            "Check that {key} is the public key of the signer that publishes here",
        )
    return "there is no signature that can be checked", "Publish a new snapshot"
