"""The decisions of a proof: its steps, a valid .repo file, the metadata's content, and the remedy for an error of dnf.

Values in, values out; ``dnf_client`` carries the steps out. The steps:

    makecache (published) -> makecache (the staged snapshot) -> provide -> for each package:
        [install previous -> upgrade] or install -> run -> [downgrade to previous] -> remove
    and with several packages: install all -> run -> remove the newest -> run -> remove the rest

Rules:

1. The client gets the channel's .repo file and the site's keys as users get them. The .repo file must enable the check
   of the signatures of packages and metadata, fail if the repository cannot be read (Fedora's dnf.conf does not), and
   name no key but the client's own file. The keys must be trusted keys.
2. A staged snapshot is complete under its final URL before any mirrorlist names it. The client reads it by that URL
   as baseurl; every other line of the .repo file stays. Only previous packages still come from the published head.
3. What a Fedora system would provide (symbols of libc, systemd, the libraries of CUDA) comes from one provider package,
   made during the proof from the requirements in the verified metadata. The result lists them.
4. After the last removal no path with "mistralrs" in its name remains, except caches, logs and databases. The account
   from sysusers.d remains, by Fedora's convention.
"""

from __future__ import annotations

import configparser
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..base.errors import PipelineError
from ..base.records import Flavour, Package, Record
from ..base.text import SNAPSHOT_ID
from ..sign.trust import CLIENT_KEYS

PROVIDER = "mistralrs-client-provider"
CHOOSER = "mistralrs"
"""The package that names a flavour and is none."""
SOURCES = ("mirrorlist", "metalink", "baseurl")
"""The options of a .repo file that name a place to read from."""


@dataclass(frozen=True)
class ProofOrder(Record):
    """The input of a proof.

    ``url`` is the site's root, with the .repo files; ``path`` is the repository's path below it. ``at`` is the address
    at which this host reaches the site, if that is not ``url``. ``snapshot`` is the id of a staged snapshot; if empty,
    the published head is proven, read ``by`` mirrorlist or baseurl. ``trusted_keys`` is an armored file. ``previous``
    holds, for some of the packages by name, the version to upgrade from and to downgrade to; other names are ignored.
    ``flavours`` ranks several packages by GPU generation. ``expect`` is a part of the output of ``--version``; if
    empty, the package's own version. ``library_path`` lists folders with the libraries of the GPU's driver and CUDA;
    only the binary sees them. ``system`` is the root of the system that the client copies, and ``program`` its dnf; if
    empty, the newest one.
    """

    url: str
    channel: str
    trusted_keys: str
    packages: tuple[Package, ...]
    transcript: str
    previous: tuple[Package, ...] = ()
    path: str = ""
    at: str = ""
    snapshot: str = ""
    by: str = "mirrorlist"
    flavours: tuple[Flavour, ...] = ()
    expect: str = ""
    library_path: tuple[str, ...] = ()
    releasever: str = "43"
    program: str = ""
    system: str = "/"


