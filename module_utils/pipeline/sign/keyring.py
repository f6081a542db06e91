"""The signer's keys: a GnuPG home with what signs, a folder with what certifies, the file that everyone trusts.

Rules:

1. A passphrase comes from a file and goes to gpg by a pipe or by that file's name: never in argv.
2. One process at a time works in a home, under a lock, and the agent that it started ends with it.
3. gpg's sockets must have short paths (108 bytes) however deep the home lies: gpg sees the home
   through a short-lived symbolic link.
4. A certificate is a certify-only primary key and a signing subkey. It is made in memory: the primary's secret goes
   to the folder ``primary``, which the operator takes away, and the subkey's to the home. A home that holds a primary
   key too is as good to sign with.
5. A home may hold several certificates. Its use-from.json says from when on a key signs ({subkey: epoch}); null is
   not until that is said, a key that it does not name may sign at once. It is written before the key comes in.
6. Of the keys that are neither expired nor revoked and whose time has come, the one whose time came last signs.
7. A certificate that clients know is never given another subkey, which neither rpm 4 nor dnf5 would take, or another
   date, which dnf5 would not notice (all tried). What is to sign next is a whole new certificate.
8. The file of trusted keys only grows here, but for ``retire``: what the old key signed must stay valid.

A rotation is three steps, each of which may be repeated, or be the last one of a killed run:
``introduce`` makes the next certificate known here; whoever calls makes it known to the clients; ``schedule`` says
from when on it signs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gnupg

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.lock import held
from ..base.records import Record
from ..base.run import CommandFailed, ProgramMissing, run
from .trust import list_public_keys, read_certificates, write_certificates

ALGORITHMS: dict[str, dict[str, str | int]] = {
    "rsa4096": {"type": "RSA", "length": 4096},
    "rsa3072": {"type": "RSA", "length": 3072},
    "ed25519": {"type": "EDDSA", "curve": "ed25519"},
}
DAY = 86400
WARN_DAYS = 60  # before a key ends: an overlap, and as long again to notice
SETTLED_DAYS = 30  # after a switch, in which another run is not meant to begin the next rotation
USE_FROM = "use-from.json"
NO_KEY = (
    "Import the signing subkey from its backup. Where there never was one, the module signing_key makes it;"
    " rotate_key.yml replaces one that is lost"
)


@dataclass(frozen=True)
class SigningKey(Record):
    """A key that can sign: the fingerprint of its certificate (the primary key's) and its own.

    ``created``, ``expires`` (0: never) and ``use_from`` are seconds since 1970; for the last see rule 5.
    """

    fingerprint: str
    subkey: str
    uid: str
    created: int
    expires: int
    use_from: int | None = 0

    def lives(self, now: float) -> bool:
        return not self.expires or self.expires > now

    def may_sign(self, now: float) -> bool:
        return self.lives(now) and self.use_from is not None and self.use_from <= now


@dataclass(frozen=True)
class KeyState(SigningKey):
    """A key and where it stands: it signs now, its secret is in the home, it is in the file of trusted keys."""

    signs_now: bool = False
    secret_here: bool = False
    trusted: bool = False


@dataclass(frozen=True)
class Certificate:
    """A new certificate: its secrets, the subkey's alone and all, and what revokes it, each armored."""

    key: SigningKey
    subkey: str
    secret: str
    revocation: str


# What decides: values in, values out.


def signer_of(keys: Iterable[SigningKey], now: float) -> SigningKey | None:
    """The key that signs, by rule 6."""
    ready = [key for key in keys if key.may_sign(now)]
    return max(ready, key=lambda key: (max(key.created, key.use_from or 0), key.use_from or 0), default=None)


def successor_of(keys: Iterable[SigningKey], now: float) -> SigningKey | None:
    """The key whose time is still to come."""
    waiting = [key for key in keys if key.lives(now) and not key.may_sign(now)]
    return max(waiting, key=lambda key: key.created, default=None)


def parse_keys(colons: str) -> list[SigningKey]:
    """The keys of a ``gpg --with-colons`` listing that can sign: no revoked ones, none whose secret is elsewhere."""
    found: list[SigningKey] = []
    primary: list[str] = []
    part: list[str] = []
    fingerprint = uid = ""
    for line in colons.splitlines():
        fields = line.split(":")
        if fields[0] in ("sec", "pub"):
            primary = part = fields
            uid = ""
        elif fields[0] in ("ssb", "sub"):
            part = fields
        elif fields[0] == "uid" and not uid:
            uid = fields[9].replace("\\x3a", ":")
            found = [replace(key, uid=uid) if key.fingerprint == fingerprint else key for key in found]
        elif fields[0] == "fpr" and part:
            fingerprint = fields[9] if part is primary else fingerprint
            # Small letters are what the key itself can do; "#" marks a secret that is not here.
            if "s" in part[11] and "r" not in (part[1], primary[1]) and part[14] != "#":
                ends = [int(end) for end in (primary[6], part[6]) if end]
                found.append(SigningKey(fingerprint, fields[9], uid, int(part[5]), min(ends, default=0)))
            part = []
    return found


def told(signing: SigningKey | None, successor: SigningKey | None) -> str:
    """Where a rotation stands, for a person."""
    now = f"{short(signing)} signs" if signing else "no key signs"
    if successor is None:
        return f"{now} since {day(signing.use_from)}" if signing and signing.use_from else now
    if successor.use_from is None:
        return f"{now}; {short(successor)} is being brought to the clients"
    return f"{now} until {day(successor.use_from)}, then {short(successor)}"


def check_keys(keys: Sequence[KeyState], now: float) -> list[Finding]:
    """What a doctor says of the keys."""
    signing, successor = signer_of((key for key in keys if key.secret_here), now), successor_of(keys, now)
    rotate = "Run rotate_key.yml"
    if signing is None:
        last = max((key for key in keys if key.secret_here), key=lambda key: key.expires, default=None)
        what = f"{short(last)}, expired on {day(last.expires)}" if last and not last.lives(now) else "none"
        return [
            Finding("signing key", what, "one that can sign", False, f"{rotate}; docs/keys.md says what clients see")
        ]
    ends_soon = bool(signing.expires) and signing.expires < now + WARN_DAYS * DAY and successor is None
    found = [
        Finding(
            "signing key",
            f"{short(signing)}{f', until {day(signing.expires)}' if signing.expires else ''}",
            f"{WARN_DAYS} days more, or a successor",
            not ends_soon,
            f"{rotate} now: clients need the time of the overlap to take the next key" if ends_soon else "",
        )
    ]
    strangers = [short(key) for key in keys if key.secret_here and key.lives(now) and not key.trusted]
    found.append(
        Finding(
            "trusted keys",
            f"without {', '.join(strangers)}" if strangers else f"{len({key.fingerprint for key in keys})}",
            "with every key that signs",
            not strangers,
            f"{rotate}: it puts them into signing_trusted_keys, on the site and on the repo host" if strangers else "",
        )
    )
    if successor:
        begun = successor.use_from is not None
        found.append(
            Finding(
                "rotation", told(signing, successor), "a day from which the next key signs", begun,
                "" if begun else f"{rotate} again: a run was stopped before it was done",
            )
        )  # fmt: skip
    return found


def whole_fingerprint(text: str) -> str:
    """A certificate's fingerprint as gpg lists it, from how a person may write it."""
    fingerprint = text.replace(" ", "").upper()
    if not re.fullmatch("[0-9A-F]{40}", fingerprint):
        raise PipelineError("this is not a whole fingerprint", text, "Give all 40 digits: gpg --show-keys FILE")
    return fingerprint


def short(key: SigningKey) -> str:
    """The key's name for a person: the end of the certificate's fingerprint."""
    return f"key {key.fingerprint[-16:]}"


def day(epoch: float) -> str:
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d}"


