"""What a build's sandbox shows, and the folders that it may write, by its trust.

Rules:

1. Read-only: toolchain, CARGO_HOME, CUTLASS, the checkout with its git folder. Writable: the target directory, the
   level of the compile cache on disk, a scratch folder (its /tmp) and a folder for its output. Nothing else of the
   builder's root is there.
2. A build of trust ``release`` writes the folders themselves. One of trust ``try`` sees them through overlays: what it
   writes lies below ``<root>/try``, and the folders of ``release`` never change.
3. Each change of ``release``'s target directory is a new *generation* of it, a mark beside it. An overlay over a
   directory that has changed would mix units of two states: a try build of another generation discards its own target
   directory, and takes release's files of upstream with their times. Its cache, entries named by their content, stays.
4. CARGO_HOME and CUTLASS serve both trusts: only ``cargo fetch`` and git write them, outside of any sandbox, and what
   they hold is named by checksum or commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.run import run
from ..base.sandbox import Layer, Running, Sandbox, outside_the_system
from ..source.checkout import seed
from ..source.trust import OVERLAY
from .inputs import Build

MARK = "generation"
OUTPUT, SCRATCH, CODE = Path("/output"), Path("/tmp"), Path("/run/build")  # noqa: S108  inside


@dataclass(frozen=True)
class Folders:
    """A build's folders on the host that exist during it alone."""

    output: Path
    scratch: Path


def cache_level(settings: dict[str, str] | None) -> Path | None:
    """The folder of the compile cache on disk, as the server sees it; None without a cache."""
    return Path(settings["SCCACHE_DIR"]) if settings and "SCCACHE_DIR" in settings else None


def overlays(build: Build, cache: Path | None) -> list[Layer]:
    """The overlays of a build whose state is apart from release's."""
    if not (build.apart and build.protected):
        return []
    upper = build.state / OVERLAY
    layers = [Layer(build.target, build.root / "target", upper / "target")]
    return [*layers, Layer(build.inside(cache), cache, upper / "cache")] if cache else layers


def sandbox(build: Build, folders: Folders, cache: Path | None) -> Sandbox:
    """The sandbox of a build."""
    layers = overlays(build, cache)
    own = {build.inside(path): path for path in (build.seen / "target", cache) if path}
    for layer in layers:
        own.pop(layer.place, None)
    home = build.root / "cudaforge"
    registry = build.mirrors.registry
    readable = outside_the_system([
        *(build.root / "toolchain", build.root / "cargo", Path(build.toolkit or "/usr")),
        # Not the folder above: in ~/.cargo lie credentials.
        *(build.rust.bin.with_name(name) for name in ("bin", "lib", "libexec")),
        *([build.cache.program] if build.cache else []),
        # cudaforge makes a lock beside each of them.
        *sorted((home / "git" / "checkouts").glob("cutlass-*/")),
        Path(sys.base_prefix),
    ])  # fmt: skip
    return Sandbox(
        # CARGO_HOME's configuration names it.
        readable=outside_the_system([registry] if registry.startswith("/") else []),
        private=[build.inside(home)],
        places={
            **{build.inside(path): path for path in readable},
            build.checkout: build.state / "src",
            **_code(),
        },
        writable_places={**own, OUTPUT: folders.output, SCRATCH: folders.scratch},
        layers=layers,
        cwd=build.checkout,
        protected=build.protected,
    )  # fmt: skip


def _code() -> dict[Path, Path]:
    """This package, as a place inside: a folder, or the archive in which Ansible sent it."""
    archive = next((path for path in Path(__file__).parents if path.is_file()), None)
    return {CODE / "code.zip": archive} if archive else {CODE / "pipeline": Path(__file__).parents[1]}


def start(build: Build, folders: Folders, cache: Path | None, job: str) -> Running:
    """Start ``inside`` in the sandbox, with its job and one stream for all output."""
    with tempfile.TemporaryFile() as stdin:
        stdin.write(job.encode())
        stdin.seek(0)
        return sandbox(build, folders, cache).start(words(build), stdin=stdin, stderr=subprocess.STDOUT)


def words(build: Build) -> list[str]:
    """The command that runs ``inside`` in the sandbox."""
    package = Path(__file__).parents[1]
    ((place, path),) = _code().items()
    above = place / package.parent.relative_to(path) if place.suffix else place.parent
    if not build.protected:
        above = package.parent
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pipeline.build.inside import main; main()"
    return [str(build.inside(Path(sys.executable).resolve())), "-IBS", "-c", program, str(above)]


@contextmanager
def prepared(build: Build) -> Iterator[Folders]:
    """The build's folders, made before it and emptied after it. The builder's lock is held."""
    folders = Folders(build.state / "output", build.state / "scratch")
    for folder in (folders.output, folders.scratch):
        remove(folder)
        folder.mkdir(parents=True)
    (build.seen / "target").mkdir(parents=True, exist_ok=True)
    try:
        yield folders
    finally:
        for folder in (folders.output, folders.scratch):
            remove(folder)


def renew(build: Build) -> None:
    """Let a try build start from release's state if that has changed since the last one."""
    if not (build.apart and build.protected):
        return
    if not (build.root / "target").is_dir():
        # Somebody deleted it.
        (build.root / "target").mkdir(parents=True)
        _write(build.root / MARK, uuid.uuid4().hex)
    wanted, mark = _mark(build.root), build.state / MARK
    if mark.is_file() and mark.read_text() == wanted:
        return
    for layer in overlays(build, None):
        remove(layer.upper)
        remove(layer.work)
    seed(build.state / "src", build.root / "src")
    mark.write_text(wanted)


def changing(build: Build) -> str:
    """Begin a new generation before a build writes release's state; returns the mark of the old one."""
    before = _mark(build.root)
    if not build.apart:
        _write(build.root / MARK, uuid.uuid4().hex)
    return before


def unchanged(build: Build, before: str) -> None:
    """Return to the old generation: the build has compiled nothing."""
    if not build.apart:
        _write(build.root / MARK, before)


def _mark(root: Path) -> str:
    return (root / MARK).read_text() if (root / MARK).is_file() else ""


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(text)
    partial.replace(path)


def remove(folder: Path) -> None:
    """Delete a folder that hostile code wrote: no link is followed, and closed folders are opened first."""
    if not folder.exists() and not folder.is_symlink():
        return
    if os.geteuid() and not folder.is_symlink():
        run(["chmod", "-R", "u+rwX", "--", folder], accept=(0, 1))
    run(["rm", "-rf", "--one-file-system", "--", folder], accept=(0, 1))
    if folder.exists():
        raise PipelineError("a folder of an earlier build cannot be deleted", str(folder), "Delete it as root")