@dataclass(frozen=True)
class ProofStep(Record):
    """One step of a proof: a verb, its objects (NEVRAs, or the id of a staged snapshot), and the time that it took."""

    verb: str
    what: tuple[str, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        return " ".join((self.verb, *self.what))


@dataclass(frozen=True)
class Proof(Record):
    """The result of a proof.

    ``client`` names the client's dnf and rpm with their versions; ``versions`` holds each binary's output of
    ``--version``; ``dnf_seconds`` is dnf's part of ``seconds``; ``provided`` lists the capabilities of the provider.
    """

    client: str
    installed: tuple[str, ...]
    versions: tuple[str, ...]
    steps: tuple[ProofStep, ...]
    seconds: float
    dnf_seconds: float
    provided: tuple[str, ...]
    transcript: str


@dataclass(frozen=True)
class RepoFile:
    """A valid .repo file: its text and the repository's id."""

    text: str
    id: str

    def at(self, baseurl: str) -> str:
        """Its text with ``baseurl`` as the only place to read from."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(self.text)
        for option in SOURCES:
            parser.remove_option(self.id, option)
        parser[self.id]["baseurl"] = baseurl
        written = io.StringIO()
        parser.write(written)
        return written.getvalue()


@dataclass(frozen=True)
class PrimaryMetadata:
    """Of primary.xml, by NEVRA: the packages' digests, and the requirements that no package of it provides."""

    digests: dict[str, str]
    missing: dict[str, frozenset[str]]

    @property
    def chooser(self) -> str:
        """The NEVRA of a package ``CHOOSER``, or ""."""
        return next((nevra for nevra in self.digests if nevra.rsplit("-", 2)[0] == CHOOSER), "")


def steps_of(order: ProofOrder) -> tuple[ProofStep, ...]:
    """The steps of a proof, in order."""
    if not order.packages:
        raise PipelineError("there is no package to prove", remedy="Give the packages that were published")
    if not order.path and (order.snapshot or order.by == "baseurl"):
        raise PipelineError(
            "the repository's path below the URL is missing", order.url, "Give path, as channels.yml has it"
        )
    if order.snapshot and not re.fullmatch(SNAPSHOT_ID, order.snapshot):
        raise PipelineError("this is not the id of a snapshot", order.snapshot, "Give the id of a staged snapshot")
    previous = previous_packages(order)
    steps = [ProofStep("makecache")] if previous or not order.snapshot else []
    if order.snapshot:
        steps.append(ProofStep("makecache", (order.snapshot,)))
    steps.append(ProofStep("provide"))
    for package in order.packages:
        new = (package.nevra,)
        if package.name in previous:
            old = (previous[package.name].nevra,)
            steps += [ProofStep("install", old), ProofStep("upgrade", new), ProofStep("run", new)]
            steps += [ProofStep("downgrade", old), ProofStep("remove", old)]
        else:
            steps += [ProofStep("install", new), ProofStep("run", new), ProofStep("remove", new)]
    if len(order.packages) > 1:
        ordered = sorted(order.packages, key=lambda package: generation(package, order.flavours), reverse=True)
        every = tuple(package.nevra for package in ordered)
        steps += [ProofStep("install", every), ProofStep("run", every[:1]), ProofStep("remove", every[:1])]
        steps += [ProofStep("run", every[1:2]), ProofStep("remove", every[1:])]
    return tuple(steps)


def previous_packages(order: ProofOrder) -> dict[str, Package]:
    """The previous versions of the order's packages, by name."""
    names = {package.name for package in order.packages}
    return {package.name: package for package in order.previous if package.name in names}


def generation(package: Package, flavours: Iterable[Flavour]) -> int:
    """A package's GPU generation as a number that grows; 0 for a package without GPU code."""
    for flavour in flavours:
        if flavour.package_name == package.name:
            return int(flavour.compute_cap or 0)
    raise PipelineError(
        f"the flavour table has no row for {package.name}",
        remedy="Give flavours to prove several packages: the table ranks their generations",
    )


def upstream_version(package: Package) -> str:
    """Upstream's spelling of a package's version: "0.8.4~rc4" and commits after it are "0.8.4-rc4"."""
    return package.version.partition("^")[0].replace("~", "-")


def repo_file_name(channel: str) -> str:
    """The name of a channel's .repo file; that of stable does not carry the channel's name."""
    return "mistralrs.repo" if channel == "stable" else f"mistralrs-{channel}.repo"


def read_repo_file(text: str, url: str, where: str) -> RepoFile:
    """Parse and check a .repo file (rule 1); it must read from below ``url``. PipelineError names the fault."""

    def refuse(what: str) -> PipelineError:
        return PipelineError(what, where, "Publish the .repo files again: playbooks/repo_host.yml writes them")

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        enabled = [name for name in parser.sections() if parser[name].getboolean("enabled", fallback=True)]
        if len(enabled) != 1:
            raise refuse(f"the .repo file enables {len(enabled)} repositories, not one")
        repo = parser[enabled[0]]
        checks = {
            "gpgcheck": repo.getboolean("pkg_gpgcheck", repo.getboolean("gpgcheck", fallback=False)),
            "repo_gpgcheck": repo.getboolean("repo_gpgcheck", fallback=False),
        }
        if unchecked := sorted(option for option, on in checks.items() if not on):
            raise refuse(f"the .repo file does not set {' and '.join(f'{name}=1' for name in unchecked)}")
        if repo.getboolean("skip_if_unavailable", fallback=True):
            raise refuse("the .repo file does not set skip_if_unavailable=0: a bad signature would go unnoticed")
    except (configparser.Error, ValueError) as error:
        raise refuse(f"not a .repo file: {str(error).splitlines()[0]}") from error
    # dnf -y imports whatever key an address serves.
    if repo.get("gpgkey", "").strip() != f"file://{CLIENT_KEYS}":
        keys = " ".join(repo.get("gpgkey", "").split()) or "nothing"
        raise refuse(f"the .repo file takes its keys from {keys}, not from file://{CLIENT_KEYS} alone")
    sources = [repo[option] for option in SOURCES if option in repo]
    for address in sources:
        if not address.startswith(f"{url.rstrip('/')}/"):
            raise refuse(f"the .repo file refers to {address}, which is not below {url}")
    if not sources:
        raise refuse("the .repo file has neither mirrorlist nor baseurl")
    return RepoFile(text, enabled[0])


def parse_fingerprints(colons: str) -> dict[str, tuple[str, ...]]:
    """From ``gpg --with-colons``: the fingerprint of each primary key, with those of its subkeys."""
    keys: dict[str, tuple[str, ...]] = {}
    primary, kind = "", ""
    for line in colons.splitlines():
        fields = line.split(":")
        if fields[0] in ("pub", "sub"):
            kind = fields[0]
        elif fields[0] == "fpr" and kind == "pub":
            primary, kind = fields[9], ""
            keys[primary] = ()
        elif fields[0] == "fpr" and kind == "sub":
            keys[primary], kind = (*keys[primary], fields[9]), ""
    return keys


def read_primary(xml: bytes) -> PrimaryMetadata:
    """Parse primary.xml. Versions of requirements are dropped: the provider's bare names satisfy any version."""
    common, rpm = (f"{{http://linux.duke.edu/metadata/{name}}}" for name in ("common", "rpm"))
    digests: dict[str, str] = {}
    provided: set[str] = set()
    required: dict[str, set[str]] = {}
    for package in ET.fromstring(xml).iter(f"{common}package"):  # noqa: S314  dnf has verified it
        version = package.find(f"{common}version")
        if version is None:
            continue
        nevra = (
            f"{package.findtext(f'{common}name')}-{version.get('ver')}-{version.get('rel')}"
            f".{package.findtext(f'{common}arch')}"
        )
        digests[nevra] = package.findtext(f"{common}checksum") or ""
        provided |= {e.get("name", "") for e in package.iterfind(f".//{rpm}provides/{rpm}entry")}
        provided |= {file.text or "" for file in package.iter(f"{common}file")}
        required[nevra] = {
            name
            for entry in package.iterfind(f".//{rpm}requires/{rpm}entry")
            for name in names_in(entry.get("name", ""))
        }
    return PrimaryMetadata(digests, {nevra: frozenset(names - provided) for nevra, names in required.items()})


def names_in(requirement: str) -> Iterator[str]:
    """The names in a requirement; a rich one, ``(a >= 1 if b)``, has several."""
    if not requirement.startswith("("):
        yield requirement
        return
    operators = {"and", "or", "if", "unless", "else", "with", "without"}
    words = iter(re.findall(r"[^\s()]+(?:\([^\s()]*\))*", requirement))
    for word in words:
        if word in ("<", "<=", "=", ">=", ">"):
            next(words, None)
        elif word not in operators:
            yield word


def provider_spec(names: Iterable[str]) -> str:
    """The spec of the provider package (rule 3)."""
    provides = "".join(f"Provides: {name.replace('%', '%%')}\n" for name in sorted(names))
    return (
        f"Name: {PROVIDER}\nVersion: 1\nRelease: 1\nLicense: MIT\nBuildArch: noarch\n"
        "Summary: Replaces the parts of Fedora that the throw-away client lacks\n"
        f"{provides}\n%description\nMade for one proof, from the requirements of its packages.\n"
        "It has no files and is never published.\n\n%files\n"
    )


def leftovers(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """The paths that the removal of a package should have removed, from the client's changes before and after."""
    remains = re.compile(r"^(var/(cache|log|lib/dnf)/|usr/lib/sysimage/|root/\.rpmdb/|var/lib/rpm/)")
    return sorted(name for name in set(after) - set(before) if "mistralrs" in name.lower() and not remains.match(name))


def remedy_for(output: str) -> str:
    """The remedy for an error in dnf's output."""
    for pattern, remedy in _REMEDIES.items():
        if re.search(pattern, output):
            return remedy
    return "Read the transcript"


_REMEDIES = {
    r"repomd\.xml GPG signature|[Bb]ad (PGP|GPG) signature|[Ss]igning key not found": (
        "The metadata is not signed by a key that the site offers: publish a new snapshot with such a key"
    ),
    r"is not signed|GPG check FAILED|PGP check|Public key for|Import of the key didn't help": (
        "A package is not signed by a key that the site offers: raise package_release and release it again"
    ),
    r"hecksum|Inconsistent server data": ("The repository's files do not match its metadata: publish a new snapshot"),
    r"nothing provides": "The repository lacks a package that another package requires",
    r"Cannot download|Curl error|Failed to download|Could not resolve": "Check that the web server answers",
    r"more space needed|No space left": "The client's files are in memory: give this host more memory",
}
"""Remedies by patterns of the messages of dnf 4 and dnf 5. The first match counts."""
