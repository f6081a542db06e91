"""The proof: a throw-away client installs the packages of a repository with dnf, runs them and removes them.

Rules:

1. The client is a throw-away copy of a system with an empty rpm database (``sandbox``). dnf, rpm and the C library
   are that system's, dnf's configuration is Fedora's (``client_tree``). The host keeps nothing but the transcript.
2. An exit status proves nothing: after each transaction the rpm database must hold exactly the packages, each signed by
   a trusted key and with every file as packaged.
3. The metadata that dnf read must be the metadata that the snapshot's id was made from.
4. The command that users type belongs to the installed package of the newest GPU generation, by the flavour table.
5. Where a repository has the package mistralrs, the client installs it by that name beside the first flavour: dnf must
   install that package and choose no other flavour.
6. ``proof`` has the steps and the other decisions.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ..base.environment import opener
from ..base.errors import PipelineError
from ..base.records import Package
from ..base.run import ProgramMissing
from ..base.text import last_words
from ..sign.trust import CLIENT_KEYS, KEYS_NAME, gpg_output, signer_of
from .proof import (
    CHOOSER,
    PROVIDER,
    Proof,
    ProofOrder,
    ProofStep,
    RepoFile,
    generation,
    leftovers,
    parse_fingerprints,
    previous_packages,
    provider_spec,
    read_primary,
    read_repo_file,
    remedy_for,
    repo_file_name,
    steps_of,
    upstream_version,
)
from .sandbox import PATH, Client
from .transcript import Transcript

COMMAND = "/usr/bin/mistralrs"
ACCOUNT = "mistralrs"
LARGEST = 1 << 20
"""The bytes of a .repo file and of a file of keys."""


def prove(order: ProofOrder) -> Proof:
    """Prove that a client can install the order's packages. PipelineError names the step that failed."""
    with closing(Transcript(Path(order.transcript))) as transcript:
        return _prove(order, transcript)


def _prove(order: ProofOrder, transcript: Transcript) -> Proof:
    start = time.monotonic()
    steps = steps_of(order)
    program = find_program(order.program, order.system)
    for folder in order.library_path:
        if not Path(folder).is_absolute() or not Path(folder).is_dir():
            raise PipelineError("no such folder of libraries", folder, "Correct library_path: absolute, on this host")
        if Path(folder).stat().st_mode & 0o005 != 0o005:
            raise PipelineError(
                "the account of the program may not read this folder of libraries", folder, f"chmod -R o+rX {folder}"
            )
    site = (order.at or order.url).rstrip("/")
    url = f"{site}/{repo_file_name(order.channel)}"
    repo = read_repo_file(fetch(url).decode(errors="replace"), order.url, url)
    try:
        trusted = fingerprints_of(Path(order.trusted_keys).read_bytes(), order.trusted_keys)
    except OSError as error:
        raise PipelineError(
            f"the trusted keys cannot be read: {error.strerror}", order.trusted_keys, "Export them from the signer"
        ) from error
    key = f"{site}/{KEYS_NAME}"
    offered = as_gpg_reads(fetch(key), key)
    if strangers := set(fingerprints_of(offered.encode(), key)) - set(trusted):
        raise PipelineError(
            f"the site offers a key that is not trusted: {', '.join(sorted(strangers))}",
            key,
            f"Find out who put it there; the trusted keys are in {order.trusted_keys}",
        )

    with Client(transcript, order.library_path, Path(order.system), order.url, order.at) as client:
        fingerprints = (f for primary, subkeys in trusted.items() for f in (primary, *subkeys))
        prover = Prover(order, client, program, repo, fingerprints)
        versions = prover.client_versions()
        client.write(CLIENT_KEYS, offered)
        for step in steps:
            with _name_in_errors(step):
                prover.carry_out(step)
    return Proof(
        client=versions,
        installed=tuple(package.nevra for package in order.packages),
        versions=tuple(prover.versions[package.nevra] for package in order.packages),
        steps=tuple(prover.steps),
        seconds=round(time.monotonic() - start, 3),
        dnf_seconds=round(prover.dnf_seconds, 3),
        provided=prover.provided,
        transcript=str(transcript.path),
    )


