"""The proof that a client can install what a channel publishes.

    makecache -> provide -> for each package:
        [install previous -> upgrade] or install -> run -> [downgrade to previous] -> remove

Rules:

1. The client is a throw-away copy of the running system with an empty rpm database (throwaway.py). The host
   keeps nothing but the transcript.
2. The client has the channel's .repo file as users get it, and that file must check the signatures of
   packages and of metadata. The keys that it names must be keys that the operator trusts.
3. An exit status proves nothing: after each transaction the rpm database is asked what is installed, which
   key signed it, and whether every file is as packaged.
4. What a Fedora system would provide (libc's symbols, systemd, CUDA's libraries) comes from one provider
   package, made on the spot from the requirements in the verified metadata; the result lists them.
5. After a removal no path with "mistralrs" in it is left but caches, logs and databases. The account of
   sysusers.d stays, by Fedora's convention.
"""

from __future__ import annotations

import configparser
import gzip
import os
import re
import shlex
import shutil
import tempfile
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import PipelineError
from .records import Package, Record
from .run import CommandFailed, ProgramMissing, run
from .throwaway import PATH, Client

PROVIDER = "mistralrs-client-provider"
COMMAND = "/usr/bin/mistralrs"
ACCOUNT = "mistralrs"


@dataclass(frozen=True)
class Order(Record):
    """What is to be proven.

    ``url`` is the channels' root; ``repo_file`` the published .repo file's text, empty to fetch it from
    there. ``key`` is the file of the trusted public keys. ``previous`` holds for some of the packages, by
    name, the version from which to upgrade and to which to go back. ``expect`` is what ``--version`` must
    contain; empty for the package's own version. ``library_path`` lists folders with the libraries that the
    GPU's driver and CUDA would bring; only the binary sees them.
    """

    url: str
    channel: str
    key: str
    packages: tuple[Package, ...]
    transcript: str
    previous: tuple[Package, ...] = ()
    expect: str = ""
    library_path: tuple[str, ...] = ()
    releasever: str = "43"
    repo_file: str = ""
    client: str = ""


@dataclass(frozen=True)
class Step(Record):
    """One step of a proof: what is done (``verb``), to which package (a NEVRA), and how long it took."""

    verb: str
    nevra: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.verb} {self.nevra}".strip()


@dataclass(frozen=True)
class Proof(Record):
    """What was proven. ``versions`` is what each package's binary said of itself, ``dnf_seconds`` the time
    that dnf took of all ``seconds``, ``provided`` what the provider stood in for.
    """

    client: str
    installed: tuple[str, ...]
    versions: tuple[str, ...]
    steps: tuple[Step, ...]
    seconds: float
    dnf_seconds: float
    provided: tuple[str, ...]
    transcript: str


@dataclass(frozen=True)
class RepoFile:
    """A published .repo file that checks what it should: the repository's id and its keys' URLs."""

    text: str
    id: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Metadata:
    """What primary.xml says: the packages' digests by NEVRA, and what nobody in the channel provides."""

    digests: dict[str, str]
    missing: dict[str, frozenset[str]]


# What decides: values in, values out.


def plan(packages: Sequence[Package], previous: Sequence[Package]) -> tuple[Step, ...]:
    """The steps of a proof, in order."""
    if not packages:
        raise PipelineError("there is no package to prove", remedy="Give the packages that were published")
    earlier = {package.name: package for package in previous}
    if strangers := set(earlier) - {package.name for package in packages}:
        raise PipelineError(
            f"a previous version of {', '.join(sorted(strangers))}, which is not to be proven",
            remedy="Give previous packages only for names that are in packages",
        )
    steps = [Step("makecache"), Step("provide")]
    for package in packages:
        old = earlier.get(package.name)
        if old is None:
            steps += [Step("install", package.nevra), Step("run", package.nevra)]
            steps += [Step("remove", package.nevra)]
        else:
            steps += [Step("install", old.nevra), Step("upgrade", package.nevra), Step("run", package.nevra)]
            steps += [Step("downgrade", old.nevra), Step("remove", old.nevra)]
    return tuple(steps)