# What touches the home.


def read_passphrase(file: Path | None) -> str:
    """The first line of the passphrase's file, as gpg --passphrase-file reads it; "" without a file."""
    if file is None:
        return ""
    try:
        text = (file.read_text().splitlines() or [""])[0]
    except OSError as error:
        raise PipelineError(
            f"the passphrase cannot be read: {error.strerror}", str(file), "Check signing_passphrase_file"
        ) from error
    if not text or text != text.strip():
        raise PipelineError(
            "the passphrase is empty, or begins or ends with a space", str(file), "Put it on the first line"
        )
    return text


class Keyring:
    """A GnuPG home while it is open. ``home`` is the short path that gpg sees."""

    def __init__(self, home: Path, name: str, passphrase_file: Path | None = None) -> None:
        self.home = home
        self.name = name
        self.passphrase_file = passphrase_file
        self._passphrase = read_passphrase(passphrase_file)
        # Without a passphrase nobody is there to be asked for one.
        options = [] if self._passphrase else ["--pinentry-mode", "error"]
        self._gpg = gnupg.GPG(gpgbinary=gpg_program(), gnupghome=str(home), options=options)
        self._gpg.encoding = "utf-8"

    def signing_keys(self) -> list[SigningKey]:
        """The keys that can sign and whose secret is here, expired ones too."""
        keys = parse_keys(self._run("--with-colons", "--list-secret-keys"))
        times = self._use_from()
        return [replace(key, use_from=times.get(key.subkey, 0)) for key in keys]

    def signing_key(self) -> SigningKey:
        """The key that signs; PipelineError without one."""
        now = time.time()
        keys = self.signing_keys()
        if not keys:
            raise PipelineError(
                "there is no signing key",
                self.name,
                NO_KEY,
            )
        if key := signer_of(keys, now):
            return key
        last = max(keys, key=lambda key: key.expires)
        if successor := successor_of(keys, now):
            raise PipelineError(
                f"no signing key is valid: {told(None, successor)}",
                self.name,
                "To let it sign now: rotate_key.yml -e signing_overlap_days=0",
            )
        raise PipelineError(
            f"the signing key {last.fingerprint} expired on {day(last.expires)}",
            self.name,
            "Run rotate_key.yml: clients take a new key, but not a new date of one they know",
        )

    def generate(self, name: str, email: str, algorithm: str, expires: str) -> None:
        """Make a certify-only primary key and a signing subkey, both ending after ``expires``."""
        kind = ALGORITHMS[algorithm]
        fields: dict[str, Any] = {f"key_{field}": value for field, value in kind.items()}
        fields |= {"key_usage": "cert"}
        fields |= {f"subkey_{field}": value for field, value in kind.items()}
        fields |= {"subkey_usage": "sign", "name_real": name, "name_email": email, "expire_date": expires}
        fields |= {"passphrase": self._passphrase} if self._passphrase else {"no_protection": True}
        made = self._gpg.gen_key(self._gpg.gen_key_input(**fields))
        if not made.fingerprint:
            raise PipelineError(f"gpg made no key: {_said(made.stderr)}", self.name)

    def export(self, fingerprint: str) -> str:
        """The armored public key."""
        return str(self._gpg.export_keys(fingerprint))

    def export_secret(self, fingerprint: str, *, primary: bool) -> str:
        """The armored secret keys, with the primary's or without, under the passphrase that they have here."""
        verb = "--export-secret-keys" if primary else "--export-secret-subkeys"
        return self._run(*self.unlocked(), "--armor", verb, fingerprint)

    def add(self, armored: str) -> None:
        """Take keys in; they keep their passphrase."""
        try:
            self._run("--import", stdin=armored)
        except CommandFailed as error:
            raise PipelineError(f"gpg did not take the key: {_said(error.stderr)}", self.name) from error

    def remove(self, fingerprint: str) -> None:
        """Delete a certificate with its secrets."""
        self._run("--yes", "--delete-secret-and-public-key", fingerprint)

    def use_from(self, subkey: str, epoch: int | None) -> None:
        """Say from when on a key signs, durably."""
        self._write_use_from({**self._use_from(), subkey: epoch})

    def forget(self, subkeys: Iterable[str]) -> None:
        """Take entries out of use-from.json."""
        gone = set(subkeys)
        times = self._use_from()
        if gone & set(times):
            self._write_use_from({subkey: epoch for subkey, epoch in times.items() if subkey not in gone})

    def sign(self, data: bytes, key: SigningKey) -> bytes:
        """A detached, armored signature of ``data``."""
        done = self._gpg.sign(
            data,
            passphrase=self._passphrase or None,
            clearsign=False,
            detach=True,
            extra_args=["--local-user", f"{key.subkey}!"],
        )
        if done.fingerprint and done.data:
            return bytes(done.data)
        if "Bad passphrase" in done.stderr:
            raise PipelineError(
                f"the passphrase is not that of the signing key {key.fingerprint}",
                str(self.passphrase_file),
                "Put the key's passphrase on the first line of this file",
            )
        if not self._passphrase and "pinentry" in done.stderr.lower():
            raise PipelineError(
                f"the signing key {key.fingerprint} needs a passphrase",
                self.name,
                "Set signing_passphrase_file to a file that holds it",
            )
        raise PipelineError(f"gpg did not sign: {_said(done.stderr)}", self.name)

    def unlocked(self) -> list[str]:
        """gpg's options that answer for the passphrase."""
        if self.passphrase_file is None:
            return ["--pinentry-mode", "error"]
        return ["--pinentry-mode", "loopback", "--passphrase-file", str(self.passphrase_file.resolve())]

    def _run(self, *words: str, stdin: str | None = None) -> str:
        return run([gpg_program(), "--homedir", self.home, "--batch", *words], stdin=stdin).stdout

    def _use_from(self) -> dict[str, int | None]:
        file = self.home / USE_FROM
        try:
            times = json.loads(file.read_text())
            return {str(subkey): None if epoch is None else int(epoch) for subkey, epoch in times.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError) as error:
            raise PipelineError(
                f"this file does not say from when on keys sign: {error}",
                f"{self.name}/{USE_FROM}",
                'Correct it: {"<fingerprint of the subkey>": <seconds since 1970, or null>}',
            ) from error

    def _write_use_from(self, times: dict[str, int | None]) -> None:
        _write(self.home / USE_FROM, json.dumps(times, indent=1, sort_keys=True) + "\n")