class Prover:
    """Carries out the steps of a proof on a client. Each step is the method of its verb's name.

    ``trusted`` holds the fingerprints of the primary keys and subkeys that may sign a package.
    """

    def __init__(self, order: ProofOrder, client: Client, program: str, repo: RepoFile, trusted: Iterable[str]) -> None:
        self.order = order
        self.client = client
        self.program = program
        self.trusted = {fingerprint[-16:].lower() for fingerprint in trusted}
        self.previous = {package.nevra: package for package in previous_packages(order).values()}
        self.packages = {package.nevra: package for package in order.packages} | self.previous
        self.steps: list[ProofStep] = []
        self.versions: dict[str, str] = {}
        self.provided: tuple[str, ...] = ()
        self.dnf_seconds = 0.0
        repository = f"{order.url.rstrip('/')}/{order.path.strip('/')}/"
        self._repos = {"": repo.at(repository) if order.by == "baseurl" else repo.text}
        if order.snapshot:
            self._repos[order.snapshot] = repo.at(f"{repository}snapshots/{order.snapshot}/")
        self._pointed: str | None = None
        self._caches: set[str] = set()
        self._choosers: set[str] = set()
        self._chosen = False
        self._missing: set[str] = set()
        self._before: set[str] = set()
        self._installed: dict[str, Package] = {}

    def carry_out(self, step: ProofStep) -> None:
        self.client.transcript.write(f"\n== {step}\n")
        start = time.monotonic()
        getattr(self, step.verb)(*step.what)
        self.steps.append(ProofStep(step.verb, step.what, round(time.monotonic() - start, 3)))

    def client_versions(self) -> str:
        """The versions of the client's dnf and rpm."""
        versions = []
        for program in (self.program, "rpm"):
            found = re.search(r"\d+(\.\d+)+", self._command(program, "--version"))
            versions.append(f"{program} {found[0] if found else ''}".strip())
        return ", ".join(versions)

    def makecache(self, snapshot: str = "") -> None:
        """Read the metadata, verified by dnf; it must list every package of the proof with its digest.

        If a staged snapshot is proven, the published head must list the previous packages only.
        """
        self._point(snapshot)
        self._dnf("makecache")
        caches = set(self.client.paths("/var/cache/*/*/repodata")) - self._caches
        found = [path for cache in caches for path in self.client.paths(f"{cache}/*primary.xml.gz")]
        if len(caches) != 1 or len(found) != 1:
            raise self._failed(f"dnf's cache got {len(caches)} repositories and {len(found)} primary.xml.gz", "")
        (cache,) = caches
        self._caches |= caches
        if not self.client.paths(f"{cache}/repomd.xml.asc"):
            raise self._failed("dnf did not request the signature of the metadata", "")
        read = hashlib.sha256(self.client.read(f"{cache}/repomd.xml")).hexdigest()
        if snapshot and not snapshot.endswith(f"-{read[:8]}"):
            raise self._failed(f"dnf read metadata with SHA-256 {read}, which is not that of {snapshot}", "")
        metadata = read_primary(gzip.decompress(self.client.read(found[0])))
        wanted = self.packages if snapshot == self.order.snapshot else self.previous
        for package in wanted.values():
            digest = metadata.digests.get(package.nevra, "")
            if digest != package.sha256:
                holder = f"snapshot {snapshot}" if snapshot else "the repository"
                fault = (
                    f"has {package.nevra} with SHA-256 {digest}, not {package.sha256}"
                    if digest
                    else f"does not have {package.nevra}"
                )
                raise PipelineError(
                    f"{holder} {fault}",
                    f"{self.order.url}, {repo_file_name(self.order.channel)}",
                    "Publish the package, or prove a package of the repository",
                )
            self._missing |= metadata.missing[package.nevra]
        if chooser := metadata.chooser:
            self._missing |= metadata.missing[chooser]
            self._choosers.add(snapshot)

    def provide(self) -> None:
        """Install the provider package (rule 3 of ``proof``)."""
        # The provider has exactly the symbols of the client's own libc. The metadata could not give them:
        # createrepo_c keeps only the highest of a package's requirements on libc.so.6.
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
        # Users have the previous packages from the published head, before the snapshot becomes the head.
        snapshot = "" if set(nevras) <= set(self.previous) else self.order.snapshot
        self._point(snapshot)
        self._transaction("install", *nevras, choose=snapshot in self._choosers and not self._chosen)

    def upgrade(self, nevra: str) -> None:
        self._point(self.order.snapshot)
        self._transaction("upgrade", nevra)

    def downgrade(self, nevra: str) -> None:
        self._transaction("downgrade", nevra)

    def run(self, nevra: str) -> None:
        """The command that users type prints the expected version, to the unprivileged account of the service."""
        libraries = ":".join(self.client.places)
        env = {"LD_LIBRARY_PATH": libraries} if libraries else {}
        output = self._command(COMMAND, "--version", env=env, account=ACCOUNT)
        expect = self.order.expect or upstream_version(self.packages[nevra])
        if expect not in output:
            raise self._failed(f"{COMMAND} --version of {nevra} does not print {expect!r}", output)
        self.versions[nevra] = output.strip()

    def remove(self, *nevras: str) -> None:
        names = [self.packages[nevra].name for nevra in nevras]
        last = self._chosen and set(names) == set(self._installed)
        self._dnf("remove", *names, *([CHOOSER] if last else []))
        self._chosen &= not last
        for name, nevra in zip(names, nevras, strict=True):
            if self.client.run("rpm", "-q", name)[0] == 0:
                raise self._failed(f"{nevra} is still installed after its removal", "")
            del self._installed[name]
        if self._installed:
            self._check_command()
        elif left := leftovers(self._before, self.client.changed()):
            raise self._failed(f"{', '.join(nevras)} left {', '.join(left[:10])}", "")

    def _c_library(self) -> str:
        """The client's libc: Debian's path if it exists, else Fedora's."""
        debian = "/lib/x86_64-linux-gnu/libc.so.6"
        return debian if self.client.run("test", "-e", debian)[0] == 0 else "/lib64/libc.so.6"

    def _point(self, snapshot: str) -> None:
        """Write the client's .repo file: the published one, or the one that reads ``snapshot``."""
        if self._pointed != snapshot:
            self.client.write(f"/etc/yum.repos.d/{repo_file_name(self.order.channel)}", self._repos[snapshot])
            self._pointed = snapshot

    def _transaction(self, verb: str, *nevras: str, choose: bool = False) -> None:
        """Run a dnf transaction and check its result.

        After it exactly these packages are installed, signed by a trusted key, and their scriptlets ran: the command
        that users type is the newest package's, and the account of the service exists. With ``choose`` dnf is asked
        for the package mistralrs too (rule 5).
        """
        output = self._dnf(verb, *nevras, *([CHOOSER] if choose else []))
        self._chosen |= choose
        for nevra in nevras:
            name = self.packages[nevra].name
            installed = self.client.run("rpm", "-q", name)[1].splitlines()
            if installed != [nevra]:
                listed = ", ".join(installed)
                raise self._failed(f"dnf succeeded, but rpm does not list {nevra} but {listed!r}", output)
            self._check_package(name, nevra)
            self._installed[name] = self.packages[nevra]
        if choose:
            self._check_choice(output)
        self._check_command()
        self._command("getent", "passwd", ACCOUNT)

    def _check_package(self, name: str, nevra: str) -> None:
        """The installed package is signed by a trusted key, and its files are as packaged."""
        signer = signer_of(self._command("rpm", "-qi", name))
        if signer not in self.trusted:
            raise self._failed(f"{nevra} is signed by {signer or 'nobody'}, not by a trusted key", "")
        self._command("rpm", "-V", name)

    def _check_choice(self, output: str) -> None:
        """The name mistralrs is that of a package, and brought no flavour along."""
        installed = set(self._command("rpm", "-qa", "--qf", r"%{NAME}\n", "mistralrs*").split())
        if more := sorted(installed - {CHOOSER, PROVIDER, *self._installed}):
            raise self._failed(f"dnf install {CHOOSER} installed {', '.join(more)}, which nobody asked for", output)
        if CHOOSER not in installed:
            raise self._failed(f"dnf install {CHOOSER} did not install the package of that name", output)
        self._check_package(CHOOSER, CHOOSER)

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
            # Plugins are those of the client's system, and no default of Fedora's.
            options = ("-y", "--setopt=plugins=0", f"--releasever={self.order.releasever}")
            return self._command(self.program, *options, verb, *words)
        finally:
            self.dnf_seconds += time.monotonic() - start

    def _command(self, *argv: str, env: dict[str, str] | None = None, account: str = "root") -> str:
        status, output = self.client.run(*argv, env=env, account=account)
        if status != 0:
            raise self._failed(f"{shlex.join(argv)} failed with status {status}", output)
        return output

    def _failed(self, what: str, output: str) -> PipelineError:
        last = f": {last_words(output, 5)}" if output.strip() else ""
        return PipelineError(f"{what}{last}", str(self.client.transcript.path), remedy_for(output))


