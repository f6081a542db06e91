"""The proof that a client can install what a channel publishes, or is about to.

    makecache (what is published) -> makecache (the staged snapshot) -> provide -> for each package:
        [install previous -> upgrade] or install -> run -> [downgrade to previous] -> remove
    and with several packages: install all -> run -> remove the newest -> run -> remove the others

Rules:

1. The client is a throw-away copy of a system with an empty rpm database (throwaway.py). dnf, rpm and the C library
   are that system's. The host keeps nothing but the transcript.
2. The client has the channel's .repo file as users get it, and that file must check the signatures of
   packages and of metadata. The keys that it names must be keys that the operator trusts.
3. A staged snapshot lies complete under its final URL, and no mirrorlist names it yet. It is read by that URL as
   baseurl, with all other lines of the .repo file as they are; only previous packages still come from what is
   published. The metadata that dnf took must be that which gave the snapshot its name.
4. An exit status proves nothing: after each transaction the rpm database is asked what is installed, which
   key signed it, and whether every file is as packaged.
5. The command that users type is that of the newest GPU generation installed, by the flavour table.
6. What a Fedora system would provide (libc's symbols, systemd, CUDA's libraries) comes from one provider
   package, made on the spot from the requirements in the verified metadata; the result lists them.
7. After the last removal no path with "mistralrs" in it is left but caches, logs and databases. The account of
   sysusers.d stays, by Fedora's convention.
"""

from __future__ import annotations

import configparser
import gzip
import io
import os
import re
import shlex
import shutil
import tempfile
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.records import Flavour, Package, Record, sha256_file
from ..base.run import CommandFailed, ProgramMissing, run
from ..sign.trust import signer_of
from .sandbox import PATH, Client

PROVIDER = "mistralrs-client-provider"
COMMAND = "/usr/bin/mistralrs"
ACCOUNT = "mistralrs"
SOURCES = ("mirrorlist", "metalink", "baseurl")
"""The options of a .repo file that say where to read from."""


@dataclass(frozen=True)
class Order(Record):
    """What is to be proven.

    ``url`` is the channels' root, ``path`` the channel's below it; ``repo_file`` the published .repo file's text,
    empty to fetch it from there. ``snapshot`` is a staged one; empty for what is published, which is read ``by``
    mirrorlist or baseurl. ``key`` is the file of the trusted public keys. ``previous`` holds for some of the
    packages, by name, the version from which to upgrade and to which to go back; other names are not used.
    ``flavours`` tell which of several packages is of the newer generation. ``expect`` is what ``--version`` must
    contain; empty for the package's own version. ``library_path`` lists folders with the libraries that the
    GPU's driver and CUDA would bring; only the binary sees them. ``system`` is the root of the system that the
    client copies, and ``client`` the program that installs there.
    """

    url: str
    channel: str
    key: str
    packages: tuple[Package, ...]
    transcript: str
    previous: tuple[Package, ...] = ()
    path: str = ""
    snapshot: str = ""
    by: str = "mirrorlist"
    flavours: tuple[Flavour, ...] = ()
    expect: str = ""
    library_path: tuple[str, ...] = ()
    releasever: str = "43"
    repo_file: str = ""
    client: str = ""
    system: str = "/"