@contextmanager
def opened(home: Path, passphrase_file: Path | None = None) -> Iterator[Keyring]:
    """The keyring of a GnuPG home, for one process at a time; its agent ends with the block."""
    if not home.is_dir():
        raise PipelineError(
            "there is no signing key: this GnuPG home does not exist",
            str(home),
            NO_KEY,
        )
    with held(home / "pipeline.lock"):
        # Not the caller's TMPDIR: it may be as deep as the home.
        folder = Path(tempfile.mkdtemp(prefix="gpg-", dir="/tmp"))
        short_path = folder / "h"
        try:
            short_path.symlink_to(home.resolve())
            yield Keyring(short_path, str(home), passphrase_file)
        finally:
            run(["gpgconf", "--homedir", short_path, "--kill", "all"], accept=range(256))
            shutil.rmtree(folder)


# Making, rotating and retiring keys.


@dataclass(frozen=True)
class Ensured:
    """``key`` is None where check mode would make one; ``changes`` says what was, or would be, changed."""

    key: SigningKey | None
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Rotation:
    """Where a rotation stands; ``changes`` says what was, or would be, changed."""

    signing: SigningKey | None
    successor: SigningKey | None
    changes: tuple[str, ...]

    def __str__(self) -> str:
        return told(self.signing, self.successor)