@contextmanager
def _name_in_errors(step: ProofStep) -> Iterator[None]:
    try:
        yield
    except PipelineError as error:
        raise PipelineError(f"the client failed to {step}: {error.what}", error.where, error.remedy) from error


def find_program(wanted: str, system: str) -> str:
    """The name of ``system``'s dnf: ``wanted``, or the newest one installed."""
    if not Path(system, "usr/bin").is_dir():
        raise PipelineError(
            "there is no system to copy", system, "Give its root; scripts/system-tree forky makes such a tree"
        )
    names = (wanted,) if wanted else ("dnf5", "dnf")
    for name in names:
        if shutil.which(name, path=":".join(f"{system.rstrip('/')}{folder}" for folder in PATH.split(":"))):
            return name
    if system == "/":
        raise ProgramMissing(" or ".join(names))
    raise PipelineError(f"this system has no {' or '.join(names)}", system, "Install it there, or give another system")


def fetch(url: str) -> bytes:
    """A small file of the site."""
    try:
        with opener(url).open(url, timeout=30) as answer:
            data = bytes(answer.read(LARGEST + 1))
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"the site does not serve this file: {error}", url, "Check that the web server answers"
        ) from error
    if len(data) > LARGEST:
        raise PipelineError(f"this file of the site has more than {LARGEST >> 20} MiB", url, "Check what it serves")
    return data


def as_gpg_reads(keys: bytes, where: str) -> str:
    """The keys that gpg finds, as users write them (docs/user.md): in a damaged file rpm finds keys that gpg hides."""
    return gpg_output(keys, where, "--armor", "--import-options", "import-export", "--import")


def fingerprints_of(keys: bytes, where: str) -> dict[str, tuple[str, ...]]:
    """The primary keys of an armored file, with their subkeys."""
    listing = gpg_output(keys, where, "--with-colons", "--show-keys")
    if not (found := parse_fingerprints(listing)):
        raise PipelineError("no public key in this file", where, "Export the key again")
    return found
