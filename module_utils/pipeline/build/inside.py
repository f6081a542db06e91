"""The part of a build that runs in the sandbox, as a program of its own: all that touches what upstream's code wrote.

    enter the variant --> cargo with the compile cache --> learn and sweep --> copy the binary, write result.json

Rules:

1. It gets a Job as JSON on stdin. Its output, cargo's among it, is the build's log.
2. It leaves ``binary`` and ``result.json`` in the job's folder ``output``; nobody outside reads anything else that it
   or upstream's code wrote (handover).
3. It ends with 0, with CARGO_FAILED, or with another status and the reason in its last lines.
4. Upstream's code runs beside it with the same rights: its result is no more trustworthy than the binary.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import Record
from ..base.run import run
from ..cache.compile_cache import Cache, Session, Usage, session
from ..report.report_data import Costs, Level, Output, costs
from ..toolchain import nvcc
from . import variants
from .fetch import packages

CARGO_FAILED = 3
REMAP = "--remap-path-prefix="
BINARY, RESULT = "binary", "result.json"


@dataclass(frozen=True)
class Job:
    """All that the inside needs. Paths are those inside; ``settings`` are sccache's, None without a cache.

    ``scratch`` is an empty folder. ``slots`` is the number of nvcc at once, 0 without a GPU.
    """

    flavour: str
    features: Sequence[str]
    variant: str
    package: str
    binary: str
    locked: bool
    argv: Sequence[str]
    environment: Mapping[str, str]
    root: str
    checkout: str
    target: str
    scratch: str
    output: str
    slots: int = 0
    sccache: str = ""
    settings: Mapping[str, str] | None = None

    def text(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Result(Record):
    """What a build in the sandbox reports.

    ``compiled`` and ``fresh`` count units as cargo's progress does; ``rustflags`` are those in effect.
    ``changed``: units were compiled, or another variant came into place.
    """

    rustflags: str
    compiled: int
    fresh: int
    changed: bool
    costs: Costs = field(default_factory=Costs)
    warnings: tuple[str, ...] = ()


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        sys.exit(work(Job(**json.load(sys.stdin))))
    except PipelineError as error:
        sys.exit(str(error))


def work(job: Job) -> int:
    """The whole job; returns the status to end with."""
    target, scratch = Path(job.target), Path(job.scratch)
    changed = _enter_variant(job)
    cargo = job.argv[0]
    queue = nvcc.queue(scratch, job.slots) if job.slots else {}
    with session(_cache(job), job.environment, sys.stdout) as cache:
        messages, status = _compile(job, {**job.environment, **queue, **cache.variables})
    if status:
        return CARGO_FAILED
    metadata = packages(Path(job.checkout), Path(cargo), job.environment, job.package, job.features, locked=job.locked)
    variants.learn(target, messages, metadata)
    variants.sweep(target, messages, time.time())
    _hand_over(job, messages, cache, nvcc.calls(scratch), changed=changed)
    return 0


def _log(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _enter_variant(job: Job) -> bool:
    """Put the build's variant in place; returns whether another one was there."""
    target = Path(job.target)
    # cargo's own lock of the target directory: without a sandbox the cargo of a killed module may still be running.
    lock = target / "release" / ".cargo-lock"
    with held(lock, lambda: _log(f"[{job.flavour}] waiting for a cargo that still runs here")):
        changed = variants.enter(target, job.variant)
        if job.variant and (forgotten := variants.forget_kernels(target, job.variant, Path(job.checkout))):
            _log(f"kernel headers changed: {', '.join(forgotten)} recompile from nothing")
    return changed


def _cache(job: Job) -> Cache | None:
    if job.settings is None:
        return None
    settings = Path(job.scratch, "sccache.env")
    settings.write_text("".join(f"{name}={value}\n" for name, value in job.settings.items()))
    return Cache(Path(job.sccache), settings)


def _compile(job: Job, variables: Mapping[str, str]) -> tuple[list[dict[str, Any]], int]:
    """Run cargo; returns its messages and its status. Its lines go to the log."""
    _log(f"$ {' '.join(job.argv)}")
    with tempfile.TemporaryFile(dir=job.scratch) as stdout:
        status = subprocess.call(  # noqa: S603
            job.argv, cwd=job.checkout, env=dict(variables), stdin=subprocess.DEVNULL,
            stdout=stdout, stderr=sys.stdout,
        )  # fmt: skip
        stdout.seek(0)
        output = [line.decode(errors="replace").rstrip() for line in stdout]
    for line in output:
        # sccache prints there which signal killed a compiler.
        if line and not line.startswith("{"):
            _log(line)
    if status < 0:
        # Only its parent knows it: failures.py reads this line.
        _log(f"error: process didn't exit successfully: `cargo` (signal: {-status})")
    return [json.loads(line) for line in output if line.startswith("{")], status


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


def _hand_over(job: Job, messages: Sequence[Mapping[str, Any]], cache: Session, calls: str, *, changed: bool) -> None:
    """Leave the binary and the result in the folder ``output``."""
    target, output = Path(job.target), Path(job.output)
    units = [m for m in messages if m.get("reason") == "compiler-artifact"]
    binaries = [m["executable"] for m in units if m.get("executable") and m["target"]["name"] == job.binary]
    if not binaries:
        raise PipelineError(f"cargo built no binary {job.binary}", "its messages", "Check upstream_binary")
    binary, fresh = Path(binaries[-1]), sum(bool(m["fresh"]) for m in units)
    shutil.copyfile(binary, output / BINARY)
    usage = cache.usage or Usage()
    seen = Output(
        root=job.root, messages=messages, timings=_timings(target / "cargo-timings"), calls=calls,
        sections=run(["readelf", "-SW", binary]).stdout, size=binary.stat().st_size,
        kinds=usage.kinds, not_cached=usage.not_cached,
        cache=Level(cache.version, usage.size, usage.limit, cache.shared_down),
    )  # fmt: skip
    found = costs(seen)
    result = Result(
        rustflags=used_rustflags(target, job.package, binary),
        compiled=len(found.compiled),
        fresh=len(found.fresh),
        changed=changed or len(units) > fresh,
        costs=found,
        warnings=tuple(cache.warnings),
    )
    result.write(output / RESULT)


def _timings(folder: Path) -> str:
    """The newest page of ``cargo build --timings``. All pages are deleted: cargo adds one in each build."""
    newest = folder / "cargo-timing.html"
    text = newest.read_text(errors="replace") if newest.exists() else ""
    for page in folder.glob("cargo-timing*.html"):
        page.unlink()
    return text
