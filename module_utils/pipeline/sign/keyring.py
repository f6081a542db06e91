"""A GnuPG home with signing keys: which keys it holds, which one signs, and signing with it.

Rules:

1. A passphrase comes from a file and reaches gpg through a pipe or as that file's name, never in argv.
2. One process at a time works in a home, under a lock. The gpg-agent that it starts ends with it.
3. A path of gpg's sockets has at most 108 bytes, however deep the home lies: gpg sees the home through a short-lived
   symbolic link.
4. A home may hold several certificates. Its use-from.json maps a subkey's fingerprint to the time from which it signs,
   in seconds since 1970; null means not yet scheduled, and a subkey without an entry may sign at once. The entry is
   written before the key is imported.
5. Of the keys without a flaw (expired, revoked, dated in the future, or weak by ``strength``) whose time has come, the
   one whose time came last signs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gnupg

from ..base.environment import environment
from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Record
from ..base.run import CommandFailed, ProgramMissing, run
from ..base.text import day, last_words, moment
from .strength import weaknesses

ALGORITHMS: dict[str, dict[str, str | int]] = {
    "rsa4096": {"type": "RSA", "length": 4096},
    "rsa3072": {"type": "RSA", "length": 3072},
    "ed25519": {"type": "EDDSA", "curve": "ed25519"},
}
USE_FROM = "use-from.json"
NO_KEY = (
    "Import the signing subkey from its backup. On a new signer, the module signing_key makes one;"
    " rotate_key.yml replaces one that is lost"
)


@dataclass(frozen=True)
class SigningKey(Record):
    """A key that can sign: the fingerprint of its certificate (of the primary key) and its own.

    ``created``, ``expires`` (0: never) and ``use_from`` are seconds since 1970; for ``use_from`` see rule 4.
    ``weakness`` is why clients refuse it, see ``strength``; "" if they do not.
    """

    fingerprint: str
    subkey: str
    uid: str
    created: int
    expires: int
    use_from: int | None = 0
    weakness: str = ""

    def flaw(self, now: float) -> str:
        """Why the key can neither sign nor verify; "" if it can."""
        if self.expires and self.expires <= now:
            return f"expired on {day(self.expires)}"
        if self.created > now:
            return f"is dated in the future, {moment(self.created)} UTC; it is {moment(now)} UTC here"
        return f"is refused by clients: {self.weakness}" if self.weakness else ""

    def lives(self, now: float) -> bool:
        return not self.flaw(now)

    def may_sign(self, now: float) -> bool:
        return self.lives(now) and self.use_from is not None and self.use_from <= now


# Pure: which key signs.


def present_key(keys: Iterable[SigningKey], now: float) -> SigningKey | None:
    """The key that signs, by rule 5."""
    ready = [key for key in keys if key.may_sign(now)]
    return max(ready, key=lambda key: (max(key.created, key.use_from or 0), key.use_from or 0), default=None)


def next_key(keys: Iterable[SigningKey], now: float) -> SigningKey | None:
    """The key whose time is still to come."""
    waiting = [key for key in keys if key.lives(now) and not key.may_sign(now)]
    return max(waiting, key=lambda key: key.created, default=None)


def parse_keys(colons: str) -> list[SigningKey]:
    """The keys of a ``gpg --with-colons`` listing that can sign, without revoked ones and those whose secret is absent.

    The format is doc/DETAILS of GnuPG: field 12 has the key's own capabilities in lower case, field 15 is "#" where
    the secret is absent.
    """
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
            if "s" in part[11] and "r" not in (part[1], primary[1]) and part[14] != "#":
                ends = [int(end) for end in (primary[6], part[6]) if end]
                found.append(SigningKey(fingerprint, fields[9], uid, int(part[5]), min(ends, default=0)))
            part = []
    return found


def judged(keys: Iterable[SigningKey], packets: str) -> list[SigningKey]:
    """The keys with their weaknesses, by gpg's --list-packets listing of their certificates."""
    weak = weaknesses(packets)
    return [replace(key, weakness=weak.get(key.subkey[-16:], "")) for key in keys]