@dataclass(frozen=True)
class Recipe:
    """What a new certificate is like, and the folder for the primary's secret."""

    name: str
    email: str
    primary: Path
    algorithm: str = "rsa4096"
    expires: str = "2y"


def ensure(
    home: Path,
    trusted_keys: Path,
    *,
    name: str,
    email: str,
    primary: Path | None = None,
    passphrase_file: Path | None = None,
    algorithm: str = "rsa4096",
    expires: str = "2y",
    imported: str = "",
    check: bool = False,
) -> Ensured:
    """See that ``home`` has a signing key and that ``trusted_keys`` holds the public half of each key there.

    An existing key stays as it is. A home without one gets the ``imported`` (an armored secret), or else a new one.
    ``primary`` is by default the folder of that name beside the home. Raises PipelineError when no key is valid, and
    when the key that clients trust is lost: another one must reach them first.
    """
    recipe = Recipe(name, email, primary or home.with_name("primary"), algorithm, expires)
    new = f"{home} with a signing key of {name} <{email}>"
    trusted = read_certificates(trusted_keys) if trusted_keys.is_file() else {}
    changes = _home(home, check)
    if not home.is_dir():
        return Ensured(None, (new, str(trusted_keys)))
    with opened(home, passphrase_file) as keyring:
        if not keyring.signing_keys():
            given = _read(imported, "signing_key_import", passphrase_file) if imported else None
            if trusted and (given is None or given.key.fingerprint not in trusted):
                raise PipelineError(
                    f"the signing key is lost: {', '.join(trusted)} is trusted, and its secret is not in this home",
                    str(home),
                    "Put it back from its backup, or run rotate_key.yml: it brings a new key to the clients",
                )
            if check:
                return Ensured(None, (new, str(trusted_keys)))
            _take(keyring, given or _make(recipe, passphrase_file), None if given else recipe.primary)
            changes.append(new)
        key = keyring.signing_key()
        changes += _trust(keyring, trusted_keys, check)
    return Ensured(key, tuple(changes))


