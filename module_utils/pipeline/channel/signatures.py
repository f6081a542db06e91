"""Which key signed what in a repository: its head, and each of its packages.

Rules:

1. A package's signer is read from its header alone, the part of the file before the payload.
2. A certificate can be retired when another one signs, and no package of a head is signed by it: such a package could
   not be installed any more. The release package does not count, since the next one replaces it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Package
from ..base.run import run
from ..sign.keyring import SigningKey, opened, parse_keys, short
from ..sign.rotation import require_replaced
from ..sign.signer import Signer
from ..sign.trust import list_public_keys, signer_of, verify_detached
from .metadata import read_packages, texts
from .reader import Repository

_HEADER = re.compile(rb'<rpm:header-range start="\d+" end="(\d+)"/>')


def signing_key(home: Path) -> SigningKey:
    """The key that signs now."""
    with opened(home) as keyring:
        return keyring.signing_key()


def head_signer(repository: Repository, head: str) -> str:
    """The fingerprint of the key that signed a snapshot's metadata."""
    where = f"snapshots/{head}/repodata/repomd.xml"
    data, signature = (repository.file(name) for name in (where, f"{where}.asc"))
    return verify_detached(data, signature, repository.trusted_keys, f"{repository.location}/{where}")


def check_head(channel: str, repository: Repository, home: Path) -> Finding:
    """The head is signed by the key that signs now."""
    check = f"key of {channel}"
    try:
        signing = signing_key(home)
        head = repository.head()
        signer = head_signer(repository, head) if head else signing.subkey
    except PipelineError as error:
        return Finding.bad(check, error.what, "the key that signs", f"{error.where}: {error.remedy}")
    fits = signer == signing.subkey
    return Finding.of(
        check,
        short(signing) if fits else f"an older key, {signer[-16:]}",
        short(signing),
        fits=fits,
        remedy="Run rotate_key.yml: it signs the head by the present key, before the old one expires",
    )


def require_unused(
    fingerprint: str, repositories: Mapping[str, Repository], signer: Signer, *, ignore: Iterable[str] = ()
) -> None:
    """PipelineError unless a certificate can be retired (rule 2); ``ignore`` are names of packages
    that are published again without it.
    """
    with opened(signer.home) as keyring:
        require_replaced(keyring.signing_keys(), fingerprint, str(signer.home))
    keys = parse_keys(list_public_keys(signer.trusted_keys))
    subkeys = [key.subkey for key in keys if key.fingerprint == fingerprint]
    ignored = set(ignore)
    found = [
        f"{channel}: {package.filename}"
        for channel, repository in repositories.items()
        for package in signed_by(repository, subkeys)
        if package.name not in ignored
    ]
    if found:
        raise PipelineError(
            f"{fingerprint} cannot be retired: {len(found)} published packages are signed by it and by no other key",
            ", ".join(found[:5]) + (" ..." if len(found) > 5 else ""),
            "Release them again with a higher package_release and remove these from the channel, or yank them",
        )


def signed_by(repository: Repository, subkeys: Iterable[str]) -> list[Package]:
    """The packages of the head that one of these keys signed; reads the headers of all packages."""
    head = repository.head_state()
    ids = {subkey[-16:].lower() for subkey in subkeys}
    if not head.id or not ids:
        return []
    packed = repository.packed(head, "primary")
    ends = [int(end) for block, _ in texts("primary", packed) for end in _HEADER.findall(block)]
    return [
        package
        for package, end in zip(read_packages(packed), ends, strict=True)
        if package_signer(repository, package, end) in ids
    ]


def package_signer(repository: Repository, package: Package, end: int) -> str:
    """The id of the key that signed a package of the pool; ``end`` is the offset of its header's end."""
    with tempfile.NamedTemporaryFile(suffix=".rpm") as file:
        file.write(repository.file(f"Packages/{package.path}", end))
        file.flush()
        # In its folder: rpm takes quotes and brackets in a path for those of a shell.
        folder, name = Path(file.name).parent, Path(file.name).name
        return signer_of(run(["rpm", "-qpi", "--nosignature", "--nodigest", name], cwd=folder).stdout)
