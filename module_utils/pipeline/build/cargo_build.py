"""A build from the checkout to the artifact, with its manifest, log and report.

Rules:

1. A builder runs one build at a time, since all builds share the checkout: a second build waits.
2. All flavours share one target directory, so that common units are compiled once; units of the GPU are kept apart
   by variant (variants).
3. Only the download before the compile sees the caller's proxies and certificates.
4. An artifact's folder appears complete or not at all. Its manifest records the flags that cargo itself recorded.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Artifact, sha256_file
from ..base.run import run
from ..cache.compile_cache import Session, Usage, session
from ..source.checkout import Checkout, move
from ..toolchain import nvcc
from . import processes, report, variants
from .cargo import Cargo
from .fetch import fetch, packages
from .inputs import REMAP, Build, build_argv, environment
from .report_data import Level, Observed, build_report

# Files of upstream's tree that a package contains beside the binary.
_COMPANIONS = ("LICENSE", "chat_templates")


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
    warn: Callable[[str], object] = lambda _: None,
) -> Artifact:
    """Move the checkout, fetch, compile and collect.

    Output and progress are added to ``log``; the report is beside it. ``warn`` gets the warnings of a successful
    build. ``alive`` and ``lease`` stop a build whose controller is gone (Cargo).
    """
    for folder in (build.target, build.root / "home", build.root / "cargo", log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    name, cargo = build.flavour.name, build.rust.bin / "cargo"
    with log.open("a", buffering=1) as stream, _builder_lock(build.root, stream, name):
        began = time.time()
        phases = _Phases()
        report.rotate(log.parent, name, build.logs_kept, log)
        tree = move(build.checkout, build.source, build.package)
        stream.write(f"# {build.source.ref} {build.source.commit} flavour {name}, inputs {build.inputs}\n")
        _enter_variant(build, stream)
        phases.end("checkout")
        locked = fetch(
            build.checkout, cargo, environment(build), build.locked, stream,
            mirrors=build.mirrors, package=build.package, features=build.flavour.features,
        )  # fmt: skip
        phases.end("fetch")
        stream.write(f"[{name}] crates are here, compiling\n")
        with tempfile.TemporaryDirectory(prefix="build-") as scratch:
            queue = nvcc.queue(Path(scratch), build.parallel.nvcc) if build.variant else {}
            # The server starts inside the watch: its memory is counted, and a failed build kills its compilers.
            with (
                processes.watched() as peak,
                session(
                    build.cache, environment(build), stream, scratch=Path(scratch), shared=True, sandboxed=False
                ) as cache,
            ):
                variables = {**environment(build), **queue, **cache.variables}
                argv = cache.command(build_argv(build, locked=locked))
                messages = Cargo(stream, name, alive, lease).run(argv, build.checkout, variables, phases.began)
            calls = nvcc.calls(Path(scratch))
        phases.end("compile")
        metadata = packages(
            build.checkout, cargo, environment(build), build.package, build.flavour.features, locked=locked
        )
        variants.learn(build.target, messages, metadata)
        variants.sweep(build.target, messages, time.time())
        artifact = _collect(
            build, tree, messages, log=log, locked=locked, seconds=round(time.time() - began, 1),
            usage=cache.usage or Usage(), peak=peak,
        )  # fmt: skip
        phases.end("collect")
        warnings = _report(build, artifact, messages, calls, cache, peak, began=began, phases=phases.seconds)
        for warning in [*cache.warnings, *warnings]:
            warn(warning)
        return artifact


def _enter_variant(build: Build, stream: IO[str]) -> None:
    """Put the build's variant in place, and its wrapper of nvcc."""
    name = build.flavour.name
    # cargo's own lock of the target directory: the cargo of a killed module may still be running.
    lock = build.target / "release" / ".cargo-lock"
    with held(lock, lambda: print(f"[{name}] waiting for a cargo that still runs here", file=stream)):
        variants.enter(build.target, build.variant)
        if build.variant:
            nvcc.wrapped(Path(build.toolkit), build.root, build.toolkit_version)
            if forgotten := variants.forget_kernels(build.target, build.variant, build.checkout):
                stream.write(f"kernel headers changed: {', '.join(forgotten)} recompile from nothing\n")