def introduce(
    home: Path,
    trusted_keys: Path,
    *,
    recipe: Recipe,
    passphrase_file: Path | None = None,
    imported: Path | None = None,
    again: bool = False,
    check: bool = False,
) -> Rotation:
    """See that ``home`` and ``trusted_keys`` have the next certificate, made or ``imported``; it does not sign yet.

    Where one waits already, or the last switch was less than SETTLED_DAYS ago (unless ``again``), there is none to
    make. It may sign at once where no other key can.
    """
    new = f"the next signing key of {recipe.name} <{recipe.email}>"
    changes = _home(home, check)
    if not home.is_dir():
        return Rotation(None, None, (new, str(trusted_keys)))
    with opened(home, passphrase_file) as keyring:
        now = time.time()
        keys = keyring.signing_keys()
        signing, successor = signer_of(keys, now), successor_of(keys, now)
        given = _read(_text(imported), str(imported), passphrase_file) if imported else None
        if given and given.key.subkey not in [key.subkey for key in keys]:
            _expect_stranger(given.key, keys, trusted_keys, successor, imported)
            begin = True
        else:
            settled = bool(signing and signing.use_from and now < signing.use_from + SETTLED_DAYS * DAY)
            begin = given is None and successor is None and (again or not settled)
        if begin:
            changes.append(new)
            if check:
                return Rotation(signing, None, (*changes, str(trusted_keys)))
            certificate = given or _make(recipe, passphrase_file)
            _take(keyring, certificate, None if given else recipe.primary, None if signing else int(now))
            keys = keyring.signing_keys()
        changes += _trust(keyring, trusted_keys, check)
    return Rotation(signer_of(keys, time.time()), successor_of(keys, time.time()), tuple(changes))


def schedule(home: Path, *, overlap_days: int, check: bool = False) -> Rotation:
    """Say from when on the next key signs: ``overlap_days`` from now, but a day before the present one ends.

    To be called when clients can have got the key. A day that was said before is only ever made an earlier one.
    """
    with opened(home) as keyring:
        now = time.time()
        keys = keyring.signing_keys()
        signing, successor = signer_of(keys, now), successor_of(keys, now)
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
        return Rotation(signer_of(keys, time.time()), successor_of(keys, time.time()), (change,))


