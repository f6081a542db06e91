"""The life of a signing key: made, imported, replaced, retired.

Rules:

1. A certificate is a certify-only primary key and a signing subkey. It is made in memory: the primary's secret goes to
   the folder ``primary``, which the operator takes offline, and the subkey's to the home. A home that also holds the
   primary's secret signs as well.
2. A certificate that clients know never gets another subkey, which rpm 4 and dnf5 reject, or another expiry date, which
   dnf5 ignores (all tried). The next key is always a whole new certificate.
3. The file of trusted keys only grows, except in ``retire``: packages signed by the old key must stay valid.

A rotation has three steps. Each can be repeated, and a run killed after any of them is continued by the next run:
``introduce`` adds the next certificate to the home and the trusted keys; the caller distributes the trusted keys to the
clients; ``schedule`` sets the time from which the next key signs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.text import day
from .keyring import (
    Keyring,
    SigningKey,
    next_key,
    opened,
    present_key,
    short,
    temporary,
    whole_fingerprint,
    write_private,
)
from .signer import Signer
from .trust import read_certificates, write_certificates

DAY = 86400
SETTLED_DAYS = 30
"""After a switch, how long a further run counts as a repetition and not as the next rotation."""
_EXPORT = "Export it on the host of its primary key: gpg --armor --export-secret-subkeys FINGERPRINT"
_MAKE = "Make a new certificate with a signing subkey, RSA 4096 or Ed25519; docs/keys.md, Make the key elsewhere"


@dataclass(frozen=True)
class Rotation:
    """The state of a rotation; ``changes`` lists what changed, or in check mode would change.

    ``signing`` is None where no key signs, ``successor`` where none waits.
    """

    signing: SigningKey | None
    successor: SigningKey | None
    changes: tuple[str, ...]

    def __str__(self) -> str:
        return describe(self.signing, self.successor)


@dataclass(frozen=True)
class Recipe:
    """The properties of a new certificate, and the folder for the primary's secret."""

    name: str
    email: str
    primary: Path
    algorithm: str = "rsa4096"
    expires: str = "2y"


@dataclass(frozen=True)
class Certificate:
    """A new certificate, armored: the subkey's secret alone, all secrets, and the revocation certificate."""

    key: SigningKey
    subkey: str
    secret: str
    revocation: str


def describe(signing: SigningKey | None, successor: SigningKey | None) -> str:
    """The state of a rotation in one sentence."""
    now = f"{short(signing)} signs" if signing else "no key signs"
    if successor is None:
        return f"{now} since {day(signing.use_from)}" if signing and signing.use_from else now
    if successor.use_from is None:
        return f"{now}; {short(successor)} is being distributed to the clients"
    return f"{now} until {day(successor.use_from)}, then {short(successor)}"


def ensure(signer: Signer, recipe: Recipe, *, imported: str = "", check: bool = False) -> Rotation:
    """Ensure that the home has a signing key and that the trusted keys hold the public half of each key there.

    An existing key never changes. An empty home gets the ``imported`` key (an armored secret), or else a new one.
    Raises PipelineError where no key is valid, and where a trusted key's secret is lost: another key must reach the
    clients first.
    """
    new = f"{signer.home} with a signing key of {recipe.name} <{recipe.email}>"
    trusted = read_certificates(signer.trusted_keys) if signer.trusted_keys.is_file() else {}
    changes = _ensure_home(signer.home, check)
    if not signer.home.is_dir():
        return Rotation(None, None, (new, str(signer.trusted_keys)))
    with opened(signer.home, signer.passphrase_file) as keyring:
        if not keyring.signing_keys():
            given = _read(imported, "signing_key_import", signer.passphrase_file) if imported else None
            if trusted and (given is None or given.key.fingerprint not in trusted):
                raise PipelineError(
                    f"the signing key is lost: {', '.join(trusted)} is trusted, and its secret is not in this home",
                    str(signer.home),
                    "Restore it from its backup. Without one, replace it: docs/keys.md, A lost signer",
                )
            if check:
                return Rotation(None, None, (new, str(signer.trusted_keys)))
            _add(keyring, given or _make(recipe, signer.passphrase_file), None if given else recipe.primary)
            changes.append(new)
        key = keyring.signing_key()
        changes += _trust(keyring, signer.trusted_keys, check)
    return Rotation(key, None, tuple(changes))


