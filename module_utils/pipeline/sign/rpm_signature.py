"""Sign: from an unsigned package to a copy with the signer's signature.

Rules:

1. The unsigned file never changes. Its signed copy lies in a folder named by the unsigned file's digest, where a second
   run finds it. The copy is valid for as long as its key is trusted, even if another key signs now: a second signature
   would be other bytes under a name that may be published.
2. The signer signs what it made: a file in its own folder ``packages`` or ``release``, where no builder writes.
3. Before signing: the file has the digest of its record, rpm's own digests are good, and it has no signature.
4. After signing: rpm accepts the copy with every digest and signature required and the trusted keys alone.
   `rpmkeys -K` by itself prints "digests OK" and exits 0 for an unsigned package (seen with rpm 4.18).
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.records import Package, sha256_file
from ..base.run import run
from .keyring import Keyring, SigningKey, gpg_program, opened
from .signer import Signer
from .strength import WEAK_DIGESTS

_RECORD = "package.json"
WEAK_SIGNATURE = re.compile(rf"/({'|'.join(WEAK_DIGESTS.values())}) signature", re.IGNORECASE)
OWN = ("packages", "release")
"""The folders below the signer's root where packages are made."""


@dataclass(frozen=True)
class Signed:
    """A signed package; ``changed`` is true if it was signed now, or in check mode would be."""

    changed: bool
    package: Package


def sign_package(package: Package, signer: Signer, *, check: bool = False) -> Signed:
    """The signed copy of ``package`` below the signer's folder ``signed``.

    Raises PipelineError for a missing or expired key, a wrong passphrase, a changed or signed package, and a key that
    is not trusted; then nothing is left behind. With ``check``, a package without a path (not built yet) counts as
    unsigned.
    """
    if check and not package.path:
        return Signed(True, package)
    source = Path(package.path)
    with opened(signer.home, signer.passphrase_file) as keyring:
        folder = signer.root / "signed" / package.sha256[:16]
        done = find_signed(folder, package.filename, signer.trusted_keys)
        if done:
            return Signed(False, done)
        key = keyring.signing_key()
        require_unsigned(source, package.sha256)
        if check:
            return Signed(True, package)
        # Fails here on a wrong passphrase, with a clearer message than rpmsign's.
        keyring.sign(b"", key)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            partial.mkdir(parents=True)
            target = partial / package.filename
            shutil.copyfile(source, target)
            add_signature(target, keyring, key)
            verify_signed(target, signer.trusted_keys)
            target.chmod(0o644)
            signed = dataclasses.replace(
                package,
                path=str(folder / package.filename),
                sha256=sha256_file(target),
                size=target.stat().st_size,
            )
            signed.write(partial / _RECORD)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Signed(True, signed)


def require_own(package: Package, read: Package, signer: Signer) -> None:
    """PipelineError unless this signer made the package, and ``read``, read back from the file, is its record."""
    path = Path(package.path)
    folders = [signer.root / name for name in OWN]
    if path.is_symlink() or path.resolve().parent.parent not in [folder.resolve() for folder in folders]:
        raise PipelineError(
            f"{path.name} is no package that this signer made",
            package.path,
            f"It signs only what it packaged itself, in {folders[0]}. Find out where this comes from",
        )
    if read != package:
        raise PipelineError(
            f"the package is {read.nevra}, SHA-256 {read.sha256}; its record has {package.nevra}, {package.sha256}",
            package.path,
            "Delete its folder, and run again",
        )


def find_signed(folder: Path, filename: str, trusted_keys: Path) -> Package | None:
    """The signed package of an earlier run in ``folder``, if it is intact and its key is still trusted.

    None for one that was signed while this host's clock was ahead: clients refuse signatures from the future.
    """
    if not (folder / _RECORD).is_file():
        return None
    try:
        if (folder / _RECORD).stat().st_mtime > time.time():
            return None
        known = dataclasses.replace(Package.read(folder / _RECORD), path=str(folder / filename))
        if sha256_file(folder / filename) != known.sha256:
            return None
        verify_signed(folder / filename, trusted_keys)
    except (PipelineError, OSError):
        return None
    return known


