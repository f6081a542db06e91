"""Build: one flavour of one commit, by cargo, to a binary with its manifest.

Rules:

1. The paths of the checkout, of CARGO_HOME and of the target directory are fixed below the builder's root:
   they are part of the caches' keys.
2. Cargo's environment is written from a whitelist. Nothing of the caller's reaches the compile; only the
   download before it sees the caller's proxies and certificates.
3. One target directory for each flavour: a shared one ships kernels of another GPU, since upstream
   skips a .ptx that is newer than its .cu and never compares the architecture (the end-to-end tests reproduce it).
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
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from .checkout import Checkout, move
from .compile_cache import Cache, Usage, session
from .errors import PipelineError
from .lock import held
from .progress import LineReader, Progress, first_error
from .records import Artifact, Flavour, Source, digest_of, sha256_file
from .run import run

TARGET = "x86_64-unknown-linux-gnu"
_DOWNLOAD_ENVIRONMENT = (
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO",
)  # fmt: skip
# What a package wants beside the binary, by its name in upstream's tree.
_COMPANIONS = ("LICENSE", "chat_templates")


@dataclass(frozen=True)
class Rust:
    """A toolchain on the builder: the folder of cargo and rustc, and what ``rustc -vV`` says."""

    bin: Path
    version: str
    description: str


@dataclass(frozen=True)
class Plan:
    """Everything that decides an artifact's bytes, and where it is built.

    ``toolkit`` is the CUDA toolkit's folder, ``toolkit_version`` its nvcc's own version ("13.0.88").
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
    jobs: int = 0
    cache: Cache | None = None

    @property
    def checkout(self) -> Path:
        return self.root / "src"

    @property
    def target(self) -> Path:
        return self.root / "target" / self.flavour.name

    @property
    def inputs(self) -> str:
        """The digest that names the artifact. Where and how fast it is built is not in it."""
        return digest_of({
            "commit": self.source.commit,
            "version": self.source.version,
            "flavour": [self.flavour.name, self.flavour.compute_capability, sorted(self.flavour.features)],
            "package": [self.package, self.binary],
            "rustc": self.rust.description,
            "cuda": self.toolkit_version if self.flavour.cuda else "",
            "rustflags": self.rustflags,
            "locked": self.locked,
        })  # fmt: skip

    @property
    def folder(self) -> Path:
        return self.root / "artifacts" / self.flavour.name / self.inputs[:16]


def find_rust(cargo: str = "") -> Rust:
    """The cargo to use: the one named, else the one on PATH or in ~/.cargo/bin.

    Where that is rustup's proxy, the toolchain behind it, so that no rustup variable is needed later.
    """
    path = ":".join([os.environ.get("PATH", ""), str(Path.home() / ".cargo" / "bin")])
    found = shutil.which(cargo or "cargo", path=path)
    if found is None:
        raise PipelineError(
            f"{cargo or 'cargo'} is not installed on the builder",
            where=f"PATH={path}",
            remedy="Install Rust (playbooks/builders.yml does on a builder; else rustup, or the distribution's cargo "
            "where it is new enough), or set rust_cargo",
        )
    rustup = Path(found).with_name("rustup")
    if rustup.exists():
        found = run([rustup, "which", "cargo"]).stdout.strip()
    folder = Path(found).parent
    description = run([folder / "rustc", "-vV"]).stdout
    fields = dict(line.split(": ", 1) for line in description.splitlines() if ": " in line)
    return Rust(folder, fields.get("release", ""), description)