def introduce(
    signer: Signer, recipe: Recipe, *, imported: Path | None = None, again: bool = False, check: bool = False
) -> Rotation:
    """Ensure that the home and the trusted keys have the next certificate, made or ``imported``; it does not sign yet.

    Nothing is made where a next key waits already, or where the last switch was less than SETTLED_DAYS ago (unless
    ``again``). The new key signs at once where no other can. A signer without keys and without trusted keys has nothing
    to replace: the key that it would make has signed nothing that clients have.
    """
    if not signer.trusted_keys.is_file() and not _has_keys(signer.home):
        raise PipelineError(
            "this signer has no key and no trusted keys, so a rotation has nothing to replace",
            str(signer.trusted_keys),
            "A new site gets its first key by repo_host.yml. If the signer was lost, begin with the keys that clients"
            " have: docs/keys.md, A lost signer",
        )
    new = f"the next signing key of {recipe.name} <{recipe.email}>"
    changes = _ensure_home(signer.home, check)
    if not signer.home.is_dir():
        return Rotation(None, None, (new, str(signer.trusted_keys)))
    with opened(signer.home, signer.passphrase_file) as keyring:
        now = time.time()
        keys = keyring.signing_keys()
        signing, successor = present_key(keys, now), next_key(keys, now)
        given = _read(_text(imported), str(imported), signer.passphrase_file) if imported else None
        if given and given.key.subkey not in [key.subkey for key in keys]:
            _require_unknown(given.key, keys, signer.trusted_keys, successor, imported)
            begin = True
        else:
            settled = bool(signing and signing.use_from and now < signing.use_from + SETTLED_DAYS * DAY)
            begin = given is None and successor is None and (again or not settled)
        if begin:
            changes.append(new)
            if check:
                return Rotation(signing, None, (*changes, str(signer.trusted_keys)))
            certificate = given or _make(recipe, signer.passphrase_file)
            _add(keyring, certificate, None if given else recipe.primary, None if signing else int(now))
            keys = keyring.signing_keys()
        changes += _trust(keyring, signer.trusted_keys, check)
    return Rotation(present_key(keys, time.time()), next_key(keys, time.time()), tuple(changes))


def schedule(signer: Signer, *, overlap_days: int, check: bool = False) -> Rotation:
    """Set the time from which the next key signs: ``overlap_days`` from now, but a day before the present key expires.

    To be called when clients can have the key. A scheduled time is only ever moved to an earlier one.
    """
    with opened(signer.home) as keyring:
        now = time.time()
        keys = keyring.signing_keys()
        signing, successor = present_key(keys, now), next_key(keys, now)
        if successor is None:
            return Rotation(signing, None, ())
        begin = int(now) + overlap_days * DAY
        if signing is None:
            begin = int(now)
        elif signing.expires:
            begin = max(int(now), min(begin, signing.expires - DAY))
        if successor.use_from is not None and successor.use_from <= begin:
            return Rotation(signing, successor, ())
        if not check:
            keyring.use_from(successor.subkey, begin)
            keys = keyring.signing_keys()
        change = f"{short(successor)} signs from {day(begin)}"
        return Rotation(present_key(keys, time.time()), next_key(keys, time.time()), (change,))


def retire(signer: Signer, fingerprint: str, *, check: bool = False) -> Rotation:
    """Remove a certificate from the home and from the trusted keys; its signatures are invalid from then on.

    The caller has checked that no head of a repository needs it. Raises PipelineError for the key that signs.
    """
    fingerprint = whole_fingerprint(fingerprint)
    home, trusted_keys = signer.home, signer.trusted_keys
    with opened(home) as keyring:
        now = time.time()
        trusted = read_certificates(trusted_keys)
        keys = keyring.signing_keys()
        gone = [key.subkey for key in keys if key.fingerprint == fingerprint]
        remaining = [key for key in keys if key.fingerprint != fingerprint]
        signing, successor = present_key(remaining, now), next_key(remaining, now)
        require_replaced(keys, fingerprint, str(home))
        changes = [f"{home} without {fingerprint}"] if gone else []
        changes += [f"{trusted_keys} without {fingerprint}"] if fingerprint in trusted else []
        if not check and changes:
            # The home first: at every moment the key that signs is a trusted one.
            if gone:
                keyring.remove(fingerprint)
                keyring.forget(gone)
            write_certificates(trusted_keys, {name: text for name, text in trusted.items() if name != fingerprint})
    return Rotation(signing, successor, tuple(changes))


def require_replaced(keys: Iterable[SigningKey], fingerprint: str, where: str) -> None:
    """PipelineError unless another certificate signs."""
    signing = present_key(keys, time.time())
    if signing is None or signing.fingerprint == fingerprint:
        raise PipelineError(
            f"{fingerprint} cannot be retired: no other key signs",
            where,
            "Run rotate_key.yml first, with -e signing_overlap_days=0 if it is compromised",
        )


def _has_keys(home: Path) -> bool:
    """Whether the home has a key that can sign, or could before it expired."""
    if not home.is_dir():
        return False
    with opened(home) as keyring:
        return bool(keyring.signing_keys())