def require_unsigned(path: Path, sha256: str) -> None:
    """PipelineError unless ``path`` is the package of the digest ``sha256``, intact and unsigned."""
    again = "Build the package again: delete its folder and run again"
    if not path.is_file():
        raise PipelineError("the package to sign does not exist", str(path), "Run again: the signer makes it again")
    actual = sha256_file(path)
    if actual != sha256:
        raise PipelineError(
            f"the package was changed after it was made: its SHA-256 is {actual}, its record says {sha256}",
            str(path),
            again,
        )
    with tempfile.TemporaryDirectory() as database:
        lines = _check(path, Path(database)).splitlines()
    signatures = [line.strip() for line in lines if "signature" in line.lower() and "NOTFOUND" not in line]
    if signatures:
        raise PipelineError(
            f"the package is signed already: {signatures[0]}",
            str(path),
            "Pass the unsigned package that rpm_package built; a published package is never signed again",
        )
    bad = [line.strip() for line in lines if ": BAD" in line]
    if bad or not any(line.endswith("digest: OK") for line in lines):
        output = bad[0] if bad else " | ".join(lines)
        raise PipelineError(f"rpm finds the package damaged: {output}", str(path), again)


def add_signature(path: Path, keyring: Keyring, key: SigningKey) -> None:
    """Sign ``path`` in place with rpmsign, through the open keyring and its gpg-agent."""
    extra = ["--batch", *keyring.unlocked()]
    macros = {
        "__gpg": gpg_program(),  # Debian's default is gpg2, which its gnupg package lacks
        "_openpgp_sign": "gpg",  # rpm 6 also supports sq
        "_gpg_path": str(keyring.home),
        "_gpg_name": f"{key.subkey}!",
        "_gpg_digest_algo": "sha256",  # whatever the home's gpg.conf says
        "_gpg_sign_cmd_extra_args": shlex.join(extra),
    }
    # rpm expands macros in the values, so a % in a path is doubled.
    pairs = [f"{name} {value.replace('%', '%%')}" for name, value in macros.items()]
    defines = [word for pair in pairs for word in ("--define", pair)]
    run(
        ["rpmsign", *defines, "--addsign", path.name],
        cwd=path.parent,
        env={"GNUPGHOME": str(keyring.home)},
        timeout=600,
    )


def verify_signed(path: Path, trusted_keys: Path) -> None:
    """PipelineError unless rpm accepts ``path``, with every check required, by ``trusted_keys`` alone."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder)
        run(["rpmkeys", "--dbpath", database, "--import", trusted_keys.name], cwd=trusted_keys.parent)
        lines = _check(path, database).splitlines()
    signatures = [line for line in lines if "signature" in line.lower() and line.endswith(": OK")]
    bad = [line.strip() for line in lines if any(word in line for word in (": BAD", ": NOKEY", ": NOTTRUSTED"))]
    # rpm 4 accepts these: "Header V4 RSA/SHA1 Signature, key ID …: OK".
    bad += [f"{line.strip()}, but clients refuse this digest" for line in signatures if WEAK_SIGNATURE.search(line)]
    if bad or not signatures:
        raise PipelineError(
            f"rpm does not accept the signature: {' | '.join(bad) or 'none found'}",
            str(path),
            f"Check that {trusted_keys} is the public half of the key that signs",
        )


def _check(path: Path, database: Path) -> str:
    """rpm's verdict on each digest and signature, one a line.

    It runs in the package's folder: rpm repeats the path, whose words would pass for verdicts.
    """
    done = run(
        [
            "rpmkeys",
            "--dbpath",
            database,
            "--define",
            "_pkgverify_level all",
            "--checksig",
            "--verbose",
            path.name,
        ],
        cwd=path.parent,
        accept=(0, 1),
    )
    return done.stdout + done.stderr