def whole_fingerprint(text: str) -> str:
    """A certificate's fingerprint as gpg lists it; spaces and lower case are accepted."""
    fingerprint = text.replace(" ", "").upper()
    if not re.fullmatch("[0-9A-F]{40}", fingerprint):
        raise PipelineError("this is not a whole fingerprint", text, "Give all 40 digits: gpg --show-keys FILE")
    return fingerprint


def short(key: SigningKey) -> str:
    """The key's name in messages: the end of the certificate's fingerprint."""
    return f"key {key.fingerprint[-16:]}"


# The home.


class Keyring:
    """A GnuPG home while it is open. ``home`` is the short path that gpg sees, ``name`` the path for messages.

    gpg is called in two ways, hidden here: python-gnupg makes keys and signs, since it passes the passphrase through a
    pipe and reads gpg's status protocol. Everything else is a command run by ``run``: python-gnupg cannot export
    subkeys without their primary key, and ``parse_keys`` reads listings of homes and of armored files alike.
    """

    def __init__(self, home: Path, name: str, passphrase_file: Path | None = None) -> None:
        self.home = home
        self.name = name
        self.passphrase_file = passphrase_file
        self._passphrase = read_passphrase(passphrase_file)
        # Without a passphrase gpg must fail instead of asking for one.
        options = [] if self._passphrase else ["--pinentry-mode", "error"]
        self._gpg = gnupg.GPG(gpgbinary=gpg_program(), gnupghome=str(home), options=options, env=environment())
        self._gpg.encoding = "utf-8"

    def signing_keys(self) -> list[SigningKey]:
        """The keys that can sign and whose secret is here, expired ones included."""
        keys = parse_keys(self.run_gpg("--with-colons", "--list-secret-keys"))
        if not keys:
            return []
        times = self._use_from()
        packets = self.run_gpg("--list-packets", stdin=self.run_gpg("--armor", "--export"))
        return [replace(key, use_from=times.get(key.subkey, 0)) for key in judged(keys, packets)]

    def revoked(self) -> bool:
        """Whether a revoked secret key is here."""
        return bool(re.search("^(?:sec|ssb):r:", self.run_gpg("--with-colons", "--list-secret-keys"), re.MULTILINE))

    def signing_key(self) -> SigningKey:
        """The key that signs; PipelineError without one."""
        now = time.time()
        keys = self.signing_keys()
        if not keys:
            raise PipelineError("there is no signing key", self.name, NO_KEY)
        if key := present_key(keys, now):
            return key
        if waiting := next_key(keys, now):
            until = f"from {day(waiting.use_from)}" if waiting.use_from else "once it is scheduled"
            raise PipelineError(
                f"no signing key is valid; {short(waiting)} signs {until}",
                self.name,
                "To let it sign now: rotate_key.yml -e signing_overlap_days=0",
            )
        last = max(keys, key=lambda key: key.expires)
        raise PipelineError(
            f"the signing key {last.fingerprint} {last.flaw(now)}",
            self.name,
            "Set this host's clock"
            if last.created > now
            else "Run rotate_key.yml: clients accept a new key, but no change of a known one",
        )

    def generate(self, name: str, email: str, algorithm: str, expires: str) -> None:
        """Make a certify-only primary key and a signing subkey; both expire after ``expires``."""
        kind = ALGORITHMS[algorithm]
        fields: dict[str, Any] = {f"key_{field}": value for field, value in kind.items()}
        fields |= {"key_usage": "cert"}
        fields |= {f"subkey_{field}": value for field, value in kind.items()}
        fields |= {"subkey_usage": "sign", "name_real": name, "name_email": email, "expire_date": expires}
        fields |= {"passphrase": self._passphrase} if self._passphrase else {"no_protection": True}
        made = self._gpg.gen_key(self._gpg.gen_key_input(**fields))
        if not made.fingerprint:
            raise PipelineError(f"gpg made no key: {_errors(made.stderr)}", self.name)

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
        raise PipelineError(f"gpg did not sign: {_errors(done.stderr)}", self.name)

    def export(self, fingerprint: str) -> str:
        """The armored public key."""
        return self.run_gpg("--armor", "--export", fingerprint)

    def export_secret(self, fingerprint: str, *, primary: bool) -> str:
        """The armored secret keys, with or without the primary's, under the passphrase that they have here."""
        verb = "--export-secret-keys" if primary else "--export-secret-subkeys"
        return self.run_gpg(*self.unlocked(), "--armor", verb, fingerprint)

    def add(self, armored: str) -> None:
        """Import keys; they keep their passphrase."""
        try:
            self.run_gpg("--import", stdin=armored)
        except CommandFailed as error:
            raise PipelineError(f"gpg did not import the key: {_errors(error.stderr)}", self.name) from error

    def remove(self, fingerprint: str) -> None:
        """Delete a certificate with its secrets."""
        self.run_gpg("--yes", "--delete-secret-and-public-key", fingerprint)

    def use_from(self, subkey: str, epoch: int | None) -> None:
        """Set the time from which a key signs; on the disk when this returns."""
        self._write_use_from({**self._use_from(), subkey: epoch})

    def forget(self, subkeys: Iterable[str]) -> None:
        """Remove these entries of use-from.json."""
        gone = set(subkeys)
        times = self._use_from()
        if gone & set(times):
            self._write_use_from({subkey: epoch for subkey, epoch in times.items() if subkey not in gone})

    def unlocked(self) -> list[str]:
        """gpg's options that supply the passphrase."""
        if self.passphrase_file is None:
            return ["--pinentry-mode", "error"]
        return ["--pinentry-mode", "loopback", "--passphrase-file", str(self.passphrase_file.resolve())]

    def run_gpg(self, *words: str, stdin: str | None = None) -> str:
        """Run a gpg command in this home; its output."""
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
                f"this file does not map keys to the times from which they sign: {error}",
                f"{self.name}/{USE_FROM}",
                'Correct it: {"<fingerprint of the subkey>": <seconds since 1970, or null>}',
            ) from error

    def _write_use_from(self, times: dict[str, int | None]) -> None:
        write_private(self.home / USE_FROM, json.dumps(times, indent=1, sort_keys=True) + "\n")


