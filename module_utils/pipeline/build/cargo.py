"""Build: one flavour of one commit, by cargo, to a binary with its manifest.

Rules:

1. The paths of the checkout, of CARGO_HOME and of the target directory are fixed below the builder's root:
   they are part of the caches' keys.
2. Cargo's environment is written from a whitelist. Nothing of the caller's reaches the compile; only the
   download before it sees the caller's proxies and certificates.
3. One target directory for all flavours, so that what they share is compiled once; what depends on the GPU is kept
   apart in it (variants).
4. RUSTFLAGS is set, since it alone replaces the ``target-cpu=native`` in upstream's .cargo/config.toml;
   the manifest records the flags that cargo says it used.
5. An artifact's folder is named by the digest of its inputs and appears whole or not at all.
6. A compile cache makes a build quicker and decides nothing: it is not part of the inputs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Artifact, Flavour, Source, digest_of, sha256_file
from ..base.run import run
from ..cache.compile_cache import Cache, Session, Usage, session
from ..source.checkout import Checkout, move
from ..source.mirrors import Mirrors
from ..toolchain.rustc import Rust
from . import nvcc, processes, report, variants
from .failures import CompileFailed, explain
from .fetch import fetch, packages
from .limits import Parallel, of_this_host
from .progress import LineReader, Progress
from .report import Level, Observed

BUILDER = "/builder"
"""What stands in a binary in the place of the builder's root, in panic messages and the like."""

EPOCH = 315532800
"""The time that a build knows, 1980-01-01 (zip files hold no earlier one). It is the same for every commit: what reads
it (rust-embed, built, __DATE__) is compiled once and kept for later commits, which would hold the time of the first."""

_REMAP = "--remap-path-prefix="
# What a package wants beside the binary, by its name in upstream's tree.
_COMPANIONS = ("LICENSE", "chat_templates")


@dataclass(frozen=True)
class Plan:
    """Everything that decides an artifact's bytes, and where it is built.

    ``toolkit`` is the CUDA toolkit's folder, ``toolkit_version`` its nvcc's own version ("13.0.88"). ``incremental``
    lets rustc keep what it found out of upstream's own crates, for the next build of them: not for releases.
    """

    root: Path
    source: Source
    flavour: Flavour
    package: str
    binary: str
    rust: Rust
    toolkit: str
    toolkit_version: str
    rustflags: str
    locked: str
    parallel: Parallel = field(default_factory=of_this_host)
    cache: Cache | None = None
    mirrors: Mirrors = field(default_factory=Mirrors)
    logs_kept: int = 20
    incremental: bool = False

    @property
    def checkout(self) -> Path:
        return self.root / "src"

    @property
    def target(self) -> Path:
        return self.root / "target"

    @property
    def variant(self) -> str:
        """What decides the GPU's part of a build; "" without a GPU."""
        return f"{self.flavour.arch}-cuda-{self.toolkit_version}-{nvcc.DIGEST}" if self.flavour.cuda else ""

    @property
    def inputs(self) -> str:
        """The digest that names the artifact.

        Where and how fast it is built is not in it; nor is the host's C compiler, whose change alone makes no new one.
        """
        return digest_of({
            "engine": [BUILDER, EPOCH, nvcc.DIGEST if self.flavour.cuda else ""],
            "registry": self.mirrors.registry,
            "commit": self.source.commit,
            "version": self.source.version,
            "flavour": [self.flavour.name, self.flavour.compute_capability, sorted(self.flavour.features)],
            "package": [self.package, self.binary],
            "rustc": self.rust.description,
            "cuda": self.toolkit_version if self.flavour.cuda else "",
            "rustflags": self.rustflags,
            "locked": self.locked,
            **({"incremental": True} if self.incremental else {}),
        })  # fmt: skip

    @property
    def folder(self) -> Path:
        return self.root / "artifacts" / self.flavour.name / self.inputs[:16]


