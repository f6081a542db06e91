"""From an artifact that a builder handed over to an unsigned RPM, and from an RPM file to its record.

The spec, with its plain command line, is rpm/mistralrs.spec. Rules:

1. The signer packages: with its own spec, in a sandbox of its own, what ``handover.take`` accepted. All that names the
   package (flavour, version, release, commit) is the signer's.
2. The digest of the inputs names the folder ``packages/<digest16>/`` with the RPM and manifest.json, its Package
   record. If both exist and match, nothing is built.
3. rpmbuild gets its own topdir and home, so that no configuration of the account has an effect, and the commit's time:
   the same inputs give the same bytes on every signer with the same rpm.
4. A package is kept only after its record was read back from the RPM and has the expected name, version and commit.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from ..base.companions import LICENCE, TEMPLATES
from ..base.errors import PipelineError
from ..base.findings import Finding, refuse
from ..base.lock import held
from ..base.records import COMMIT_CAPABILITY, Package, digest_of, sha256_file
from ..base.run import CommandFailed, run
from ..base.sandbox import Sandbox
from ..base.text import last_words
from .handover import Handed, templates_archive

SPEC = "mistralrs.spec"
UNIT = "systemd/mistralrs@.service"
EXAMPLE = "systemd/mistralrs@.conf.example"
# Seconds. rpmbuild compresses some 300 MB at a high level, which takes long on a busy signer.
TIMEOUT = 2 * 3600

_QUERY = r"%{NAME}\n%{VERSION}\n%{RELEASE}\n%{ARCH}\n[%{PROVIDENAME} %{PROVIDEVERSION}\n]"


@dataclass(frozen=True)
class Packaging:
    """The inputs of a package. ``dist`` is the suffix of the release number (".fc43")."""

    handed: Handed
    root: Path
    spec_folder: Path
    package_release: str
    dist: str

    def defines(self) -> dict[str, str]:
        """The spec's macros by name."""
        source, flavour = self.handed.artifact.source, self.handed.artifact.flavour
        return {
            "dist": self.dist,
            "mistralrs_version": source.rpm_version,
            "mistralrs_flavour": flavour.name,
            "mistralrs_release": self.package_release,
            # A tag of a spec holds no blank; a URL that is one stays as it is.
            "mistralrs_url": quote(source.url, safe="%:/?#[]@!$&'()*+,;=~"),
            "mistralrs_commit": source.commit,
            "mistralrs_summary": flavour.summary,
            "mistralrs_cuda": flavour.cuda or "none",
            "mistralrs_driver": str(flavour.driver),
            # Of several installed flavours the newest generation wins, and every GPU wins over cpu.
            "mistralrs_priority": flavour.compute_cap or "10",
        }

    def expected(self) -> Package:
        """The package as known before the build: without path, digest and size."""
        artifact = self.handed.artifact
        return Package(
            name=artifact.flavour.package_name,
            version=artifact.source.rpm_version,
            release=f"{self.package_release}{self.dist}",
            arch=os.uname().machine,
            commit=artifact.source.commit,
            path="",
            sha256="",
            size=0,
        )

    def own_sources(self) -> dict[str, Path]:
        """The signer's own files by their name in the inputs' digest."""
        files = {name: self.spec_folder / name for name in (SPEC, UNIT, EXAMPLE)}
        for name, path in files.items():
            if not path.is_file():
                raise PipelineError(f"{name} is missing", str(path), "Restore rpm/ of this project")
        return files

    @cached_property
    def inputs(self) -> str:
        """SHA-256 of everything that determines the package's bytes, except the versions of rpm and zstd."""
        digests = {name: sha256_file(path) for name, path in self.own_sources().items()}
        return digest_of([self.handed.files | digests, self.defines(), self.handed.artifact.source.commit_time])

    def finished(self) -> Package | None:
        """The package of an earlier run with the same inputs, if its file is intact."""
        return made(self._folder())

    def build(self, topdir: Path) -> Package:
        """Run rpmbuild in ``topdir`` and keep its package. PipelineError: nothing was kept."""
        flavour = self.handed.artifact.flavour
        self._lay_out(topdir / "SOURCES")
        log = self.root / "log" / f"rpmbuild-{flavour.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            output = run_rpmbuild(
                self.spec_folder / SPEC, topdir, self.defines(), self.handed.artifact.source.commit_time, TIMEOUT,
                readable=(self.handed.folder,),
            )  # fmt: skip
        except CommandFailed as error:
            log.write_text(error.stdout + error.stderr)
            raise PipelineError(
                f"rpmbuild could not make {flavour.package_name}: {rpm_errors(error.stderr or error.stdout)}",
                where=str(log),
                remedy="Fix the error in the log; the binary is kept and not built again",
            ) from error
        log.write_text(f"{output}# rpmbuild took {time.monotonic() - began:.1f} s\n")
        found = list((topdir / "RPMS").glob("*/*.rpm"))
        if len(found) != 1:
            raise PipelineError(f"rpmbuild made {len(found)} packages instead of one", str(log), "Read the log")
        return self._keep(found[0])

    def _keep(self, rpm: Path) -> Package:
        """Move the package to its folder if it is the expected one."""
        package, expected, folder = read_package(rpm), self.expected(), self._folder()
        if (package.nevra, package.commit) != (expected.nevra, expected.commit):
            raise PipelineError(
                f"rpmbuild made {package.nevra} of commit {package.commit or 'unknown'}, "
                f"not {expected.nevra} of {expected.commit}",
                where=str(self.spec_folder / SPEC),
                remedy="Compare the spec with the defines in the log",
            )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        final = folder / package.filename
        rpm.replace(final)
        kept = Package(**{**package.to_dict(), "path": str(final)})
        kept.write(folder / "manifest.json")
        return kept

    def _lay_out(self, sources: Path) -> None:
        """Fill SOURCES. The templates become one tar file, since a source of rpmbuild is a file."""
        sources.mkdir(parents=True)
        (sources / self.handed.artifact.flavour.package_name).symlink_to(self.handed.binary.absolute())
        for path in self.own_sources().values():
            if path.name != SPEC:
                (sources / path.name).symlink_to(path.absolute())
        if LICENCE in self.handed.files:
            (sources / LICENCE).symlink_to((self.handed.folder / LICENCE).absolute())
        if (self.handed.folder / TEMPLATES).is_dir():
            templates_archive(self.handed.folder, sources / f"{TEMPLATES}.tar")

    def _folder(self) -> Path:
        return self.root / "packages" / self.inputs[:16]


