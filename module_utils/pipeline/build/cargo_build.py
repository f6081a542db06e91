"""A build from the checkout to the artifact, with its manifest, log and report.

    outside: move the checkout --> cargo fetch, CUTLASS --> | sandbox: inside | --> take over, manifest, report

Rules:

1. A builder runs one build at a time, since builds share CARGO_HOME and their trust's state: a second build waits.
2. All flavours share one target directory, so that common units are compiled once; units of the GPU are kept apart
   by variant (variants).
3. Everything that runs upstream's code, or touches what it wrote, runs in one sandbox (inside). What is outside runs
   none of it, and reads only what handover takes.
4. Only the download before the compile sees the caller's proxies and certificates.
5. An artifact's folder appears complete or not at all. Its manifest records the flags that cargo itself recorded.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Artifact, sha256_file
from ..base.run import run
from ..cache.shared_cache import Reached, reached
from ..report import report
from ..report.report_data import Costs, Link, amounts, build_report, largest
from ..source.checkout import move
from ..source.manifest import Tree, look
from ..source.trust import RELEASE
from ..toolchain import nvcc
from ..toolchain.verified import verify_programs
from . import handover, layers, processes
from .fetch import fetch, refuse_configuration_above
from .inputs import Build, build_argv, download_environment, environment
from .inside import Job, Result
from .limits import machine
from .progress import Estimate
from .watch import Watch


def existing(build: Build) -> Artifact | None:
    """The complete artifact of these inputs; None if it is missing, damaged or of another version of this project."""
    manifest = build.folder / "manifest.json"
    try:
        artifact = Artifact.read(manifest)
    except (OSError, PipelineError):
        return None
    binary = build.folder / artifact.binary
    complete = artifact.inputs == build.inputs and binary.is_file() and sha256_file(binary) == artifact.sha256
    return artifact if complete else None


def make(
    build: Build,
    log: Path,
    *,
    alive: Path | None = None,
    lease: float = 0,
    links: Mapping[str, str] | None = None,
    warn: Callable[[str], object] = lambda _: None,
) -> Artifact:
    """Move the checkout, fetch, compile and collect.

    Output and progress are added to ``log``; the report is beside it. ``warn`` gets the warnings of a successful
    build. ``alive`` and ``lease`` stop a build whose controller is gone (Lease). ``links`` are URLs for the report, by
    their name. Another run that builds here is awaited; if it made this very artifact, that one is returned as it is:
    the other run may be handing it over.
    """
    for folder in (build.root / "home", build.root / "cargo", build.root / "cudaforge", build.state, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    name, cargo, checkout = build.flavour.name, build.rust.bin / "cargo", build.state / "src"
    with log.open("a", buffering=1) as stream, _builder_lock(build.root, stream, name) as waited:
        if waited and (artifact := existing(build)):
            stream.write(f"[{name}] another run built it\n")
            return artifact
        began = int(time.time())
        phases = _Phases()
        report.rotate(log.parent, name, build.logs_kept, log)
        verify_programs(build.root, build.programs)
        layers.renew(build)
        move(checkout, build.source)
        tree = look(
            checkout, build.source.commit, build.package, cargo, build.flavour.features, protected=build.protected
        )
        stream.write(f"# {build.source.ref} {build.source.commit} flavour {name}, inputs {build.inputs}\n")
        for note in build.unprotected:
            stream.write(f"# {note}\n")
        if build.variant:
            nvcc.wrapped(Path(build.toolkit), build.root, build.toolkit_version, build.inside)
        phases.end("checkout")
        if not build.protected:
            refuse_configuration_above(checkout)
        locked = fetch(
            checkout, cargo, download_environment(build), build.locked, stream,
            mirrors=build.mirrors, package=build.package, features=build.flavour.features,
        )  # fmt: skip
        phases.end("fetch")
        stream.write(f"[{name}] crates are here, compiling\n")
        settings, warnings = _cache_settings(build, stream)
        level = layers.cache_level(settings)
        with layers.prepared(build) as folders:
            before = layers.changing(build)
            with processes.watched() as peak, _cache(build, folders, settings, stream) as cache:
                job = _job(build, folders, cache.settings, locked=locked)
                Watch(stream, name, alive, lease, Estimate(report.usual(log.parent, name))).follow(
                    lambda: layers.start(build, folders, level, job.text()), phases.began
                )
            phases.end("compile")
            made = handover.take_result(folders.output)
            if not made.changed:
                layers.unchanged(build, before)
            artifact = _collect(
                build, tree, made, folders.output, log=log, locked=locked,
                seconds=round(time.monotonic() - phases.began, 1), peak=peak,
            )  # fmt: skip
        phases.end("collect")
        written = build_report(
            artifact, _costs(made, cache), began=began, root=str(build.root), parallel=build.parallel,
            phases=amounts(phases.seconds), memory=peak.together,
            programs=largest(peak.programs)[: report.LARGEST_PROGRAMS],
            host_compiler=run(["gcc", "--version"]).stdout.partition("\n")[0],
            trust=build.trust, unprotected=build.unprotected, machine=machine(),
            links=tuple(Link(name, url) for name, url in (links or {}).items()),
        )  # fmt: skip
        for warning in [*warnings, *cache.warnings, *made.warnings, *report.leave(written)[1]]:
            warn(warning)
        return artifact


def _cache_settings(build: Build, stream: IO[str]) -> tuple[dict[str, str] | None, list[str]]:
    """The settings of the compile cache, and warnings; None without a usable cache. Creates its disk level."""
    if build.cache is None:
        return None, []
    try:
        settings = build.cache.read()
        if build.apart and not build.protected:
            settings["SCCACHE_DIR"] = str(build.state / "cache" / "sccache")
        if level := layers.cache_level(settings):
            level.mkdir(parents=True, exist_ok=True)
    except (OSError, PipelineError) as error:
        text = f"compile cache: its settings cannot be used ({error}); compiling without it"
        stream.write(f"{text}\n")
        return None, [text]
    return settings, []


def _cache(
    build: Build, folders: layers.Folders, settings: dict[str, str] | None, stream: IO[str]
) -> AbstractContextManager[Reached]:
    place = folders.scratch / "relay"
    inside = layers.SCRATCH / "relay" if build.protected else place
    return reached(settings, place, inside, stream, release=build.trust == RELEASE, protected=build.protected)


def _costs(made: Result, cache: Reached) -> Costs:
    """The costs that the inside reports, with the state of the shared level, which it does not know."""
    level = dataclasses.replace(made.costs.cache, shared_down=made.costs.cache.shared_down or cache.down)
    return dataclasses.replace(made.costs, cache=level)


def _job(build: Build, folders: layers.Folders, settings: dict[str, str] | None, *, locked: bool) -> Job:
    # The sandbox's own /tmp. Without a sandbox the host's /tmp may be small, and nvcc's temporary files are large.
    scratch = str(layers.SCRATCH if build.protected else folders.scratch)
    if level := layers.cache_level(settings):
        settings = {**(settings or {}), "SCCACHE_DIR": str(build.inside(level))}
    return Job(
        flavour=build.flavour.name,
        features=build.flavour.features,
        variant=build.variant,
        package=build.package,
        binary=build.binary,
        locked=locked,
        argv=build_argv(build, locked=locked),
        environment=environment(build) | {"TMPDIR": scratch},
        root=str(build.inside(build.root)),
        checkout=str(build.checkout),
        target=str(build.target),
        scratch=scratch,
        output=str(layers.OUTPUT if build.protected else folders.output),
        slots=build.parallel.nvcc if build.variant else 0,
        sccache=str(build.inside(build.cache.program)) if build.cache else "",
        settings=settings,
    )


@contextmanager
def _builder_lock(root: Path, stream: IO[str], name: str) -> Iterator[list[str]]:
    """Hold the builder. Yields a list that is not empty if another run had it first."""
    waited: list[str] = []

    def wait() -> None:
        waited.append(name)
        print(f"[{name}] waiting for another build here", file=stream)

    with held(root / "lock", wait):
        yield waited


class _Phases:
    """Seconds by phase, in their order."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self.last, 2)
        self.last = now


