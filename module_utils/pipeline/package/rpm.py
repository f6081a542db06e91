"""From an artifact to an unsigned RPM, and from an RPM file to its record.

The spec, with its plain command line, is rpm/mistralrs.spec. Rules:

1. The digest of the inputs names the folder ``packages/<digest16>/`` with the RPM and manifest.json, its Package
   record. If both exist and match, nothing is built.
2. rpmbuild gets its own topdir and home, so that no configuration of the account has an effect, and the commit's time:
   the same inputs give the same bytes on every builder with the same rpm.
3. A package is kept only after it was read back and has the expected name, version and commit.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import COMMIT_CAPABILITY, Artifact, Package, digest_of, sha256_file
from ..base.run import CommandFailed, run
from ..base.text import last_words

SPEC = "mistralrs.spec"
UNIT = "systemd/mistralrs@.service"
EXAMPLE = "systemd/mistralrs@.conf.example"
LICENCE = "LICENSE"
TEMPLATES = "chat_templates"
# Seconds. rpmbuild compresses some 300 MB at a high level, which takes long on a busy builder.
TIMEOUT = 2 * 3600

_QUERY = r"%{NAME}\n%{VERSION}\n%{RELEASE}\n%{ARCH}\n[%{PROVIDENAME} %{PROVIDEVERSION}\n]"


@dataclass(frozen=True)
class Packaging:
    """The inputs of a package. ``dist`` is the suffix of the release number (".fc43")."""

    artifact: Artifact
    root: Path
    spec_folder: Path
    package_release: str
    dist: str

    @property
    def binary(self) -> Path:
        return Path(self.artifact.folder) / self.artifact.binary

    def defines(self) -> dict[str, str]:
        """The spec's macros by name."""
        source, flavour = self.artifact.source, self.artifact.flavour
        return {
            "dist": self.dist,
            "mistralrs_version": source.rpm_version,
            "mistralrs_flavour": flavour.name,
            "mistralrs_release": self.package_release,
            "mistralrs_url": source.url,
            "mistralrs_commit": source.commit,
            "mistralrs_summary": flavour.summary,
            "mistralrs_cuda": flavour.cuda or "none",
            "mistralrs_driver": str(flavour.driver),
            # Of several installed flavours the newest generation wins, and every GPU wins over cpu.
            "mistralrs_priority": flavour.compute_cap or "10",
        }

    def expected(self) -> Package:
        """The package as known before the build: without path, digest and size."""
        return Package(
            name=self.artifact.flavour.package_name,
            version=self.artifact.source.rpm_version,
            release=f"{self.package_release}{self.dist}",
            arch=os.uname().machine,
            commit=self.artifact.source.commit,
            path="",
            sha256="",
            size=0,
        )

    def sources(self) -> dict[str, Path]:
        """The source files of rpmbuild, by their name in the inputs' digest."""
        artifact = Path(self.artifact.folder)
        if not self.binary.is_file():
            raise PipelineError("the binary is missing", str(self.binary), "Build again")
        files = {"mistralrs": self.binary}
        for name in (SPEC, UNIT, EXAMPLE):
            files[name] = self.spec_folder / name
            if not files[name].is_file():
                raise PipelineError(f"{name} is missing", str(files[name]), "Copy rpm/ of this project there")
        if (artifact / LICENCE).is_file():
            files[LICENCE] = artifact / LICENCE
        for path in sorted((artifact / TEMPLATES).rglob("*")):
            if path.is_file():
                files[str(path.relative_to(artifact))] = path
        return files

    @cached_property
    def inputs(self) -> str:
        """SHA-256 of everything that determines the package's bytes, except the versions of rpm and zstd."""
        digests = {name: sha256_file(path) for name, path in self.sources().items()}
        if digests["mistralrs"] != self.artifact.sha256:
            raise PipelineError(
                "the binary is not the one that was built and audited: its digest differs",
                where=str(self.binary),
                remedy="Delete its folder and build again",
            )
        return digest_of([digests, self.defines(), self.artifact.source.commit_time])

    def finished(self) -> Package | None:
        """The package of an earlier run with the same inputs, if its file is intact."""
        folder = self._folder()
        try:
            package = Package.read(folder / "manifest.json")
            intact = sha256_file(Path(package.path)) == package.sha256
        except (OSError, PipelineError):
            return None
        return package if intact and Path(package.path).parent == folder else None

    def build(self) -> Package:
        """Run rpmbuild and keep its package. PipelineError: nothing was kept."""
        folder, name = self._folder(), self.artifact.flavour.package_name
        with alone(self.root / "rpmbuild" / self.artifact.flavour.name) as topdir:
            self._lay_out(topdir / "SOURCES")
            log = self.root / "log" / f"rpmbuild-{self.artifact.flavour.name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            try:
                done = run(
                    rpmbuild_argv(self.spec_folder / SPEC, topdir, self.defines()),
                    cwd=topdir,
                    env=rpmbuild_environment(topdir, self.artifact.source.commit_time),
                    timeout=TIMEOUT,
                )
            except CommandFailed as error:
                log.write_text(error.stdout + error.stderr)
                raise PipelineError(
                    f"rpmbuild could not make {name}: {rpm_errors(error.stderr or error.stdout)}",
                    where=str(log),
                    remedy="Fix the error in the log; the binary is kept and not built again",
                ) from error
            took = f"# rpmbuild took {time.monotonic() - began:.1f} s\n"
            log.write_text(done.stdout + done.stderr + took)
            made = list((topdir / "RPMS").glob("*/*.rpm"))
            if len(made) != 1:
                raise PipelineError(f"rpmbuild made {len(made)} packages instead of one", str(log), "Read the log")
            return self._keep(made[0], folder)

    def _keep(self, rpm: Path, folder: Path) -> Package:
        """Move the package to its folder if it is the expected one."""
        package, expected = read_package(rpm), self.expected()
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
        for name, path in self.sources().items():
            if name != SPEC and not name.startswith(f"{TEMPLATES}/"):
                (sources / Path(name).name).symlink_to(path.resolve())
        templates = Path(self.artifact.folder) / TEMPLATES
        if templates.is_dir():
            with tarfile.open(sources / f"{TEMPLATES}.tar", "w") as archive:
                archive.add(templates, arcname=TEMPLATES)

    def _folder(self) -> Path:
        return self.root / "packages" / self.inputs[:16]


def rpmbuild_argv(spec: Path, topdir: Path, defines: dict[str, str]) -> list[str]:
    """The command line. Values are escaped: a percent sign in them starts no macro."""
    words = ["rpmbuild", "-bb"]
    for name, value in {"_topdir": str(topdir), **defines}.items():
        words += ["--define", f"{name} {' '.join(value.replace('%', '%%').split())}"]
    return [*words, str(spec)]


def rpmbuild_environment(topdir: Path, commit_time: int) -> dict[str, str]:
    """rpmbuild's environment: the commit's time, and a home without anyone's macros."""
    return {
        "SOURCE_DATE_EPOCH": str(commit_time),
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
        text = run(["rpm", "-qp", "--nosignature", "--qf", _QUERY, "--", path], timeout=120).stdout
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