def environment(plan: Plan) -> dict[str, str]:
    """The whole environment of the compile, the cache's own variables excepted."""
    path = [str(plan.rust.bin), "/usr/local/bin", "/usr/bin", "/bin"]
    # The paths of this builder are not in what it makes: the same bytes come from any folder.
    mapped = f"{plan.root}={BUILDER}"
    variables = {
        "HOME": str(plan.root / "home"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "CARGO_HOME": str(plan.root / "cargo"),
        "CARGO_NET_GIT_FETCH_WITH_CLI": "true",
        "CARGO_TERM_COLOR": "never",
        "CARGO_TERM_PROGRESS_WHEN": "always",
        "CARGO_TERM_PROGRESS_WIDTH": "200",
        "RUSTFLAGS": f"{plan.rustflags} {_REMAP}{mapped}",
        # The crate cc then tells its commands, which the audit reads.
        "CC_ENABLE_DEBUG_OUTPUT": "1",
        "CFLAGS": f"-ffile-prefix-map={mapped}",
        "CXXFLAGS": f"-ffile-prefix-map={mapped}",
        **plan.mirrors.environment,
    }
    if plan.flavour.cuda:
        tree = plan.root / "toolchain" / f"nvcc-{plan.toolkit_version}"
        path.insert(1, f"{tree}/bin")
        variables["NVCC"] = f"{tree}/bin/nvcc"
        variables["CUDAFORGE_HOME"] = str(plan.root / "cudaforge")
        variables["CUDA_COMPUTE_CAP"] = plan.flavour.compute_cap
        # Each build script would take half the cores for its own nvcc calls; the wrapper's slots hold for all.
        variables["CUDAFORGE_THREADS"] = variables["RAYON_NUM_THREADS"] = str(plan.parallel.nvcc)
        variables["MISTRALRS_RPM_PREFIX_MAP"] = mapped
        # Each of these is what some crate reads; cudarc searches only below them once one is set.
        for name in ("CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"):
            variables[name] = plan.toolkit
    return {"PATH": ":".join(path), **variables}


def _incremental(plan: Plan) -> list[str]:
    """By words and not by CARGO_INCREMENTAL, which sccache would hash: crates that are none of upstream's are the same.

    So are build scripts, and with them the folders that they leave kernels in.
    """
    if not plan.incremental:
        return ["--config", "build.incremental=false"]
    profile = "profile.release"
    return ["--config", f"{profile}.incremental=true", "--config", f"{profile}.build-override.incremental=false"]


def build_argv(plan: Plan, *, locked: bool) -> list[str]:
    """cargo's words. The target directory is a flag since sccache hashes every CARGO_ variable."""
    return [
        str(plan.rust.bin / "cargo"), "build", "--release", "--offline", *_incremental(plan),
        *(["--locked"] if locked else []),
        "--package", plan.package, "--bin", plan.binary,
        "--target-dir", str(plan.target), "--jobs", str(plan.parallel.jobs), "--timings",
        *(["--features", " ".join(plan.flavour.features)] if plan.flavour.features else []),
        "--message-format", "json-render-diagnostics",
    ]  # fmt: skip


def existing(plan: Plan) -> Artifact | None:
    """The artifact of these inputs, if it was built and is whole."""
    manifest = plan.folder / "manifest.json"
    try:
        artifact = Artifact.read(manifest)
    except (OSError, PipelineError):
        # Not built, or by another version of this project.
        return None
    binary = plan.folder / artifact.binary
    whole = artifact.inputs == plan.inputs and binary.is_file() and sha256_file(binary) == artifact.sha256
    return artifact if whole else None


def build(
    plan: Plan,
    log: Path,
    *,
    alive: Path | None = None,
    lease: float = 0,
    warn: Callable[[str], object] = lambda _: None,
) -> Artifact:
    """Move the checkout, fetch, compile and collect. ``warn`` is told what the operator should know of a good build.

    Output goes to ``log`` as it comes, with the progress; beside it the report is left.

    A builder builds one thing at a time, since all share the checkout: a second build waits. With a
    ``lease`` (seconds) the build stops when nobody has touched ``alive`` for so long: a run whose controller
    is gone does not go on. SIGINT, SIGTERM and SIGHUP stop cargo too.
    """
    for folder in (plan.target, plan.root / "home", plan.root / "cargo", log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    name = plan.flavour.name
    with log.open("a", buffering=1) as stream, _the_builder(plan.root, stream, name):
        began = time.time()
        clock = _Phases()
        report.rotate(log.parent, name, plan.logs_kept, log)
        tree = move(plan.checkout, plan.source, plan.package)
        stream.write(f"# {plan.source.ref} {plan.source.commit} flavour {plan.flavour.name}, inputs {plan.inputs}\n")
        # A cargo whose module was killed may still be at work there.
        with _the_target(plan.target, stream, name):
            variants.enter(plan.target, plan.variant)
            if plan.variant:
                nvcc.wrapped(Path(plan.toolkit), plan.root, plan.toolkit_version)
                if forgotten := variants.forget_kernels(plan.target, plan.variant, plan.checkout):
                    stream.write(f"headers of kernels changed: {', '.join(forgotten)} start anew\n")
        clock.ends("checkout")
        locked = fetch(
            plan.checkout, plan.rust.bin / "cargo", environment(plan), plan.locked, stream,
            mirrors=plan.mirrors, package=plan.package, features=plan.flavour.features,
        )  # fmt: skip
        clock.ends("fetch")
        stream.write(f"[{name}] crates are here, compiling\n")
        with tempfile.TemporaryDirectory(prefix="build-") as place:
            queue = nvcc.queue(Path(place), plan.parallel.nvcc) if plan.variant else {}
            # The cache's server is started last: it and its compilers are seen, and ended with a build that fails.
            with processes.watched() as peak, session(plan.cache, environment(plan), stream) as cache:
                variables = {**environment(plan), **queue, **cache.variables}
                cargo = _Cargo(plan, stream, alive, lease)
                messages = cargo.run(build_argv(plan, locked=locked), variables, clock.began)
            calls = nvcc.calls(Path(place))
        clock.ends("compile")
        metadata = packages(plan.checkout, plan.rust.bin / "cargo", environment(plan), plan.package,
                            plan.flavour.features, locked=locked)  # fmt: skip
        variants.learn(plan.target, messages, metadata)
        variants.sweep(plan.target, messages, time.time())
        artifact = _collect(
            plan, tree, messages, log=log, locked=locked, seconds=round(time.time() - began, 1),
            usage=cache.usage or Usage(), peak=peak,
        )  # fmt: skip
        clock.ends("collect")
        warnings = _report(plan, artifact, messages, calls, cache, peak, began=began, phases=clock.seconds)
        for warning in [*cache.warnings, *warnings]:
            warn(warning)
        return artifact


def _report(
    plan: Plan,
    artifact: Artifact,
    messages: list[dict[str, Any]],
    calls: str,
    cache: Session,
    peak: processes.Peak,
    *,
    began: float,
    phases: dict[str, float],
) -> list[str]:
    """Leave the report of a build beside its log; what it warns of."""
    usage = cache.usage or Usage()
    observed = Observed(
        began=began, root=str(plan.root), parallel=plan.parallel, messages=messages, calls=calls,
        timings=_timings(plan.target / "cargo-timings"),
        sections=run(["readelf", "-SW", plan.folder / plan.binary]).stdout,
        kinds={kind.kind: {"hits": kind.hits, "misses": kind.misses} for kind in usage.kinds},
        not_cached=usage.not_cached, cache=Level(cache.version, usage.size, usage.limit, cache.shared_down),
        phases=phases, memory=peak.together, programs=peak.programs,
        host_compiler=run(["gcc", "--version"]).stdout.partition("\n")[0],
    )  # fmt: skip
    return report.leave(report.of(artifact, observed))[1]


class _Phases:
    """Seconds by phase, in their order."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def ends(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self.last, 2)
        self.last = now


def _the_builder(root: Path, stream: IO[str], name: str) -> AbstractContextManager[None]:
    return held(root / "lock", lambda: print(f"[{name}] waiting for another build here", file=stream))


def _the_target(target: Path, stream: IO[str], name: str) -> AbstractContextManager[None]:
    """cargo's own lock of the target directory."""
    said = f"[{name}] waiting for a cargo that still runs here"
    return held(target / "release" / ".cargo-lock", lambda: print(said, file=stream))


class _Cargo:
    """One cargo process: its output into the log, its progress told, its end made sure of."""

    def __init__(self, plan: Plan, stream: IO[str], alive: Path | None, lease: float) -> None:
        self.plan, self.stream, self.alive, self.lease = plan, stream, alive, lease
        self.progress: Progress | None = None
        self.stopped = ""

    def run(self, argv: list[str], variables: dict[str, str], began: float) -> list[dict[str, Any]]:
        self.stream.write(f"$ {' '.join(argv)}\n")
        with tempfile.TemporaryFile() as stdout:
            process = subprocess.Popen(  # noqa: S603
                argv, cwd=self.plan.checkout, env=variables, stdin=subprocess.DEVNULL,
                stdout=stdout, stderr=subprocess.PIPE, process_group=0,
            )  # fmt: skip
            with _signals_stop(self, process):
                watch = threading.Thread(target=self._watch, args=(process, began), daemon=True)
                watch.start()
                lines = self._copy(process)
                status = process.wait()
            watch.join()
            stdout.seek(0)
            said = [line.decode(errors="replace").rstrip() for line in stdout]
            messages = [json.loads(line) for line in said if line.startswith("{")]
            # sccache tells there which signal ended a compiler.
            lines += [line for line in said if line and not line.startswith("{")]
        if self.stopped:
            raise PipelineError(
                f"the build was stopped: {self.stopped}",
                self.stream.name,
                "Run again: it goes on from where it stood",
            )
        if status != 0:
            raise CompileFailed(explain(lines), self.stream.name)
        return messages

    def stop(self, process: subprocess.Popen[bytes], why: str) -> None:
        """End cargo and all that it started."""
        self.stopped = self.stopped or why
        for sign, wait in ((signal.SIGINT, 5.0), (signal.SIGKILL, 0.0)):
            try:
                os.killpg(process.pid, sign)
            except ProcessLookupError:
                return
            end = time.monotonic() + wait
            while time.monotonic() < end and process.poll() is None:
                time.sleep(0.05)

    def _copy(self, process: subprocess.Popen[bytes]) -> list[str]:
        assert process.stderr is not None
        reader, lines = LineReader(), []
        while data := os.read(process.stderr.fileno(), 65536):
            for event in reader.feed(data):
                if isinstance(event, Progress):
                    self.progress = event
                else:
                    lines.append(event)
                    self.stream.write(event + "\n")
        lines += [event for event in reader.close() if isinstance(event, str)]
        return lines

    def _watch(self, process: subprocess.Popen[bytes], began: float) -> None:
        """Tell the progress, often at first, then every 15 s whether or not it moved; and mind the lease."""
        at, moved, done = 1.0, 0.0, -1
        while process.poll() is None:
            time.sleep(0.25)
            seconds = time.monotonic() - began
            if self.progress and self.progress.done != done:
                moved, done = seconds, self.progress.done
            if self.progress and seconds >= at:
                at = seconds + (3 if seconds < 30 else 15)
                self.stream.write(self.progress.line(self.plan.flavour.name, seconds, seconds - moved) + "\n")
            if self.lease and self.alive and _age(self.alive) > self.lease:
                self.stop(process, f"its controller has been silent for {self.lease:g} s")


class _signals_stop:  # noqa: N801  used as a statement's keyword
    """While it lasts, the signals that would end this process end cargo first."""

    def __init__(self, cargo: _Cargo, process: subprocess.Popen[bytes]) -> None:
        self.cargo, self.process = cargo, process
        self.before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self.before[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.cargo.stop(self.process, f"interrupted by {signal.Signals(number).name}")

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def used_rustflags(target: Path, package: str, binary: Path) -> str:
    """The flags that cargo itself recorded for the binary: what was in effect, wherever it was configured."""
    folder = target / "release" / ".fingerprint" / f"{package}-{variants.unit_of(binary, target)}"
    record = folder / f"bin-{binary.name}.json"
    if not record.is_file():
        raise PipelineError(
            f"cargo left no fingerprint for {binary}", str(target), "This cargo is not known to this project"
        )
    flags = json.loads(record.read_text()).get("rustflags", [])
    return " ".join(flag for flag in flags if not flag.startswith(_REMAP))


def _collect(
    plan: Plan,
    tree: Checkout,
    messages: list[dict[str, Any]],
    *,
    log: Path,
    locked: bool,
    seconds: float,
    usage: Usage,
    peak: processes.Peak,
) -> Artifact:
    units = [m for m in messages if m.get("reason") == "compiler-artifact"]
    made = [m["executable"] for m in units if m.get("executable") and m["target"]["name"] == plan.binary]
    if not made:
        raise PipelineError(f"cargo made no binary {plan.binary}", str(log), "Check upstream_binary")
    binary, fresh = Path(made[-1]), sum(bool(m["fresh"]) for m in units)
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=plan.folder.parent) as name:
        folder = Path(name) / "artifact"
        folder.mkdir()
        shutil.copy2(binary, folder / plan.binary)
        for companion in _COMPANIONS:
            origin = plan.checkout / companion
            if origin.is_dir():
                shutil.copytree(origin, folder / companion)
            elif origin.is_file():
                shutil.copy2(origin, folder / companion)
        artifact = Artifact(
            source=plan.source,
            flavour=plan.flavour,
            inputs=plan.inputs,
            folder=str(plan.folder),
            binary=plan.binary,
            crate_version=tree.crate_version,
            sha256=sha256_file(folder / plan.binary),
            size=(folder / plan.binary).stat().st_size,
            rustc=plan.rust.version,
            cuda=plan.toolkit_version if plan.flavour.cuda else "",
            rustflags=used_rustflags(plan.target, plan.package, binary),
            locked=locked,
            incremental=plan.incremental,
            seconds=seconds,
            compiled=len(units) - fresh,
            fresh=fresh,
            cache=usage.kinds,
            peak_memory=peak.together,
            planned_memory=plan.parallel.memory,
            log=str(log),
            report=str(log.with_suffix(".html")),
        )
        artifact.write(folder / "manifest.json")
        shutil.rmtree(plan.folder, ignore_errors=True)
        folder.rename(plan.folder)
    return artifact


def _timings(folder: Path) -> str:
    """cargo's page of this build; it leaves one for each, beside the newest under a name of its own."""
    newest = folder / "cargo-timing.html"
    text = newest.read_text(errors="replace") if newest.exists() else ""
    for page in folder.glob("cargo-timing*.html"):
        page.unlink()
    return text


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