def _collect(
    build: Build,
    tree: Tree,
    made: Result,
    output: Path,
    *,
    log: Path,
    locked: bool,
    seconds: float,
    peak: processes.Peak,
) -> Artifact:
    """Take the binary and its companions over into the artifact's folder, with the manifest."""
    build.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=build.folder.parent) as name:
        folder = Path(name) / "artifact"
        folder.mkdir()
        handover.take_binary(output, folder / build.binary)
        handover.take_companions(build.state / "src", build.source.commit, folder)
        artifact = Artifact(
            source=build.source,
            flavour=build.flavour,
            inputs=build.inputs,
            folder=str(build.folder),
            binary=build.binary,
            crate_version=tree.crate_version,
            sha256=sha256_file(folder / build.binary),
            size=(folder / build.binary).stat().st_size,
            rustc=build.rust.version,
            cuda=build.toolkit_version if build.flavour.cuda else "",
            rustflags=made.rustflags,
            locked=locked,
            incremental=build.incremental,
            seconds=seconds,
            compiled=made.compiled,
            fresh=made.fresh,
            cache=made.costs.kinds,
            peak_memory=peak.together,
            planned_memory=build.parallel.memory,
            log=str(log),
            report=str(log.with_suffix(".html")),
        )
        artifact.write(folder / "manifest.json")
        shutil.rmtree(build.folder, ignore_errors=True)
        folder.rename(build.folder)
    return artifact
