"""The package mistralrs-release: what a client needs to use the channels, upgraded like any other package.

Rules:

1. It owns the .repo files, of which stable's is enabled, and one file with all trusted keys, to which they point. So
   a client that upgrades has the next key before anything is signed by it.
2. It tells the fingerprints of its keys and a digest of all that it is made from in its Provides: the published
   metadata alone says whether a new one is needed.
3. Its version is the Fedora release, its release number higher than any that a channel's pool has. Every channel
   holds the same file.
4. A new one is published when it would be made from anything else, and when the head of a channel is signed by
   another key than the one that signs now: the new snapshot is signed by that, before the old key ends.
5. A key is left out of it (to be retired) only if no other package of a head is signed by it: those could not be
   installed any more. Earlier release packages, which hold that key, are to be yanked then.
6. The same inputs give the same bytes: its time is when the newest of its keys was made.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Package, digest_of, sha256_file
from ..base.run import CommandFailed, run
from ..package.rpm import alone, read_package, rpm_errors, rpmbuild_argv, rpmbuild_environment
from ..sign.keyring import SigningKey, opened, parse_keys, require_replaced, short
from ..sign.trust import list_public_keys, read_certificates, signer_of, verify_detached
from .metadata import read_packages, texts
from .reader import Channel

NAME = "mistralrs-release"
SPEC = "mistralrs-release.spec"
KEY_FILE = "RPM-GPG-KEY-mistralrs"
ENABLED = "stable"
TIMEOUT = 300

_CONTENT = re.compile(
    rb'pkgid="YES">([0-9a-f]{64})</checksum>.*?"mistralrs\(release-content\)" flags="EQ" [^>]*?ver="([0-9a-f]{64})"',
    re.DOTALL,
)
_HEADER = re.compile(rb'<rpm:header-range start="\d+" end="(\d+)"/>')


@dataclass(frozen=True)
class Row:
    """A channel: its name, its path below the URL, the name of its .repo file, how long clients keep metadata."""

    name: str
    path: str
    repo: str
    metadata_expire: str = "6h"

    @classmethod
    def of(cls, name: str, row: Mapping[str, Any]) -> Row:
        """A row of the table of channels, whose other keys are not read."""
        expire = str(row.get("metadata_expire", cls.metadata_expire))
        return cls(name, str(row["path"]), str(row["repo"]), expire)

    def repo_file(self, url: str, key: str = f"file:///etc/pki/rpm-gpg/{KEY_FILE}") -> str:
        """The .repo file for clients that have the package. (That of the site is a template of the role rpm_site.)"""
        return (
            f"[{self.repo.removesuffix('.repo')}]\n"
            f"name=mistral.rs for Fedora, {self.name}\n"
            f"mirrorlist={url}/{self.path}/mirrorlist\n"
            f"enabled={int(self.name == ENABLED)}\n"
            "gpgcheck=1\nrepo_gpgcheck=1\n"
            f"gpgkey={key}\n"
            f"metadata_expire={self.metadata_expire}\n"
        )


@dataclass(frozen=True)
class Contents:
    """All that the package is made from. ``keys`` are armored certificates by fingerprint; ``time`` see rule 6."""

    fedora: str
    url: str
    rows: tuple[Row, ...]
    keys: Mapping[str, str]
    time: int
    spec: str

    @property
    def sources(self) -> dict[str, str]:
        """The files in it, by name."""
        return {KEY_FILE: "".join(self.keys.values())} | {row.repo: row.repo_file(self.url) for row in self.rows}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all but the release number."""
        return digest_of([self.fedora, self.url, self.sources, sorted(self.keys), self.time, self.spec])

    def package(self, number: int) -> Package:
        """The package as far as it is known before it is built."""
        return Package(NAME, self.fedora, str(number), "noarch", "", "", "", 0)

    def defines(self, number: int) -> dict[str, str]:
        """The spec's macros, by name."""
        return {
            "mistralrs_fedora": self.fedora,
            "mistralrs_release": str(number),
            "mistralrs_repos": " ".join(row.repo for row in self.rows),
            "mistralrs_keys": " ".join(self.keys),
            "mistralrs_content": self.digest,
            "mistralrs_url": self.url,
        }


@dataclass(frozen=True)
class Seen:
    """What of this a channel has: its head, the key that signed it, its release packages with their digests."""

    name: str
    head: str = ""
    signer: str = ""
    packages: tuple[tuple[Package, str], ...] = ()
    yanked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """``package`` is to be ``built``, or is published in the channel ``source``; those ``lacking`` it are to get it.

    ``older`` are the file names of earlier ones in the heads, by channel.
    """

    built: bool
    package: Package
    lacking: tuple[str, ...]
    reason: str
    source: str = ""
    older: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# What decides: values in, values out.