def _builder_lock(root: Path, stream: IO[str], name: str) -> AbstractContextManager[None]:
    return held(root / "lock", lambda: print(f"[{name}] waiting for another build here", file=stream))


class _Phases:
    """Seconds by phase, in their order."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self.last, 2)
        self.last = now


def used_rustflags(target: Path, package: str, binary: Path) -> str:
    """The flags that cargo recorded for the binary, wherever they were configured, without the path mapping."""
    folder = target / "release" / ".fingerprint" / f"{package}-{variants.unit_of(binary, target)}"
    record = folder / f"bin-{binary.name}.json"
    if not record.is_file():
        raise PipelineError(
            f"cargo left no fingerprint for {binary}", str(target), "Use a release of cargo that this project supports"
        )
    flags = json.loads(record.read_text()).get("rustflags", [])
    return " ".join(flag for flag in flags if not flag.startswith(REMAP))


def _collect(
    build: Build,
    tree: Checkout,
    messages: list[dict[str, Any]],
    *,
    log: Path,
    locked: bool,
    seconds: float,
    usage: Usage,
    peak: processes.Peak,
) -> Artifact:
    """Copy the binary and its companions into the artifact's folder, with the manifest."""
    units = [m for m in messages if m.get("reason") == "compiler-artifact"]
    binaries = [m["executable"] for m in units if m.get("executable") and m["target"]["name"] == build.binary]
    if not binaries:
        raise PipelineError(f"cargo built no binary {build.binary}", str(log), "Check upstream_binary")
    binary, fresh = Path(binaries[-1]), sum(bool(m["fresh"]) for m in units)
    build.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=build.folder.parent) as name:
        folder = Path(name) / "artifact"
        folder.mkdir()
        shutil.copy2(binary, folder / build.binary)
        for companion in _COMPANIONS:
            origin = build.checkout / companion
            if origin.is_dir():
                shutil.copytree(origin, folder / companion)
            elif origin.is_file():
                shutil.copy2(origin, folder / companion)
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
            rustflags=used_rustflags(build.target, build.package, binary),
            locked=locked,
            incremental=build.incremental,
            seconds=seconds,
            compiled=len(units) - fresh,
            fresh=fresh,
            cache=usage.kinds,
            peak_memory=peak.together,
            planned_memory=build.parallel.memory,
            log=str(log),
            report=str(log.with_suffix(".html")),
        )
        artifact.write(folder / "manifest.json")
        shutil.rmtree(build.folder, ignore_errors=True)
        folder.rename(build.folder)
    return artifact


def _report(
    build: Build,
    artifact: Artifact,
    messages: list[dict[str, Any]],
    calls: str,
    cache: Session,
    peak: processes.Peak,
    *,
    began: float,
    phases: dict[str, float],
) -> list[str]:
    """Write the report beside the log; returns its warnings."""
    usage = cache.usage or Usage()
    observed = Observed(
        began=began, root=str(build.root), parallel=build.parallel, messages=messages, calls=calls,
        timings=_timings(build.target / "cargo-timings"),
        sections=run(["readelf", "-SW", build.folder / build.binary]).stdout,
        kinds={kind.kind: {"hits": kind.hits, "misses": kind.misses} for kind in usage.kinds},
        not_cached=usage.not_cached, cache=Level(cache.version, usage.size, usage.limit, cache.shared_down),
        phases=phases, memory=peak.together, programs=peak.programs,
        host_compiler=run(["gcc", "--version"]).stdout.partition("\n")[0],
    )  # fmt: skip
    return report.leave(build_report(artifact, observed))[1]


def _timings(folder: Path) -> str:
    """The newest page of ``cargo build --timings``. All pages are deleted: cargo adds one in each build."""
    newest = folder / "cargo-timing.html"
    text = newest.read_text(errors="replace") if newest.exists() else ""
    for page in folder.glob("cargo-timing*.html"):
        page.unlink()
    return text
