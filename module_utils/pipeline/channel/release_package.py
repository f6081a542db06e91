"""The package mistralrs-release: the .repo files and the trusted keys, which clients upgrade like any package.

Rules:

1. It owns the .repo files, of which only stable's is enabled, and one file with all trusted keys, to which they point.
   A client that upgrades has the next key before that key signs anything.
2. Its Provides list the fingerprints of its keys and a digest of its inputs, so that the published metadata alone
   decides if a new one is needed.
3. Its version is the Fedora release, its release number higher than any in a pool. Every channel has the same file.
4. A new one is published when its inputs change, and when the head of a channel is signed by another key than the
   present one: the new snapshot is signed by the present key, before the old one expires.
5. It omits a key that is to be retired (``signatures`` checks that this is possible). Earlier release packages, which
   hold that key, are to be yanked then.
6. The same inputs give the same bytes: its build time is the creation time of its newest key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..base.errors import PipelineError
from ..base.records import Package, digest_of, sha256_file
from ..base.run import CommandFailed
from ..package.rpm import alone, read_package, rpm_errors, run_rpmbuild
from ..sign.keyring import parse_keys
from ..sign.signer import Signer
from ..sign.trust import KEYS_NAME, list_public_keys, read_certificates
from .heads import Memory
from .metadata import read_packages, texts
from .reader import Repository
from .repo_file import ENABLED, ChannelRow
from .signatures import head_signer, require_unused, signing_key

NAME = "mistralrs-release"
SPEC = "mistralrs-release.spec"
TIMEOUT = 300

_CONTENT = re.compile(
    rb'pkgid="YES">([0-9a-f]{64})</checksum>.*?"mistralrs\(release-content\)" flags="EQ" [^>]*?ver="([0-9a-f]{64})"',
    re.DOTALL,
)


@dataclass(frozen=True)
class Contents:
    """All inputs of the package. ``keys`` are armored certificates by fingerprint; for ``time`` see rule 6."""

    fedora: str
    url: str
    rows: tuple[ChannelRow, ...]
    keys: Mapping[str, str]
    time: int
    spec: str

    @property
    def sources(self) -> dict[str, str]:
        """Its files by name."""
        return {KEYS_NAME: "".join(self.keys.values())} | {
            row.repo: row.repo_file(self.url, enabled=row.name == ENABLED) for row in self.rows
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all inputs except the release number."""
        return digest_of([self.fedora, self.url, self.sources, sorted(self.keys), self.time, self.spec])

    def package(self, number: int) -> Package:
        """The package before it is built: without path, digest and size."""
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
class ChannelHead:
    """A channel's head, the key that signed it, and its release packages with the digests of their inputs."""

    name: str
    head: str = ""
    signer: str = ""
    packages: tuple[tuple[Package, str], ...] = ()
    yanked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """The release package that the channels need: to be ``built``, or published already in the channel ``source``.

    ``lacking`` are the channels without it. ``older`` are the file names of earlier ones in the heads, by channel.
    """

    built: bool
    package: Package
    lacking: tuple[str, ...]
    reason: str
    source: str = ""
    older: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# Pure: which package is needed.


def decide(
    wanted: Contents, seen: Sequence[ChannelHead], signing: str, taken: Callable[[str], bool] = lambda _: False
) -> Decision:
    """The package to build or to reuse. ``signing`` is the present key; ``taken`` tests if a pool has a file name."""
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
        reason = f"missing in {', '.join(lacking)}" if lacking else "published"
        return Decision(False, newest, lacking, reason, source, older_than(newest, seen))
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
    return Decision(True, package, tuple(channel.name for channel in seen), reason, "", older_than(package, seen))


def older_than(newest: Package, seen: Iterable[ChannelHead]) -> dict[str, tuple[str, ...]]:
    """The other release packages of the heads, by channel."""
    others = {s.name: tuple(p.filename for p, _ in s.packages if p.filename != newest.filename) for s in seen}
    return {name: filenames for name, filenames in others.items() if filenames}


# Files and programs.