def plan(wanted: Contents, seen: Sequence[Seen], signing: str, taken: Callable[[str], bool] = lambda _: False) -> Plan:
    """What is to be done. ``signing`` is the key that signs now; ``taken`` says whether a pool has a file of a name."""
    published = [
        (int(package.release), channel.name, package, digest)
        for channel in seen
        for package, digest in channel.packages
        if package.version == wanted.fedora and package.release.isdigit()
    ]
    highest, source, newest, digest = max(published, key=lambda row: row[0], default=(0, "", None, ""))
    old = [channel.name for channel in seen if channel.head and channel.signer != signing]
    if newest and digest == wanted.digest and not old:
        having = {name for number, name, _, _ in published if number == highest}
        lacking = tuple(channel.name for channel in seen if channel.name not in having)
        reason = f"lacked by {', '.join(lacking)}" if lacking else "published"
        return Plan(False, newest, lacking, reason, source, older_than(newest, seen))
    yanked = {name for channel in seen for name in channel.yanked}
    number = highest + 1
    while (name := wanted.package(number).filename) in yanked or taken(name):
        number += 1
    if newest is None:
        reason = "the first"
    elif digest != wanted.digest:
        reason = "new contents"
    else:
        reason = f"for {', '.join(old)} to be signed by the present key"
    package = wanted.package(number)
    return Plan(True, package, tuple(channel.name for channel in seen), reason, "", older_than(package, seen))


def older_than(newest: Package, seen: Iterable[Seen]) -> dict[str, tuple[str, ...]]:
    """The other release packages of the heads, by channel."""
    others = {s.name: tuple(p.filename for p, _ in s.packages if p.filename != newest.filename) for s in seen}
    return {name: filenames for name, filenames in others.items() if filenames}


# What touches files.


@dataclass(frozen=True)
class Order:
    """What is asked for: see the module release_package, whose options these are."""

    rows: tuple[Row, ...]
    location: str
    url: str
    fedora: str
    home: Path
    trusted_keys: Path
    root: Path
    spec_folder: Path
    without: str = ""

    @property
    def channels(self) -> dict[str, Channel]:
        base = self.location.rstrip("/")
        return {row.name: Channel(f"{base}/{row.path}", self.trusted_keys) for row in self.rows}

    def contents(self) -> Contents:
        """What the package is to be made from, now."""
        spec = self.spec_folder / SPEC
        if not spec.is_file():
            raise PipelineError(f"{SPEC} is missing", str(spec), "Copy rpm/ of this project there")
        keys = {name: text for name, text in read_certificates(self.trusted_keys).items() if name != self.without}
        made = [key.created for key in parse_keys(list_public_keys(self.trusted_keys)) if key.fingerprint in keys]
        return Contents(self.fedora, self.url.rstrip("/"), self.rows, keys, max(made, default=0), spec.read_text())


def provide(order: Order, *, check: bool = False) -> Plan:
    """The release package that the channels need now: built, or the published one as a file. It is not published here.

    With ``check`` nothing is built or fetched; without a trusted key, which may be still to be made, nothing is read.
    """
    if check and not order.trusted_keys.is_file():
        return Plan(True, Package(NAME, order.fedora, "1", "noarch", "", "", "", 0), (), "the first")
    channels = order.channels
    if order.without:
        require_unused(order.without, channels, order.home, order.trusted_keys)
    wanted = order.contents()
    planned = plan(
        wanted,
        [look(name, channel) for name, channel in channels.items()],
        signing_key(order.home).subkey,
        lambda filename: any(channel.has(filename) for channel in channels.values()),
    )
    if check:
        return planned
    if planned.built:
        return replace(planned, package=build(wanted, int(planned.package.release), order.root, order.spec_folder))
    return replace(planned, package=bring(planned.package, channels[planned.source], order.root))


def look(name: str, channel: Channel) -> Seen:
    """What a channel has of this; all of it verified."""
    head = channel.head()
    if not head:
        return Seen(name)
    state = channel.state(head)
    packed = channel.packed(state, "primary")
    digests = {
        found[1].decode(): found[2].decode()
        for block, _ in texts("primary", packed)
        for text in block.split(b"</package>\n")
        if b"<name>mistralrs-release</name>" in text and (found := _CONTENT.search(text))
    }
    packages = [(package, digests.get(package.sha256, "")) for package in read_packages(packed) if package.name == NAME]
    return Seen(name, head, head_signer(channel, head), tuple(packages), state.record.yanked)


def head_signer(channel: Channel, head: str) -> str:
    """The key by which a snapshot's metadata is signed."""
    where = f"snapshots/{head}/repodata/repomd.xml"
    data, signature = (channel.file(name) for name in (where, f"{where}.asc"))
    return verify_detached(data, signature, channel.key, f"{channel.location}/{where}")