def upstream_version(package: Package) -> str:
    """Upstream's spelling of a package's version: "0.8.4~rc4" and commits after it are "0.8.4-rc4"."""
    return package.version.partition("^")[0].replace("~", "-")


def repo_name(channel: str) -> str:
    """The name of a channel's .repo file: users of stable need not know the word."""
    return "mistralrs.repo" if channel == "stable" else f"mistralrs-{channel}.repo"


def checked_repo(text: str, url: str, where: str) -> RepoFile:
    """``text`` as a .repo file that a client may be given; PipelineError says what it lacks."""

    def refuse(what: str) -> PipelineError:
        return PipelineError(what, where, "Correct the .repo file's template and publish it again")

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        enabled = [name for name in parser.sections() if parser[name].getboolean("enabled", fallback=True)]
        if len(enabled) != 1:
            raise refuse(f"the .repo file enables {len(enabled)} repositories and not one")
        repo = parser[enabled[0]]
        checks = {
            "gpgcheck": repo.getboolean("pkg_gpgcheck", repo.getboolean("gpgcheck", fallback=False)),
            "repo_gpgcheck": repo.getboolean("repo_gpgcheck", fallback=False),
        }
        if unchecked := sorted(option for option, on in checks.items() if not on):
            raise refuse(f"the .repo file does not set {' and '.join(f'{name}=1' for name in unchecked)}")
        if repo.getboolean("skip_if_unavailable", fallback=False):
            raise refuse("the .repo file sets skip_if_unavailable: a bad signature would go unnoticed")
    except (configparser.Error, ValueError) as error:
        raise refuse(f"not a .repo file: {str(error).splitlines()[0]}") from error
    keys = tuple(repo.get("gpgkey", "").replace(",", " ").split())
    if not keys:
        raise refuse("the .repo file names no gpgkey")
    sources = [repo[option] for option in ("mirrorlist", "metalink", "baseurl") if option in repo]
    for address in (*keys, *sources):
        if not address.startswith(f"{url.rstrip('/')}/"):
            raise refuse(f"the .repo file leads to {address}, which is not below {url}")
    if not sources:
        raise refuse("the .repo file has neither mirrorlist nor baseurl")
    return RepoFile(text, enabled[0], keys)


def parse_fingerprints(colons: str) -> dict[str, tuple[str, ...]]:
    """Of ``gpg --with-colons``: each primary key's fingerprint, with those of its subkeys."""
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


def signer_of(information: str) -> str:
    """The signing key's id in ``rpm -qi``: 16 hex digits, or "" for an unsigned package.

    rpm 4 shows an id and rpm 6 a fingerprint, of which the id is the end.
    """
    above_description = information.partition("\nSource RPM")[0]
    found = re.search(r"(?s)\nSignature.*?Key (?:ID|Fingerprint):? *([0-9a-fA-F]{16,})", above_description)
    return found[1][-16:].lower() if found else ""


def read_primary(xml: bytes) -> Metadata:
    """What primary.xml says of the channel's packages.

    A name's own version does not matter here: the provider gives bare names, which satisfy any version.
    """
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
    return Metadata(digests, {nevra: frozenset(names - provided) for nevra, names in required.items()})


def names_in(requirement: str) -> Iterator[str]:
    """The names that a requirement mentions; a rich one, ``(a >= 1 if b)``, mentions several."""
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
    """The spec of the package that stands in for what Fedora would provide."""
    provides = "".join(f"Provides: {name.replace('%', '%%')}\n" for name in sorted(names))
    return (
        f"Name: {PROVIDER}\nVersion: 1\nRelease: 1\nLicense: MIT\nBuildArch: noarch\n"
        "Summary: Stands in for the parts of Fedora that the throw-away client does not have\n"
        f"{provides}\n%description\nMade for one proof from the requirements of the packages to prove.\n"
        "It has no files. It is never published.\n\n%files\n"
    )