def retire(home: Path, trusted_keys: Path, fingerprint: str, *, check: bool = False) -> Rotation:
    """Take a certificate out of ``home`` and out of the trusted keys; nothing that it signed counts any more.

    Whoever calls has seen that no head of a channel needs it. Raises PipelineError for the key that signs.
    """
    fingerprint = whole_fingerprint(fingerprint)
    with opened(home) as keyring:
        now = time.time()
        trusted = read_certificates(trusted_keys)
        keys = keyring.signing_keys()
        gone = [key.subkey for key in keys if key.fingerprint == fingerprint]
        remaining = [key for key in keys if key.fingerprint != fingerprint]
        signing, successor = signer_of(remaining, now), successor_of(remaining, now)
        require_replaced(keys, fingerprint, str(home))
        changes = [f"{home} without {fingerprint}"] if gone else []
        changes += [f"{trusted_keys} without {fingerprint}"] if fingerprint in trusted else []
        if not check and changes:
            # Out of the home first: what signs is trusted at every moment.
            if gone:
                keyring.remove(fingerprint)
                keyring.forget(gone)
            write_certificates(trusted_keys, {name: text for name, text in trusted.items() if name != fingerprint})
    return Rotation(signing, successor, tuple(changes))


def require_replaced(keys: Iterable[SigningKey], fingerprint: str, where: str) -> None:
    """PipelineError unless another certificate signs."""
    signing = signer_of(keys, time.time())
    if signing is None or signing.fingerprint == fingerprint:
        raise PipelineError(
            f"{fingerprint} cannot be retired: no other key signs",
            where,
            "Run rotate_key.yml first, with -e signing_overlap_days=0 if it is compromised",
        )


def state(home: Path, trusted_keys: Path, now: float | None = None) -> list[KeyState]:
    """Every key that is trusted or can sign here."""
    now = time.time() if now is None else now
    here: list[SigningKey] = []
    if home.is_dir():
        with opened(home) as keyring:
            here = keyring.signing_keys()
    trusted = parse_keys(list_public_keys(trusted_keys)) if trusted_keys.is_file() else []
    signing = signer_of(here, now)
    known = {key.subkey: key for key in (*trusted, *here)}
    return [
        KeyState(
            **asdict(key),
            signs_now=key == signing,
            secret_here=key in here,
            trusted=subkey in [other.subkey for other in trusted],
        )
        for subkey, key in known.items()
    ]


def findings(home: Path, trusted_keys: Path, now: float | None = None) -> list[Finding]:
    """``check_keys`` of what is there; an error is a finding too."""
    now = time.time() if now is None else now
    try:
        return check_keys(state(home, trusted_keys, now), now)
    except PipelineError as error:
        return [Finding("signing key", error.what, "one that can sign", False, f"{error.where}: {error.remedy}")]


def _home(home: Path, check: bool) -> list[str]:
    """See that the folder is there and closed to others."""
    if not home.is_dir():
        if not check:
            home.mkdir(parents=True, mode=0o700)
        return []
    if home.stat().st_mode & 0o777 == 0o700:
        return []
    if not check:
        home.chmod(0o700)
    return [f"{home} with mode 0700"]


@contextmanager
def _temporary(passphrase_file: Path | None) -> Iterator[Keyring]:
    """A home for one moment, in memory where the system has such a place: a disk would remember its secrets."""
    memory = Path("/dev/shm")  # noqa: S108  mkdtemp makes a folder of one's own there
    place = memory if os.access(memory, os.W_OK | os.X_OK) else Path("/tmp")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="gpg-", dir=place) as folder, opened(Path(folder), passphrase_file) as ring:
        yield ring