def _ensure_home(home: Path, check: bool) -> list[str]:
    """Ensure that the folder exists with mode 0700; the change of an existing one's mode."""
    if not home.is_dir():
        if not check:
            home.mkdir(parents=True, mode=0o700)
        return []
    if home.stat().st_mode & 0o777 == 0o700:
        return []
    if not check:
        home.chmod(0o700)
    return [f"{home} with mode 0700"]


def _make(recipe: Recipe, passphrase_file: Path | None) -> Certificate:
    with temporary(passphrase_file) as keyring:
        keyring.generate(recipe.name, recipe.email, recipe.algorithm, recipe.expires)
        (key,) = keyring.signing_keys()
        return Certificate(
            key,
            keyring.export_secret(key.fingerprint, primary=False),
            keyring.export_secret(key.fingerprint, primary=True),
            (keyring.home / "openpgp-revocs.d" / f"{key.fingerprint}.rev").read_text(),
        )


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"the next key cannot be read: {error}", str(file), _EXPORT) from error


def _read(text: str, where: str, passphrase_file: Path | None) -> Certificate:
    """A certificate made elsewhere. A primary's secret in the text is not taken over."""
    with temporary(passphrase_file) as keyring:
        try:
            keyring.add(text)
        except PipelineError as error:
            raise PipelineError(error.what, where, _EXPORT) from error
        keys = _usable(keyring, where)
        keyring.sign(b"", keys[0])  # fails unless the passphrase is that of this key
        if keys[0].subkey == keys[0].fingerprint:
            raise PipelineError(
                "the primary key of this certificate signs itself", where, "Make one with a signing subkey"
            )
        return Certificate(keys[0], keyring.export_secret(keys[0].fingerprint, primary=False), "", "")


def _usable(keyring: Keyring, where: str) -> list[SigningKey]:
    """The one key of the keyring that can sign; PipelineError for none, several, or one with a flaw."""
    now, there = time.time(), keyring.signing_keys()
    usable = [key for key in there if key.lives(now)]
    if len(usable) == 1:
        return usable
    if there and not usable:
        flaws = "; ".join(f"{short(key)} {key.flaw(now)}" for key in there)
        raise PipelineError(f"the file holds no key that may sign: {flaws}", where, _MAKE)
    if not there and keyring.revoked():
        raise PipelineError("the file holds no key that may sign: it is revoked", where, _MAKE)
    raise PipelineError(f"the file holds {len(usable)} keys that can sign instead of one", where, _EXPORT)


def _require_unknown(
    key: SigningKey, keys: Sequence[SigningKey], trusted_keys: Path, successor: SigningKey | None, file: Path | None
) -> None:
    """PipelineError for a certificate that clients know, and during a rotation."""
    if successor:
        raise PipelineError(
            f"a rotation is under way: {describe(None, successor)}",
            str(file),
            "Wait for its end, or retire that key first: -e signing_retire=FINGERPRINT",
        )
    known = [*(key.fingerprint for key in keys), *(read_certificates(trusted_keys) if trusted_keys.is_file() else ())]
    if key.fingerprint in known:
        raise PipelineError(
            f"clients know the certificate {key.fingerprint} already, and they accept no other subkey of it",
            str(file),
            "Make a new certificate, with a primary key of its own",
        )


def _add(keyring: Keyring, certificate: Certificate, primary: Path | None, use_from: int | None = 0) -> None:
    """Store a new certificate. The primary's secret is on the disk before the home has the key."""
    key = certificate.key
    if primary:
        try:
            primary.mkdir(parents=True, mode=0o700, exist_ok=True)
            primary.chmod(0o700)
            write_private(primary / f"{key.fingerprint}.asc", certificate.secret)
            write_private(primary / f"{key.fingerprint}.rev", certificate.revocation)
        except OSError as error:
            raise PipelineError(
                f"the primary key cannot be stored: {error.strerror}",
                str(primary),
                "Point signing_primary at a writable folder; no key was made",
            ) from error
    if use_from != 0:
        keyring.use_from(key.subkey, use_from)
    keyring.add(certificate.subkey)


def _trust(keyring: Keyring, trusted_keys: Path, check: bool) -> list[str]:
    """Ensure that the trusted keys hold every valid key of the home in its present form."""
    old = read_certificates(trusted_keys) if trusted_keys.is_file() else {}
    living = [key.fingerprint for key in keyring.signing_keys() if key.lives(time.time())]
    new = old | {fingerprint: keyring.export(fingerprint) for fingerprint in living}
    if new == old:
        return []
    if not check:
        write_certificates(trusted_keys, new)
    return [str(trusted_keys)]