@contextmanager
def opened(home: Path, passphrase_file: Path | None = None) -> Iterator[Keyring]:
    """The keyring of a GnuPG home, for one process at a time; its gpg-agent ends with the block."""
    if not home.is_dir():
        raise PipelineError("there is no signing key: this GnuPG home does not exist", str(home), NO_KEY)
    with held(home / "pipeline.lock"):
        # Not the caller's TMPDIR, which may be as deep as the home.
        folder = Path(tempfile.mkdtemp(prefix="gpg-", dir="/tmp"))
        short_path = folder / "h"
        try:
            short_path.symlink_to(home.resolve())
            yield Keyring(short_path, str(home), passphrase_file)
        finally:
            run(["gpgconf", "--homedir", short_path, "--kill", "all"], accept=range(256))
            shutil.rmtree(folder)


@contextmanager
def temporary(passphrase_file: Path | None) -> Iterator[Keyring]:
    """The keyring of an empty home that is deleted with the block, in memory where possible: a disk keeps secrets."""
    memory = Path("/dev/shm")  # noqa: S108  mkdtemp makes a private folder there
    place = memory if os.access(memory, os.W_OK | os.X_OK) else Path("/tmp")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="gpg-", dir=place) as folder, opened(Path(folder), passphrase_file) as ring:
        yield ring


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


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all; on the disk when this returns."""
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
    """The path of gpg, for programs that look for it under another name, as some builds of rpm do."""
    program = shutil.which("gpg")
    if program is None:
        raise ProgramMissing("gpg")
    return program


def _errors(stderr: str) -> str:
    """The last lines of gpg's own among its output."""
    return last_words("\n".join(line for line in stderr.splitlines() if line.startswith("gpg:")))
