"""The signer's keys: one GnuPG home, a certify-only primary key and a signing subkey.

Rules:

1. A passphrase comes from a file and goes to gpg by a pipe or by that file's name: never in argv.
2. One process at a time works in a home, under a lock, and the agent that it started ends with it.
3. gpg's sockets must have short paths (108 bytes) however deep the home lies: gpg sees the home
   through a short-lived symbolic link.
4. The newest signing subkey that is neither expired nor revoked signs. The primary key's secret need
   not be there; in production it is not.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gnupg

from .errors import PipelineError
from .lock import held
from .records import Record
from .run import ProgramMissing, run

ALGORITHMS: dict[str, dict[str, str | int]] = {
    "rsa4096": {"type": "RSA", "length": 4096},
    "rsa3072": {"type": "RSA", "length": 3072},
    "ed25519": {"type": "EDDSA", "curve": "ed25519"},
}


@dataclass(frozen=True)
class SigningKey(Record):
    """A key that can sign now: fingerprints of the primary key and of the subkey; ``expires`` 0 is never."""

    fingerprint: str
    subkey: str
    uid: str
    expires: int


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

    def signing_keys(self, uid: str = "") -> list[SigningKey]:
        """The signing keys whose secret is here, newest first, expired ones too; only of ``uid`` if given."""
        found: list[tuple[int, SigningKey]] = []
        for primary in self._gpg.list_keys(secret=True):
            if uid and uid not in primary["uids"]:
                continue
            parts: list[dict[str, Any]] = [primary]
            for number, _, fingerprint, *_ in primary["subkeys"]:
                parts.append({**primary["subkey_info"][number], "fingerprint": fingerprint})
            for part in parts:
                revoked = "r" in (part["trust"], primary["trust"])
                # Lower-case letters are what the key itself can do; "#" marks a secret that is not here.
                if "s" not in part["cap"] or part["token"] == "#" or revoked:  # noqa: S105
                    continue
                ends = [int(expires) for expires in (primary["expires"], part["expires"]) if expires]
                label = primary["uids"][0] if primary["uids"] else ""
                key = SigningKey(primary["fingerprint"], part["fingerprint"], label, min(ends, default=0))
                found.append((int(part["date"]), key))
        return [key for _, key in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def signing_key(self, uid: str = "") -> SigningKey:
        """The key that signs; PipelineError without one that is valid."""
        keys = self.signing_keys(uid)
        if not keys:
            raise PipelineError(
                "there is no signing key",
                self.name,
                "Make one with the module signing_key, or import the signing subkey into this GnuPG home",
            )
        now = time.time()
        valid = [key for key in keys if not key.expires or key.expires > now]
        if not valid:
            last = max(keys, key=lambda key: key.expires)
            day = datetime.fromtimestamp(last.expires, UTC)
            raise PipelineError(
                f"the signing key {last.fingerprint} expired on {day:%Y-%m-%d}",
                self.name,
                "Where its primary key is: gpg --quick-set-expire FINGERPRINT 2y, the same with '*' added for"
                " the subkeys; then export the public key to the file that everyone trusts",
            )
        return valid[0]

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


@contextmanager
def opened(home: Path, passphrase_file: Path | None = None) -> Iterator[Keyring]:
    """The keyring of a GnuPG home, for one process at a time; its agent ends with the block."""
    if not home.is_dir():
        raise PipelineError(
            "there is no signing key: this GnuPG home does not exist",
            str(home),
            "Make one with the module signing_key, or import the signing subkey into it",
        )
    with held(home / "pipeline.lock"):
        # Not the caller's TMPDIR: it may be as deep as the home.
        folder = Path(tempfile.mkdtemp(prefix="gpg-", dir="/tmp"))
        short = folder / "h"
        try:
            short.symlink_to(home.resolve())
            yield Keyring(short, str(home), passphrase_file)
        finally:
            run(["gpgconf", "--homedir", short, "--kill", "all"], accept=range(256))
            shutil.rmtree(folder)


@dataclass(frozen=True)
class Ensured:
    """``key`` is None where check mode would make one; ``changes`` says what was, or would be, changed."""

    key: SigningKey | None
    changes: tuple[str, ...]


def ensure(
    home: Path,
    public_key: Path,
    *,
    name: str,
    email: str,
    passphrase_file: Path | None = None,
    algorithm: str = "rsa4096",
    expires: str = "2y",
    check: bool = False,
) -> Ensured:
    """See that ``home`` has a signing key of "name <email>" and that ``public_key`` has its public half.

    An existing key stays as it is; so does a file that holds other keys too, as while one replaces
    another. Raises PipelineError when the only such key is expired.
    """
    uid = f"{name} <{email}>"
    new = (f"{home} with a signing key of {uid}", f"{public_key}")
    if not home.is_dir():
        if check:
            return Ensured(None, new)
        home.mkdir(parents=True, mode=0o700)
    changes: list[str] = []
    if home.stat().st_mode & 0o777 != 0o700:
        changes.append(f"{home} with mode 0700")
        if not check:
            home.chmod(0o700)
    with opened(home, passphrase_file) as keyring:
        if not keyring.signing_keys(uid):
            if check:
                return Ensured(None, new)
            keyring.generate(name, email, algorithm, expires)
            changes.append(new[0])
        key = keyring.signing_key(uid)
        text = keyring.export(key.fingerprint)
    if not public_key.is_file() or text not in public_key.read_text():
        changes.append(new[1])
        if not check:
            public_key.parent.mkdir(parents=True, exist_ok=True)
            partial = public_key.with_name(f".{public_key.name}.new")
            partial.write_text(text)
            partial.chmod(0o644)
            partial.replace(public_key)
    return Ensured(key, tuple(changes))


def gpg_program() -> str:
    """Where gpg is; rpm on some systems looks for it under another name."""
    program = shutil.which("gpg")
    if program is None:
        raise ProgramMissing("gpg")
    return program


def _said(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("gpg:")]
    return " | ".join(lines[-3:]) or "it said nothing"
