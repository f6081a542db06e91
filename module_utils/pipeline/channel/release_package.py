"""The packages that clients have from every channel: mistralrs-release and mistralrs, made by one spec.

Rules:

1. mistralrs-release owns the .repo files, of which only stable's is enabled, and one file with all trusted keys, to
   which they point. A client that upgrades has the next key before that key signs anything.
2. mistralrs names the package of the flavour that a host's GPU takes, by the flavour table. It requires and provides no
   flavour: the user chooses.
3. Their Provides list a digest of their inputs, and mistralrs-release's the fingerprints of its keys, so that the
   published metadata alone decides if new ones are needed.
4. Their version is the Fedora release, their release number the same, and higher than any in a pool. Every channel has
   the same files, both or none.
5. New ones are published when their inputs change, when one of them was yanked, and when the head of a channel is
   signed by another key than the present one: the new snapshot is signed by the present key, before the old expires.
6. They omit a key that is to be retired (``signatures`` checks that this is possible). Earlier ones, which hold that
   key or are signed by it, are to be yanked then.
7. The same inputs give the same bytes: their build time is the creation time of the newest key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..base.errors import PipelineError
from ..base.flavours import table
from ..base.records import Flavour, Package, digest_of, sha256_file
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
NAMES = (NAME, "mistralrs")
SPEC = "mistralrs-release.spec"
PROGRAM = "mistralrs-which-flavour"
TIMEOUT = 300

_CONTENT = re.compile(
    rb'pkgid="YES">([0-9a-f]{64})</checksum>.*?"mistralrs\(release-content\)" flags="EQ" [^>]*?ver="([0-9a-f]{64})"',
    re.DOTALL,
)


@dataclass(frozen=True)
class Contents:
    """All inputs of the packages. ``keys`` are armored certificates by fingerprint; for ``time`` see rule 7."""

    fedora: str
    url: str
    rows: tuple[ChannelRow, ...]
    keys: Mapping[str, str]
    time: int
    spec: str
    program: str
    flavours: tuple[Flavour, ...]

    @property
    def sources(self) -> dict[str, str]:
        """Their files by name."""
        return {KEYS_NAME: "".join(self.keys.values()), PROGRAM: self.program, "flavours": table(self.flavours)} | {
            row.repo: row.repo_file(self.url, enabled=row.name == ENABLED) for row in self.rows
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all inputs except the release number."""
        return digest_of([self.fedora, self.url, self.sources, sorted(self.keys), self.time, self.spec])

    def packages(self, number: int) -> tuple[Package, ...]:
        """The packages before they are built."""
        return unbuilt(self.fedora, number)

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


def unbuilt(fedora: str, number: int) -> tuple[Package, ...]:
    """The packages of a release number, without path, digest and size."""
    return tuple(Package(name, fedora, str(number), "noarch", "", "", "", 0) for name in NAMES)


@dataclass(frozen=True)
class ChannelHead:
    """A channel's head, the key that signed it, and its packages of ``NAMES`` with the digests of their inputs."""

    name: str
    head: str = ""
    signer: str = ""
    packages: tuple[tuple[Package, str], ...] = ()
    yanked: tuple[str, ...] = ()

    def whole(self, wanted: Contents, number: int) -> tuple[Package, ...]:
        """The packages of this number, if the head has all of them and they have the wanted inputs."""
        names = [package.filename for package in wanted.packages(number)]
        found = {p.filename: p for p, digest in self.packages if digest == wanted.digest and p.filename in names}
        return tuple(found[name] for name in names) if len(found) == len(names) else ()


@dataclass(frozen=True)
class Decision:
    """The packages that the channels need, in the order of ``NAMES``: to be ``built``, or published in ``source``.

    ``lacking`` are the channels without them. ``older`` are the file names of earlier ones in the heads, by channel.
    """

    built: bool
    packages: tuple[Package, ...]
    lacking: tuple[str, ...]
    reason: str
    source: str = ""
    older: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def package(self) -> Package:
        """mistralrs-release, which new clients fetch from the site."""
        return self.packages[0]


# Pure: which packages are needed.