def c_library() -> str:
    """The file of the running system's C library: Debian's place, else Fedora's."""
    places = (Path("/lib/x86_64-linux-gnu/libc.so.6"), Path("/lib64/libc.so.6"))
    return str(next((place for place in places if place.exists()), places[-1]))


def leftovers(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """The paths of the upper layer that a removed package should have taken with it."""
    stays = re.compile(r"^(var/(cache|log|lib/dnf)/|usr/lib/sysimage/|root/\.rpmdb/|var/lib/rpm/)")
    return sorted(name for name in set(after) - set(before) if "mistralrs" in name.lower() and not stays.match(name))


def explained(output: str) -> str:
    """What to do about dnf's words, where they are known."""
    for words, remedy in _REMEDIES.items():
        if re.search(words, output):
            return remedy
    return "Read the transcript"


_REMEDIES = {
    r"repomd\.xml GPG signature|[Bb]ad (PGP|GPG) signature|[Ss]igning key not found": (
        "The metadata is not signed by a key that the .repo file names: publish a new snapshot with it"
    ),
    r"is not signed|GPG check FAILED|PGP check|Public key for|Import of the key didn't help": (
        "A package is not signed by a key that the .repo file names: raise package_release and release it anew"
    ),
    r"hecksum|Inconsistent server data": (
        "The channel's files and its metadata do not belong together: publish a new snapshot"
    ),
    r"nothing provides": "The channel lacks a package that another one requires",
    r"Cannot download|Curl error|Failed to download|Could not resolve": ("Look whether the web server answers"),
    r"more space needed|No space left": "The client's files are in memory: give this host more of it",
}
"""What dnf 4 and dnf 5 say, and what to do then. The first that fits counts."""


# What touches the system.


class Prover:
    """Carries out a plan's steps on a client. Each step is a method of its verb's name.

    ``trusted`` holds the fingerprints of the keys, primary and sub, that may sign a package.
    """

    def __init__(self, order: Order, client: Client, program: str, trusted: Iterable[str]) -> None:
        self.order = order
        self.client = client
        self.program = program
        self.trusted = {fingerprint[-16:].lower() for fingerprint in trusted}
        self.packages = {p.nevra: p for p in (*order.packages, *order.previous)}
        self.steps: list[Step] = []
        self.versions: list[str] = []
        self.provided: tuple[str, ...] = ()
        self.dnf_seconds = 0.0
        self._metadata = Metadata({}, {})
        self._before: set[str] = set()

    def carry_out(self, step: Step) -> None:
        with self.client.transcript.open("a") as log:
            log.write(f"\n== {step}\n")
        start = time.monotonic()
        getattr(self, step.verb)(self.packages.get(step.nevra))
        self.steps.append(Step(step.verb, step.nevra, round(time.monotonic() - start, 3)))

    def prepare(self, repo: RepoFile) -> None:
        """The repository as a user adds it; dnf.conf as strict as dnf knows."""
        self.client.write(
            "/etc/dnf/dnf.conf",
            "[main]\ngpgcheck=1\nskip_if_unavailable=0\nbest=1\nplugins=0\nreposdir=/etc/yum.repos.d\n",
        )
        self.client.write(f"/etc/yum.repos.d/{repo_name(self.order.channel)}", repo.text)

    def makecache(self, _: Package | None) -> None:
        """The metadata, verified; every package of the proof must be in it with its digest."""
        self._dnf("makecache")
        cache = self.client.path("/var/cache")
        if not any(cache.glob("*/*/repodata/repomd.xml.asc")):
            raise self._failed("dnf did not ask for the signature of the metadata", "")
        found = sorted(cache.glob("*/*/repodata/*primary.xml.gz"))
        if len(found) != 1:
            raise self._failed(f"dnf's cache holds {len(found)} primary.xml.gz and not one", "")
        self._metadata = read_primary(gzip.decompress(found[0].read_bytes()))
        for nevra, package in self.packages.items():
            digest = self._metadata.digests.get(nevra)
            if digest != package.sha256:
                what = f"has {nevra} with SHA-256 {digest}" if digest else f"does not have {nevra}"
                raise PipelineError(
                    f"the channel {what}" + (f", not {package.sha256}" if digest else ""),
                    f"{self.order.url}, {repo_name(self.order.channel)}",
                    "Publish the package, or prove what the channel holds",
                )

    def provide(self, _: Package | None) -> None:
        names = set[str]().union(*(self._metadata.missing[nevra] for nevra in self.packages))
        # The C library is the client's own: what it really provides, and no more. The channel's metadata would not
        # do anyway, since createrepo_c keeps only the highest of a package's requirements on libc.so.6.
        own = set(self._command("/usr/lib/rpm/elfdeps", "--provides", c_library()).split())
        self.provided = tuple(sorted({name for name in names if not name.startswith("libc.so.6")} | own))
        defines = ("_topdir /run/provider", "_rpmdir /run", "_build_name_fmt provider.rpm")
        self.client.write("/run/provider.spec", provider_spec(self.provided))
        self._command(
            "rpmbuild",
            "-bb",
            *(word for define in defines for word in ("--define", define)),
            "/run/provider.spec",
        )
        self._command("rpm", "-i", "--nodeps", "--nosignature", "/run/provider.rpm")
        self._before = self.client.changed()

    def install(self, package: Package) -> None:
        self._transaction("install", package)

    def upgrade(self, package: Package) -> None:
        self._transaction("upgrade", package)

    def downgrade(self, package: Package) -> None:
        self._transaction("downgrade", package)

    def run(self, package: Package) -> None:
        """The command that users type tells the version."""
        libraries = ":".join(self.order.library_path)
        said = self._command(COMMAND, "--version", env={"LD_LIBRARY_PATH": libraries} if libraries else {})
        expect = self.order.expect or upstream_version(package)
        if expect not in said:
            raise self._failed(f"{COMMAND} --version of {package.nevra} does not say {expect!r}", said)
        self.versions.append(said.strip())

    def remove(self, package: Package) -> None:
        self._dnf("remove", package.name)
        if self.client.run("rpm", "-q", package.name)[0] == 0:
            raise self._failed(f"{package.nevra} is still installed after its removal", "")
        if left := leftovers(self._before, self.client.changed()):
            raise self._failed(f"{package.nevra} left {', '.join(left[:10])}", "")

    def _transaction(self, verb: str, package: Package) -> None:
        """Exactly this package is installed afterwards, as a trusted key signed it, and its scriptlets ran:
        the command that users type is this package's, and there is the account of the service.
        """
        output = self._dnf(verb, package.nevra)
        installed = self.client.run("rpm", "-q", package.name)[1].splitlines()
        if installed != [package.nevra]:
            have = ", ".join(installed)
            raise self._failed(f"dnf ended well, and yet rpm says not {package.nevra} but {have!r}", output)
        signer = signer_of(self._command("rpm", "-qi", package.name))
        if signer not in self.trusted:
            raise self._failed(f"{package.nevra} is signed by {signer or 'nobody'}, not by a trusted key", "")
        self._command("rpm", "-V", package.name)
        target = self._command("readlink", "-e", COMMAND).strip()
        if target not in self._command("rpm", "-ql", package.name).splitlines():
            raise self._failed(f"{COMMAND} is {target}, which is no file of {package.nevra}", "")
        self._command("getent", "passwd", ACCOUNT)

    def _dnf(self, verb: str, *words: str) -> str:
        start = time.monotonic()
        try:
            return self._command(self.program, "-y", f"--releasever={self.order.releasever}", verb, *words)
        finally:
            self.dnf_seconds += time.monotonic() - start

    def _command(self, *argv: str, env: dict[str, str] | None = None) -> str:
        status, output = self.client.run(*argv, env=env)
        if status != 0:
            raise self._failed(f"{shlex.join(argv)} ended with status {status}", output)
        return output

    def _failed(self, what: str, output: str) -> PipelineError:
        last = " | ".join(line for line in output.strip().splitlines()[-5:] if line.strip())
        return PipelineError(f"{what}{': ' if last else ''}{last}", str(self.client.transcript), explained(output))


def prove(order: Order) -> Proof:
    """Prove that a client can install ``order``'s packages; PipelineError names the step that failed."""
    start = time.monotonic()
    steps = plan(order.packages, order.previous)
    program = client_program(order.client)
    for folder in order.library_path:
        if not Path(folder).is_absolute() or not Path(folder).is_dir():
            raise PipelineError("no such folder of libraries", folder, "Correct library_path: absolute, on this host")
    transcript = Path(order.transcript)
    begin(transcript)

    where = f"{order.url.rstrip('/')}/{repo_name(order.channel)}"
    text = order.repo_file or fetched(where).decode(errors="replace")
    repo = checked_repo(text, order.url, where)
    try:
        trusted = fingerprints_of(Path(order.key).read_bytes(), order.key)
    except OSError as error:
        raise PipelineError(
            f"the trusted key cannot be read: {error.strerror}", order.key, "Export it from the signer"
        ) from error
    for key in repo.keys:
        if strangers := set(fingerprints_of(fetched(key), key)) - set(trusted):
            raise PipelineError(
                f"the channel offers a key that is not trusted: {', '.join(sorted(strangers))}",
                key,
                f"Find out who put it there; the trusted key is in {order.key}",
            )

    with Client(transcript, order.library_path) as client:
        every = (f for primary, subkeys in trusted.items() for f in (primary, *subkeys))
        prover = Prover(order, client, program, every)
        prover.prepare(repo)
        for step in steps:
            with _named(step):
                prover.carry_out(step)
    return Proof(
        client=program_version(program),
        installed=tuple(package.nevra for package in order.packages),
        versions=tuple(prover.versions),
        steps=tuple(prover.steps),
        seconds=round(time.monotonic() - start, 3),
        dnf_seconds=round(prover.dnf_seconds, 3),
        provided=prover.provided,
        transcript=order.transcript,
    )


def begin(transcript: Path) -> None:
    """An empty transcript. It and its folders belong to the owner of the folder they are made in, not to root."""
    made = [path for path in (transcript, *transcript.parents) if not path.exists()]
    transcript.parent.mkdir(parents=True, exist_ok=True)
    transcript.write_text("")
    for path in reversed(made):
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


@contextmanager
def _named(step: Step) -> Iterator[None]:
    try:
        yield
    except PipelineError as error:
        raise PipelineError(f"the client failed to {step}: {error.what}", error.where, error.remedy) from error


def client_program(wanted: str) -> str:
    """The program that installs: the one that is ``wanted``, or the newest there is."""
    names = (wanted,) if wanted else ("dnf5", "dnf")
    for name in names:
        if shutil.which(name, path=PATH):
            return name
    raise ProgramMissing(" or ".join(names))


def program_version(program: str) -> str:
    """The program's name and version, as in "dnf 4.14.0"."""
    found = re.search(r"\d+(\.\d+)+", run([program, "--version"]).stdout)
    return f"{program} {found[0] if found else ''}".strip()


def fetched(url: str) -> bytes:
    """A small file of the channel."""
    # A proxy of the environment knows another 127.0.0.1.
    direct = [urllib.request.ProxyHandler({})] if url.startswith("http://127.0.0.1:") else []
    try:
        with urllib.request.build_opener(*direct).open(url, timeout=30) as answer:
            return bytes(answer.read())
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"the channel does not give this file: {error}", url, "Look whether the web server answers"
        ) from error


def fingerprints_of(key: bytes, where: str) -> dict[str, tuple[str, ...]]:
    """The primary keys in an armored file, with their subkeys."""
    with tempfile.TemporaryDirectory(prefix="mistralrs-keys-") as home:
        try:
            said = run(["gpg", "--batch", "--homedir", home, "--with-colons", "--show-keys"], stdin=key).stdout
        except CommandFailed as error:
            raise PipelineError(f"not a public key: {error.what}", where, "Export the key again") from error
    if not (keys := parse_fingerprints(said)):
        raise PipelineError("no public key in this file", where, "Export the key again")
    return keys