@dataclass(frozen=True)
class Request:
    """The options of the module release_package. ``note`` takes sentences for the operator."""

    rows: tuple[ChannelRow, ...]
    location: str
    url: str
    fedora: str
    signer: Signer
    spec_folder: Path
    without: str = ""
    note: Callable[[str], object] = lambda _: None

    def repositories(self, *, keep: bool) -> dict[str, Repository]:
        """The repository of each channel, with the signer's memory; with ``keep`` the heads are remembered."""
        places = {row.name: f"{self.location.rstrip('/')}/{row.path}" for row in self.rows}
        return {
            name: Repository(place, self.signer.trusted_keys, Memory.of(self.signer, name, place, self.note, keep=keep))
            for name, place in places.items()
        }

    def contents(self) -> Contents:
        """The inputs of the package now."""
        spec = self.spec_folder / SPEC
        if not spec.is_file():
            raise PipelineError(f"{SPEC} is missing", str(spec), "Copy rpm/ of this project there")
        trusted = self.signer.trusted_keys
        keys = {name: text for name, text in read_certificates(trusted).items() if name != self.without}
        made = [key.created for key in parse_keys(list_public_keys(trusted)) if key.fingerprint in keys]
        return Contents(self.fedora, self.url.rstrip("/"), self.rows, keys, max(made, default=0), spec.read_text())


def provide(request: Request, *, check: bool = False) -> Decision:
    """The release package that the channels need now, as a file: built, or the published one. It is not published here.

    With ``check`` nothing is built or fetched; without trusted keys, which may not exist yet, nothing is read.
    """
    if check and not request.signer.trusted_keys.is_file():
        return Decision(True, Package(NAME, request.fedora, "1", "noarch", "", "", "", 0), (), "the first")
    repositories = request.repositories(keep=not check)
    if request.without:
        require_unused(request.without, repositories, request.signer, ignore=NAME)
    wanted = request.contents()
    decision = decide(
        wanted,
        [read_published(name, repository) for name, repository in repositories.items()],
        signing_key(request.signer.home).subkey,
        lambda filename: any(repository.has(filename) for repository in repositories.values()),
    )
    if check:
        return decision
    folder = request.signer.root / "release"
    if decision.built:
        package = build(wanted, int(decision.package.release), folder, request.spec_folder)
    else:
        package = fetch(decision.package, repositories[decision.source], folder)
    return replace(decision, package=package)


def read_published(name: str, repository: Repository) -> ChannelHead:
    """The verified head of a channel and its release packages."""
    state = repository.head_state()
    if not state.id:
        return ChannelHead(name, yanked=state.yanked)
    packed = repository.packed(state, "primary")
    digests = {
        found[1].decode(): found[2].decode()
        for block, _ in texts("primary", packed)
        for text in block.split(b"</package>\n")
        if b"<name>mistralrs-release</name>" in text and (found := _CONTENT.search(text))
    }
    packages = [(package, digests.get(package.sha256, "")) for package in read_packages(packed) if package.name == NAME]
    return ChannelHead(name, state.id, head_signer(repository, state.id), tuple(packages), state.yanked)


def build(wanted: Contents, number: int, root: Path, spec_folder: Path) -> Package:
    """Build the package below ``root``, unless it is there already for the same inputs."""
    name = wanted.package(number).filename
    folder = root / digest_of([wanted.digest, number])[:16]
    if (folder / name).is_file():
        return read_package(folder / name)
    with alone(root / "rpmbuild") as topdir:
        (topdir / "SOURCES").mkdir()
        for file, text in wanted.sources.items():
            (topdir / "SOURCES" / file).write_text(text)
        try:
            run_rpmbuild(spec_folder / SPEC, topdir, wanted.defines(number), wanted.time, TIMEOUT)
        except CommandFailed as error:
            raise PipelineError(
                f"rpmbuild could not make {NAME}: {rpm_errors(error.stderr or error.stdout)}",
                str(spec_folder / SPEC),
                "Check the path and repo of each row of channels",
            ) from error
        (made,) = (topdir / "RPMS").glob("*/*.rpm")
        folder.mkdir(parents=True, exist_ok=True)
        made.replace(folder / name)
    return read_package(folder / name)


def fetch(package: Package, repository: Repository, root: Path) -> Package:
    """The published ``package`` as a file below ``root``, with the digest of the signed metadata."""
    path = root / package.filename
    if not path.is_file() or sha256_file(path) != package.sha256:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        partial.write_bytes(repository.file(f"Packages/{package.path}"))
        if sha256_file(partial) != package.sha256:
            partial.unlink()
            raise PipelineError(
                "the published package does not have the digest that the signed metadata gives",
                f"{repository.location}/Packages/{package.path}",
                "Somebody changed the tree by hand: status.yml -e deep=true lists all faults",
            )
        partial.replace(path)
    return replace(package, path=str(path))