def decide(
    wanted: Contents, seen: Sequence[ChannelHead], signing: str, taken: Callable[[str], bool] = lambda _: False
) -> Decision:
    """The packages to build or to reuse. ``signing`` is the present key; ``taken`` tests if a pool has a file name."""
    numbers = [
        int(package.release)
        for channel in seen
        for package, _ in channel.packages
        if package.version == wanted.fedora and package.release.isdigit()
    ]
    highest = max(numbers, default=0)
    having = {channel.name: found for channel in seen if (found := channel.whole(wanted, highest))}
    lacking = tuple(channel.name for channel in seen if channel.name not in having)
    old = [channel.name for channel in seen if channel.head and channel.signer != signing]
    yanked = {name for channel in seen for name in channel.yanked}
    gone = yanked.intersection(package.filename for package in wanted.packages(highest))
    if having and not old and not gone:
        source, newest = next(iter(having.items()))
        reason = f"missing in {', '.join(lacking)}" if lacking else "published"
        return Decision(False, newest, lacking, reason, source, older_than(newest, seen))
    number = highest + 1
    while any(p.filename in yanked or taken(p.filename) for p in wanted.packages(number)):
        number += 1
    if not highest:
        reason = "the first"
    elif not having:
        reason = "new contents"
    elif gone:
        reason = f"instead of the yanked {', '.join(sorted(gone))}"
    else:
        reason = f"for {', '.join(old)} to be signed by the present key"
    packages = wanted.packages(number)
    return Decision(True, packages, tuple(channel.name for channel in seen), reason, "", older_than(packages, seen))


def older_than(newest: Iterable[Package], seen: Iterable[ChannelHead]) -> dict[str, tuple[str, ...]]:
    """The other packages of these names in the heads, by channel."""
    present = {package.filename for package in newest}
    others = {s.name: tuple(p.filename for p, _ in s.packages if p.filename not in present) for s in seen}
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
    flavours: tuple[Flavour, ...]
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
        """The inputs of the packages now."""
        for name in (SPEC, PROGRAM):
            if not (self.spec_folder / name).is_file():
                raise PipelineError(
                    f"{name} is missing", str(self.spec_folder / name), "Copy rpm/ of this project there"
                )
        spec, program = ((self.spec_folder / name).read_text() for name in (SPEC, PROGRAM))
        trusted = self.signer.trusted_keys
        keys = {name: text for name, text in read_certificates(trusted).items() if name != self.without}
        made = [key.created for key in parse_keys(list_public_keys(trusted)) if key.fingerprint in keys]
        time = max(made, default=0)
        return Contents(self.fedora, self.url.rstrip("/"), self.rows, keys, time, spec, program, self.flavours)


def provide(request: Request, *, check: bool = False) -> Decision:
    """The packages that the channels need now, as files: built, or the published ones. They are not published here.

    With ``check`` nothing is built or fetched; without trusted keys, which may not exist yet, nothing is read.
    """
    if check and not request.signer.trusted_keys.is_file():
        return Decision(True, unbuilt(request.fedora, 1), (), "the first")
    repositories = request.repositories(keep=not check)
    if request.without:
        require_unused(request.without, repositories, request.signer, ignore=NAMES)
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
        packages = build(wanted, int(decision.package.release), folder, request.spec_folder)
    else:
        packages = tuple(fetch(package, repositories[decision.source], folder) for package in decision.packages)
    return replace(decision, packages=packages)


def read_published(name: str, repository: Repository) -> ChannelHead:
    """The verified head of a channel and its packages of ``NAMES``."""
    state = repository.head_state()
    if not state.id:
        return ChannelHead(name, yanked=state.yanked)
    packed = repository.packed(state, "primary")
    digests = {
        found[1].decode(): found[2].decode()
        for block, _ in texts("primary", packed)
        for text in block.split(b"</package>\n")
        if b'"mistralrs(release-content)"' in text and (found := _CONTENT.search(text))
    }
    packages = [
        (package, digests.get(package.sha256, "")) for package in read_packages(packed) if package.name in NAMES
    ]
    return ChannelHead(name, state.id, head_signer(repository, state.id), tuple(packages), state.yanked)


def build(wanted: Contents, number: int, root: Path, spec_folder: Path) -> tuple[Package, ...]:
    """Build the packages below ``root``, unless they are there already for the same inputs."""
    folder = root / digest_of([wanted.digest, number])[:16]
    files = [folder / package.filename for package in wanted.packages(number)]
    if not all(file.is_file() for file in files):
        with alone(root / "rpmbuild") as topdir:
            (topdir / "SOURCES").mkdir()
            for file, text in wanted.sources.items():
                (topdir / "SOURCES" / file).write_text(text)
            try:
                run_rpmbuild(spec_folder / SPEC, topdir, wanted.defines(number), wanted.time, TIMEOUT)
            except CommandFailed as error:
                raise PipelineError(
                    f"rpmbuild could not make {' and '.join(NAMES)}: {rpm_errors(error.stderr or error.stdout)}",
                    str(spec_folder / SPEC),
                    "Check the path and repo of each row of channels, and the rows of flavours",
                ) from error
            folder.mkdir(parents=True, exist_ok=True)
            for made in (topdir / "RPMS").glob("*/*.rpm"):
                made.replace(folder / made.name)
    return tuple(map(read_package, files))


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