def made(folder: Path) -> Package | None:
    """The package that the signer made into ``folder``, if its file and its record are intact."""
    try:
        package = Package.read(folder / "manifest.json")
        intact = sha256_file(Path(package.path)) == package.sha256
    except (OSError, PipelineError):
        return None
    return package if intact and Path(package.path).parent == folder else None


def tools_finding() -> Finding:
    """Whether rpmbuild runs in its sandbox on this host, the signer."""
    check, needed = "packaging", "rpmbuild in a sandbox"
    try:
        return Finding.ok(check, Sandbox().run(["rpmbuild", "--version"], timeout=60).stdout.strip(), needed)
    except PipelineError as error:
        remedy = "Install rpmbuild and bubblewrap (bindep.txt names their packages), and allow user namespaces"
        return Finding.bad(check, error.what, needed, remedy)


def require_tools() -> None:
    """PipelineError unless this host can package."""
    refuse([tools_finding()], "the signer cannot package", "this host", "Nothing was built")


_TOPDIR, _SPECS = Path("/rpmbuild"), Path("/rpm")  # inside


def run_rpmbuild(
    spec: Path,
    topdir: Path,
    defines: Mapping[str, str],
    built: int,
    timeout: float,
    readable: Sequence[Path] = (),
) -> str:
    """Run rpmbuild in a sandbox that reads the spec's folder and ``readable``, and writes ``topdir``; its output.

    Inside, the spec and ``topdir`` have plain paths of their own: rpm's macros and shell split a path at a blank.
    ``built`` is the time in the package. Raises CommandFailed.
    """
    sandbox = Sandbox(
        readable=(spec.parent, *readable),
        places={_SPECS: spec.parent},
        writable_places={_TOPDIR: topdir},
        environment=rpmbuild_environment(_TOPDIR, built),
        cwd=_TOPDIR,
    )
    done = sandbox.run(rpmbuild_argv(_SPECS / spec.name, _TOPDIR, defines), timeout=timeout)
    return done.stdout + done.stderr


def rpmbuild_argv(spec: Path, topdir: Path, defines: Mapping[str, str]) -> list[str]:
    """The command line. Values are escaped: a percent sign in them starts no macro."""
    words = ["rpmbuild", "-bb"]
    for name, value in {"_topdir": str(topdir), **defines}.items():
        words += ["--define", f"{name} {' '.join(value.replace('%', '%%').split())}"]
    return [*words, str(spec)]


def rpmbuild_environment(topdir: Path, built: int) -> dict[str, str]:
    """rpmbuild's environment: the time in the package, and a home without anyone's macros."""
    return {
        "SOURCE_DATE_EPOCH": str(built),
        "HOME": str(topdir),
        "XDG_CONFIG_HOME": str(topdir),
        "TZ": "UTC",
    }


def rpm_errors(output: str) -> str:
    """The last errors in the output of rpm or rpmbuild, else its last lines without the trace of shell commands."""
    # On Debian rpm's database is in HOME, and reading a file needs none.
    noise = ("+", "error: cannot open Packages database")
    lines = [line for line in output.splitlines() if not line.startswith(noise)]
    errors = [line for line in lines if line.strip().startswith("error:")]
    return last_words("\n".join(errors or lines), 5)


def read_package(path: Path) -> Package:
    """The record of an RPM file, with its digest and size.

    Checks the header's digest, but no signature: that is the task of the signer and the agent.
    """
    try:
        # In its folder: rpm takes quotes and brackets in a path for those of a shell.
        words = ["rpm", "-qp", "--nosignature", "--qf", _QUERY, "--", path.name]
        text = run(words, cwd=path.parent, timeout=120).stdout
    except CommandFailed as error:
        raise PipelineError(
            f"not a readable RPM package: {rpm_errors(error.stderr)}",
            where=str(path),
            remedy="Delete it; the next run makes it again",
        ) from error
    name, version, release, arch, *provides = text.splitlines()
    return Package(
        name=name,
        version=version,
        release=release,
        arch=arch,
        commit=commit_of(provides),
        path=str(path),
        sha256=sha256_file(path),
        size=path.stat().st_size,
    )


def commit_of(provides: list[str]) -> str:
    """The commit among provides, lines of "NAME VERSION"; "" for a package that was not built from upstream."""
    return next((line.split()[1] for line in provides if line.startswith(f"{COMMIT_CAPABILITY} ")), "")


@contextmanager
def alone(folder: Path) -> Iterator[Path]:
    """An empty folder at a fixed path, locked for one run and removed after it."""
    with held(folder.with_name(f"{folder.name}.lock")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