def _make(recipe: Recipe, passphrase_file: Path | None) -> Certificate:
    with _temporary(passphrase_file) as keyring:
        keyring.generate(recipe.name, recipe.email, recipe.algorithm, recipe.expires)
        (key,) = keyring.signing_keys()
        return Certificate(
            key,
            keyring.export_secret(key.fingerprint, primary=False),
            keyring.export_secret(key.fingerprint, primary=True),
            (keyring.home / "openpgp-revocs.d" / f"{key.fingerprint}.rev").read_text(),
        )


_EXPORT = "Export it where its primary key is: gpg --armor --export-secret-subkeys FINGERPRINT"


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"the next key cannot be read: {error}", str(file), _EXPORT) from error


def _read(text: str, where: str, passphrase_file: Path | None) -> Certificate:
    """A certificate that was made elsewhere; the primary's secret, if it is in the text, stays there."""
    with _temporary(passphrase_file) as keyring:
        try:
            keyring.add(text)
        except PipelineError as error:
            raise PipelineError(error.what, where, _EXPORT) from error
        keys = [key for key in keyring.signing_keys() if key.lives(time.time())]
        if len(keys) != 1:
            raise PipelineError(f"the file holds {len(keys)} keys that can sign, and not one", where, _EXPORT)
        keyring.sign(b"", keys[0])  # the passphrase is that of this key too
        if keys[0].subkey == keys[0].fingerprint:
            raise PipelineError(
                "the primary key of this certificate signs itself", where, "Make one with a signing subkey"
            )
        return Certificate(keys[0], keyring.export_secret(keys[0].fingerprint, primary=False), "", "")


def _expect_stranger(
    key: SigningKey, keys: Sequence[SigningKey], trusted_keys: Path, successor: SigningKey | None, file: Path | None
) -> None:
    if successor:
        raise PipelineError(
            f"a rotation is under way: {told(None, successor)}",
            str(file),
            "Wait for its end, or retire that key first: -e signing_retire=FINGERPRINT",
        )
    known = [*(key.fingerprint for key in keys), *(read_certificates(trusted_keys) if trusted_keys.is_file() else ())]
    if key.fingerprint in known:
        raise PipelineError(
            f"clients know the certificate {key.fingerprint} already, and they take no other subkey of it",
            str(file),
            "Make a new certificate, with a primary key of its own",
        )


def _take(keyring: Keyring, certificate: Certificate, primary: Path | None, use_from: int | None = 0) -> None:
    """Put a new certificate where it belongs. The primary's secret is safe before anything else knows of the key."""
    key = certificate.key
    if primary:
        try:
            primary.mkdir(parents=True, mode=0o700, exist_ok=True)
            primary.chmod(0o700)
            _write(primary / f"{key.fingerprint}.asc", certificate.secret)
            _write(primary / f"{key.fingerprint}.rev", certificate.revocation)
        except OSError as error:
            raise PipelineError(
                f"the primary key cannot be kept: {error.strerror}",
                str(primary),
                "Point signing_primary at a folder that can be written; no key was made",
            ) from error
    if use_from != 0:
        keyring.use_from(key.subkey, use_from)
    keyring.add(certificate.subkey)


def _trust(keyring: Keyring, trusted_keys: Path, check: bool) -> list[str]:
    """See that the trusted keys hold every living key of the home, as it is there."""
    old = read_certificates(trusted_keys) if trusted_keys.is_file() else {}
    living = [key.fingerprint for key in keyring.signing_keys() if key.lives(time.time())]
    new = old | {fingerprint: keyring.export(fingerprint) for fingerprint in living}
    if new == old:
        return []
    if not check:
        write_certificates(trusted_keys, new)
    return [str(trusted_keys)]


def _write(path: Path, text: str) -> None:
    """A file for its owner only, whole or not at all, on the disk when this returns."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def gpg_program() -> str:
    """Where gpg is; rpm on some systems looks for it under another name."""
    program = shutil.which("gpg")
    if program is None:
        raise ProgramMissing("gpg")
    return program


def _said(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("gpg:")]
    return " | ".join(lines[-3:]) or "it said nothing"