def environment(plan: Plan) -> dict[str, str]:
    """The whole environment of the compile."""
    path = [str(plan.rust.bin), "/usr/local/bin", "/usr/bin", "/bin"]
    variables = {
        "HOME": str(plan.root / "home"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "CARGO_HOME": str(plan.root / "cargo"),
        "CARGO_INCREMENTAL": "0",
        "CARGO_NET_GIT_FETCH_WITH_CLI": "true",
        "CARGO_TERM_COLOR": "never",
        "CARGO_TERM_PROGRESS_WHEN": "always",
        "CARGO_TERM_PROGRESS_WIDTH": "200",
        "RUSTFLAGS": plan.rustflags,
    }
    if plan.jobs:
        variables["CARGO_BUILD_JOBS"] = str(plan.jobs)
    if plan.flavour.cuda:
        path.insert(1, f"{plan.toolkit}/bin")
        variables["NVCC"] = f"{plan.toolkit}/bin/nvcc"
        variables["CUDA_COMPUTE_CAP"] = plan.flavour.compute_cap
        # Each of these is what some crate reads; cudarc searches only below them once one is set.
        for name in ("CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"):
            variables[name] = plan.toolkit
    return {"PATH": ":".join(path), **variables}


def build_argv(plan: Plan, *, locked: bool) -> list[str]:
    """cargo's words. The target directory is a flag since sccache hashes every CARGO_ variable."""
    return [
        str(plan.rust.bin / "cargo"), "build", "--release", "--offline",
        *(["--locked"] if locked else []),
        "--package", plan.package, "--bin", plan.binary,
        "--target-dir", str(plan.target),
        *(["--features", " ".join(plan.flavour.features)] if plan.flavour.features else []),
        "--message-format", "json-render-diagnostics",
    ]  # fmt: skip


def existing(plan: Plan) -> Artifact | None:
    """The artifact of these inputs, if it was built and is whole."""
    manifest = plan.folder / "manifest.json"
    if not manifest.is_file():
        return None
    artifact = Artifact.read(manifest)
    binary = plan.folder / artifact.binary
    return artifact if binary.is_file() and sha256_file(binary) == artifact.sha256 else None


def build(plan: Plan, log: Path, *, alive: Path | None = None, lease: float = 0) -> Artifact:
    """Move the checkout, fetch, compile and collect. Output goes to ``log`` as it comes, with the progress.

    A builder builds one thing at a time, since all share the checkout: a second build waits. With a
    ``lease`` (seconds) the build stops when nobody has touched ``alive`` for so long: a run whose controller
    is gone does not go on. SIGINT, SIGTERM and SIGHUP stop cargo too.
    """
    for folder in (plan.target, plan.root / "home", plan.root / "cargo", log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    name = plan.flavour.name
    with log.open("a", buffering=1) as stream, _the_builder(plan.root, stream, name):
        began = time.monotonic()
        tree = move(plan.checkout, plan.source, plan.package)
        stream.write(f"# {plan.source.ref} {plan.source.commit} flavour {plan.flavour.name}, inputs {plan.inputs}\n")
        locked = fetch(plan, stream)
        stream.write(f"[{name}] crates are here, compiling\n")
        with session(plan.cache, environment(plan), stream) as cache:
            variables = {**environment(plan), **cache.variables}
            messages = _Cargo(plan, stream, alive, lease).run(build_argv(plan, locked=locked), variables, began)
        units = [m for m in messages if m.get("reason") == "compiler-artifact"]
        made = [m for m in units if m.get("executable") and m["target"]["name"] == plan.binary]
        if not made:
            raise PipelineError(f"cargo made no binary {plan.binary}", str(log), "Check upstream_binary")
        return _collect(
            plan, tree, Path(made[-1]["executable"]), log=log, locked=locked,
            seconds=round(time.monotonic() - began, 1), fresh=sum(bool(m["fresh"]) for m in units), units=len(units),
            usage=cache.usage or Usage(),
        )  # fmt: skip


def _the_builder(root: Path, stream: IO[str], name: str) -> AbstractContextManager[None]:
    return held(root / "lock", lambda: print(f"[{name}] waiting for another build here", file=stream))


def fetch(plan: Plan, stream: IO[str]) -> bool:
    """Download the crates; True when Cargo.lock was kept to.

    A channel that is ``locked: always`` fails where the lock does not fit; with ``prefer`` cargo may
    update it, which the manifest records.
    """
    allowed = {name: os.environ[name] for name in _DOWNLOAD_ENVIRONMENT if name in os.environ}
    # A checkout that was built without the lock carries cargo's changes to it: git restored it before this.
    argv = [plan.rust.bin / "cargo", "fetch", "--target", TARGET]
    for locked in (True, False):
        words = [str(word) for word in [*argv, *(["--locked"] if locked else [])]]
        stream.write(f"$ {' '.join(words)}\n")
        done = subprocess.run(  # noqa: S603
            words, cwd=plan.checkout, env={**environment(plan), **allowed}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        said = [line for line in LineReader().feed(done.stderr.encode() + b"\n") if isinstance(line, str)]
        stream.writelines(f"{line}\n" for line in said)
        if done.returncode == 0:
            return locked
        stale = any("--locked" in line for line in said)
        if plan.locked == "always" or not stale:
            raise PipelineError(
                "the crates could not be fetched: " + " | ".join(first_error(said, 6)),
                where=str(plan.checkout / "Cargo.lock"),
                remedy="Upstream's Cargo.lock does not fit its manifests: report it there"
                if stale
                else "Check the network, the proxy and the registry, then run again; it goes on from here",
            )
        stream.write("Cargo.lock does not fit: going on without --locked, which the manifest records\n")
    raise AssertionError


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
            messages = [json.loads(line) for line in stdout if line.startswith(b"{")]
        if self.stopped:
            raise PipelineError(
                f"the build was stopped: {self.stopped}",
                self.stream.name,
                "Run again: it goes on from where it stood",
            )
        if status != 0:
            raise CompileFailed(first_error(lines), self.stream.name)
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
        at = 1.0
        while process.poll() is None:
            time.sleep(0.25)
            seconds = time.monotonic() - began
            if self.progress and seconds >= at:
                at = seconds + (3 if seconds < 30 else 15)
                self.stream.write(self.progress.line(self.plan.flavour.name, seconds) + "\n")
            if self.lease and self.alive and _age(self.alive) > self.lease:
                self.stop(process, f"its controller has been silent for {self.lease:g} s")


class CompileFailed(PipelineError):
    """The compile ended with an error; its own lines are in the message."""

    def __init__(self, lines: list[str], log: str) -> None:
        super().__init__(
            "the build failed:\n" + "\n".join(f"    {line}" for line in lines) + "\n",
            where=log,
            remedy="The whole log is there. After a fix, run again: what was compiled stays",
        )
        self.lines = lines


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


def used_rustflags(target: Path, package: str, binary: str) -> str:
    """The flags that cargo itself recorded for the binary, from its newest fingerprint.

    This is what was in effect, whichever configuration it came from.
    """
    records = sorted(
        (target / "release" / ".fingerprint").glob(f"{package}-*/bin-{binary}.json"),
        key=lambda path: path.stat().st_mtime,
    )
    if not records:
        raise PipelineError(
            f"cargo left no fingerprint for {binary}", str(target), "This cargo is not known to this project"
        )
    return " ".join(json.loads(records[-1].read_text()).get("rustflags", []))


def _collect(
    plan: Plan,
    tree: Checkout,
    binary: Path,
    *,
    log: Path,
    locked: bool,
    seconds: float,
    fresh: int,
    units: int,
    usage: Usage,
) -> Artifact:
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
            rustflags=used_rustflags(plan.target, plan.package, plan.binary),
            locked=locked,
            seconds=seconds,
            compiled=units - fresh,
            fresh=fresh,
            cache_hits=usage.hits,
            cache_misses=usage.misses,
            log=str(log),
        )
        artifact.write(folder / "manifest.json")
        shutil.rmtree(plan.folder, ignore_errors=True)
        folder.rename(plan.folder)
    return artifact


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