def check_head(name: str, channel: Channel, home: Path) -> Finding:
    """What a doctor says of the key by which a channel's head is signed."""
    try:
        signing = signing_key(home)
        head = channel.head()
        signer = head_signer(channel, head) if head else signing.subkey
    except PipelineError as error:
        return Finding(f"key of {name}", error.what, "the key that signs", False, f"{error.where}: {error.remedy}")
    fits = signer == signing.subkey
    return Finding(
        f"key of {name}", short(signing) if fits else f"an older key, {signer[-16:]}", short(signing), fits,
        "" if fits else "Run rotate_key.yml: it has the head signed by the present key, before the old one ends",
    )  # fmt: skip


def require_unused(fingerprint: str, channels: Mapping[str, Channel], home: Path, trusted_keys: Path) -> None:
    """PipelineError if a certificate signs now, or signed a package of a channel's head (rule 5)."""
    with opened(home) as keyring:
        require_replaced(keyring.signing_keys(), fingerprint, str(home))
    subkeys = [key.subkey for key in parse_keys(list_public_keys(trusted_keys)) if key.fingerprint == fingerprint]
    found = [
        f"{name}: {package.filename}"
        for name, channel in channels.items()
        for package in signed_by(channel, subkeys)
        if package.name != NAME  # the next one takes its place
    ]
    if found:
        raise PipelineError(
            f"{fingerprint} cannot be retired: {len(found)} published packages are signed by it and by no other key",
            ", ".join(found[:5]) + (" ..." if len(found) > 5 else ""),
            "Release them anew with a higher package_release and take these out of the channel, or yank them",
        )


def signed_by(channel: Channel, subkeys: Iterable[str]) -> list[Package]:
    """The packages of a channel's head that one of these keys signed; reads the headers of all, and no more."""
    head = channel.head()
    ids = {subkey[-16:].lower() for subkey in subkeys}
    if not head or not ids:
        return []
    packed = channel.packed(channel.state(head), "primary")
    ends = [int(end) for block, _ in texts("primary", packed) for end in _HEADER.findall(block)]
    return [
        package
        for package, end in zip(read_packages(packed), ends, strict=True)
        if package_signer(channel, package, end) in ids
    ]


def package_signer(channel: Channel, package: Package, end: int) -> str:
    """The id of the key by which a package of the pool is signed; ``end`` is where its header ends."""
    with tempfile.NamedTemporaryFile(suffix=".rpm") as file:
        file.write(channel.file(f"Packages/{package.path}", end))
        file.flush()
        return signer_of(run(["rpm", "-qpi", "--nosignature", "--nodigest", file.name]).stdout)


def build(wanted: Contents, number: int, root: Path, spec_folder: Path) -> Package:
    """Build the package below ``root``/release; one that is there already for the same inputs is not built again."""
    name = wanted.package(number).filename
    folder = root / "release" / digest_of([wanted.digest, number])[:16]
    if (folder / name).is_file():
        return read_package(folder / name)
    with alone(root / "release" / "rpmbuild") as topdir:
        (topdir / "SOURCES").mkdir()
        for file, text in wanted.sources.items():
            (topdir / "SOURCES" / file).write_text(text)
        argv = rpmbuild_argv(spec_folder / SPEC, topdir, wanted.defines(number))
        try:
            run(argv, cwd=topdir, env=rpmbuild_environment(topdir, wanted.time), timeout=TIMEOUT)
        except CommandFailed as error:
            raise PipelineError(
                f"rpmbuild could not make {NAME}: {rpm_errors(error.stderr or error.stdout)}",
                str(spec_folder / SPEC),
                "See that no row of channels has an unfit path or repo",
            ) from error
        (made,) = (topdir / "RPMS").glob("*/*.rpm")
        folder.mkdir(parents=True, exist_ok=True)
        made.replace(folder / name)
    return read_package(folder / name)


def bring(package: Package, channel: Channel, root: Path) -> Package:
    """The published ``package`` as a file below ``root``/release, as the signed metadata describes it."""
    path = root / "release" / package.filename
    if not path.is_file() or sha256_file(path) != package.sha256:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        partial.write_bytes(channel.file(f"Packages/{package.path}"))
        if sha256_file(partial) != package.sha256:
            partial.unlink()
            raise PipelineError(
                "the published package does not have the digest that the signed metadata gives",
                f"{channel.location}/Packages/{package.path}",
                "Somebody changed the tree by hand: status.yml -e deep=true says what else is wrong",
            )
        partial.replace(path)
    return replace(package, path=str(path))


def signing_key(home: Path) -> SigningKey:
    """The key that signs now."""
    with opened(home) as keyring:
        return keyring.signing_key()