@dataclass(frozen=True)
class Step(Record):
    """One step of a proof: what is done (``verb``), to ``what`` (NEVRAs, or a staged snapshot), how long it took."""

    verb: str
    what: tuple[str, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        return " ".join((self.verb, *self.what))


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

    def at(self, baseurl: str) -> str:
        """Its text with ``baseurl`` as the one place to read from."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(self.text)
        for option in SOURCES:
            parser.remove_option(self.id, option)
        parser[self.id]["baseurl"] = baseurl
        written = io.StringIO()
        parser.write(written)
        return written.getvalue()


@dataclass(frozen=True)
class Metadata:
    """What primary.xml says: the packages' digests by NEVRA, and what nobody in the channel provides."""

    digests: dict[str, str]
    missing: dict[str, frozenset[str]]


# What decides: values in, values out.


def plan(order: Order) -> tuple[Step, ...]:
    """The steps of a proof, in order."""
    if not order.packages:
        raise PipelineError("there is no package to prove", remedy="Give the packages that were published")
    if not order.path and (order.snapshot or order.by == "baseurl"):
        raise PipelineError(
            "it is not said where the channel lies below the URL", order.url, "Give path, as channels.yml has it"
        )
    if order.snapshot and not re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", order.snapshot):
        raise PipelineError("this is not the name of a snapshot", order.snapshot, "Give the id of a staged snapshot")
    previous = earlier(order)
    steps = [Step("makecache")] if previous or not order.snapshot else []
    if order.snapshot:
        steps.append(Step("makecache", (order.snapshot,)))
    steps.append(Step("provide"))
    for package in order.packages:
        new = (package.nevra,)
        if package.name in previous:
            old = (previous[package.name].nevra,)
            steps += [Step("install", old), Step("upgrade", new), Step("run", new)]
            steps += [Step("downgrade", old), Step("remove", old)]
        else:
            steps += [Step("install", new), Step("run", new), Step("remove", new)]
    if len(order.packages) > 1:
        ordered = sorted(order.packages, key=lambda package: generation(package, order.flavours), reverse=True)
        every = tuple(package.nevra for package in ordered)
        steps += [Step("install", every), Step("run", every[:1]), Step("remove", every[:1])]
        steps += [Step("run", every[1:2]), Step("remove", every[1:])]
    return tuple(steps)


def earlier(order: Order) -> dict[str, Package]:
    """The previous versions of what is proven, by name."""
    names = {package.name for package in order.packages}
    return {package.name: package for package in order.previous if package.name in names}


def generation(package: Package, flavours: Iterable[Flavour]) -> int:
    """Which of two packages is for newer GPUs: the higher. One for no GPU has 0."""
    for flavour in flavours:
        if flavour.package_name == package.name:
            return int(flavour.compute_cap or 0)
    raise PipelineError(
        f"the flavour table has no row for {package.name}",
        remedy="Give flavours where several packages are proven: they tell which generation is the newest",
    )


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
    sources = [repo[option] for option in SOURCES if option in repo]
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

    def __init__(self, order: Order, client: Client, program: str, repo: RepoFile, trusted: Iterable[str]) -> None:
        self.order = order
        self.client = client
        self.program = program
        self.trusted = {fingerprint[-16:].lower() for fingerprint in trusted}
        self.previous = {package.nevra: package for package in earlier(order).values()}
        self.packages = {package.nevra: package for package in order.packages} | self.previous
        self.steps: list[Step] = []
        self.versions: dict[str, str] = {}
        self.provided: tuple[str, ...] = ()
        self.dnf_seconds = 0.0
        channel = f"{order.url.rstrip('/')}/{order.path.strip('/')}/"
        self._repos = {"": repo.at(channel) if order.by == "baseurl" else repo.text}
        if order.snapshot:
            self._repos[order.snapshot] = repo.at(f"{channel}snapshots/{order.snapshot}/")
        self._pointed: str | None = None
        self._caches: set[Path] = set()
        self._missing: set[str] = set()
        self._before: set[str] = set()
        self._installed: dict[str, Package] = {}

    def carry_out(self, step: Step) -> None:
        with self.client.transcript.open("a") as log:
            log.write(f"\n== {step}\n")
        start = time.monotonic()
        getattr(self, step.verb)(*step.what)
        self.steps.append(Step(step.verb, step.what, round(time.monotonic() - start, 3)))

    def prepare(self) -> str:
        """dnf.conf as strict as dnf knows. What the client is: its dnf's and its rpm's versions."""
        self.client.write(
            "/etc/dnf/dnf.conf",
            "[main]\ngpgcheck=1\nskip_if_unavailable=0\nbest=1\nplugins=0\nreposdir=/etc/yum.repos.d\n",
        )
        versions = []
        for program in (self.program, "rpm"):
            found = re.search(r"\d+(\.\d+)+", self._command(program, "--version"))
            versions.append(f"{program} {found[0] if found else ''}".strip())
        return ", ".join(versions)

    def makecache(self, snapshot: str = "") -> None:
        """The metadata, verified; every package of the proof must be in it with its digest.

        Before a staged snapshot, only previous packages need to be published.
        """
        self._point(snapshot)
        self._dnf("makecache")
        caches = set(self.client.path("/var/cache").glob("*/*/repodata")) - self._caches
        found = [path for cache in caches for path in cache.glob("*primary.xml.gz")]
        if len(caches) != 1 or len(found) != 1:
            raise self._failed(f"dnf's cache got {len(caches)} repositories and {len(found)} primary.xml.gz", "")
        (cache,) = caches
        self._caches |= caches
        if not (cache / "repomd.xml.asc").exists():
            raise self._failed("dnf did not ask for the signature of the metadata", "")
        read = sha256_file(cache / "repomd.xml")
        if snapshot and not snapshot.endswith(f"-{read[:8]}"):
            raise self._failed(f"dnf read metadata with SHA-256 {read}, which is not that of {snapshot}", "")
        metadata = read_primary(gzip.decompress(found[0].read_bytes()))
        wanted = self.packages if snapshot == self.order.snapshot else self.previous
        for package in wanted.values():
            digest = metadata.digests.get(package.nevra, "")
            if digest != package.sha256:
                holder = f"snapshot {snapshot}" if snapshot else "the channel"
                what = f"has {package.nevra} with SHA-256 {digest}" if digest else f"does not have {package.nevra}"
                raise PipelineError(
                    f"{holder} {what}" + (f", not {package.sha256}" if digest else ""),
                    f"{self.order.url}, {repo_name(self.order.channel)}",
                    "Publish the package, or prove what the channel holds",
                )
            self._missing |= metadata.missing[package.nevra]

    def provide(self) -> None:
        # The C library is the client's own: what it really provides, and no more. The channel's metadata would not
        # do anyway, since createrepo_c keeps only the highest of a package's requirements on libc.so.6.
        own = set(self._command("/usr/lib/rpm/elfdeps", "--provides", self._c_library()).split())
        names = {name for name in self._missing if not name.startswith("libc.so.6")}
        self.provided = tuple(sorted(names | own))
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

    def install(self, *nevras: str) -> None:
        # What a user has before the snapshot comes is what is published.
        self._point("" if set(nevras) <= set(self.previous) else self.order.snapshot)
        self._transaction("install", *nevras)

    def upgrade(self, nevra: str) -> None:
        self._point(self.order.snapshot)
        self._transaction("upgrade", nevra)

    def downgrade(self, nevra: str) -> None:
        self._transaction("downgrade", nevra)

    def run(self, nevra: str) -> None:
        """The command that users type tells the version."""
        libraries = ":".join(self.order.library_path)
        said = self._command(COMMAND, "--version", env={"LD_LIBRARY_PATH": libraries} if libraries else {})
        expect = self.order.expect or upstream_version(self.packages[nevra])
        if expect not in said:
            raise self._failed(f"{COMMAND} --version of {nevra} does not say {expect!r}", said)
        self.versions[nevra] = said.strip()

    def remove(self, *nevras: str) -> None:
        names = [self.packages[nevra].name for nevra in nevras]
        self._dnf("remove", *names)
        for name, nevra in zip(names, nevras, strict=True):
            if self.client.run("rpm", "-q", name)[0] == 0:
                raise self._failed(f"{nevra} is still installed after its removal", "")
            del self._installed[name]
        if self._installed:
            self._check_command()
        elif left := leftovers(self._before, self.client.changed()):
            raise self._failed(f"{', '.join(nevras)} left {', '.join(left[:10])}", "")

    def _c_library(self) -> str:
        """The file of the client's C library: Debian's place, else Fedora's."""
        debian = "/lib/x86_64-linux-gnu/libc.so.6"
        return debian if self.client.run("test", "-e", debian)[0] == 0 else "/lib64/libc.so.6"

    def _point(self, snapshot: str) -> None:
        """The client's .repo file: the published one, or with ``snapshot`` in its place."""
        if self._pointed != snapshot:
            self.client.write(f"/etc/yum.repos.d/{repo_name(self.order.channel)}", self._repos[snapshot])
            self._pointed = snapshot

    def _transaction(self, verb: str, *nevras: str) -> None:
        """Exactly these packages are installed afterwards, as a trusted key signed them, and their scriptlets ran:
        the command that users type is the newest package's, and there is the account of the service.
        """
        output = self._dnf(verb, *nevras)
        for nevra in nevras:
            name = self.packages[nevra].name
            installed = self.client.run("rpm", "-q", name)[1].splitlines()
            if installed != [nevra]:
                have = ", ".join(installed)
                raise self._failed(f"dnf ended well, and yet rpm says not {nevra} but {have!r}", output)
            signer = signer_of(self._command("rpm", "-qi", name))
            if signer not in self.trusted:
                raise self._failed(f"{nevra} is signed by {signer or 'nobody'}, not by a trusted key", "")
            self._command("rpm", "-V", name)
            self._installed[name] = self.packages[nevra]
        self._check_command()
        self._command("getent", "passwd", ACCOUNT)

    def _check_command(self) -> None:
        """The command that users type is a file of the newest generation's package."""
        newest, *others = self._installed.values()
        if others:
            newest = max(newest, *others, key=lambda package: generation(package, self.order.flavours))
        target = self._command("readlink", "-e", COMMAND).strip()
        if target not in self._command("rpm", "-ql", newest.name).splitlines():
            raise self._failed(f"{COMMAND} is {target}, which is no file of {newest.nevra}", "")

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
    steps = plan(order)
    program = client_program(order.client, order.system)
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

    with Client(transcript, order.library_path, Path(order.system)) as client:
        every = (f for primary, subkeys in trusted.items() for f in (primary, *subkeys))
        prover = Prover(order, client, program, repo, every)
        versions = prover.prepare()
        for step in steps:
            with _named(step):
                prover.carry_out(step)
    return Proof(
        client=versions,
        installed=tuple(package.nevra for package in order.packages),
        versions=tuple(prover.versions[package.nevra] for package in order.packages),
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


def client_program(wanted: str, system: str) -> str:
    """The program of ``system`` that installs: the one that is ``wanted``, or the newest there is."""
    if not Path(system, "usr/bin").is_dir():
        raise PipelineError(
            "no system to copy is here", system, "Give its root; scripts/system-tree forky makes such a tree"
        )
    names = (wanted,) if wanted else ("dnf5", "dnf")
    for name in names:
        if shutil.which(name, path=":".join(f"{system.rstrip('/')}{folder}" for folder in PATH.split(":"))):
            return name
    if system == "/":
        raise ProgramMissing(" or ".join(names))
    raise PipelineError(f"this system has no {' or '.join(names)}", system, "Give one that has")


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
