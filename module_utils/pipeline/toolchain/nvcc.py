"""The toolkit that build scripts see: the real one behind a wrapper of nvcc that caches and queues (nvcc_wrapper)."""

from __future__ import annotations

import inspect
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..base.lock import held
from ..base.records import digest_of
from . import nvcc_wrapper
from .verified import LIST, changes, record

DIGEST = digest_of(inspect.getsource(nvcc_wrapper))[:8]
"""The wrapper's digest. It is part of an artifact's inputs, since another wrapper may produce other bytes."""


def wrapped(toolkit: Path, root: Path, version: str, inside: Callable[[Path], Path] = lambda path: path) -> Path:
    """The folder ``<root>/toolchain/nvcc-<version>``, created or replaced unless it wraps this toolkit already.

    ``version`` is nvcc's own: another toolkit has another path, which cargo detects. ``inside`` gives the path under
    which the compile sees one of the host.
    """
    folder = root / "toolchain" / f"nvcc-{version}"
    # The interpreter itself: a sandbox does not show the virtual environment that links to it.
    program = f"#!{inside(Path(sys.executable).resolve())} -IS\n{inspect.getsource(nvcc_wrapper)}"
    seen = inside(toolkit)
    if _matches(folder, seen, program):
        return folder
    with held(folder.parent / ".lock"):
        if not _matches(folder, seen, program):
            _create(folder, toolkit, seen, program)
    return folder


def _matches(folder: Path, toolkit: Path, program: str) -> bool:
    try:
        same = (folder / "bin" / "nvcc").read_text() == program and (folder / "real").readlink() == toolkit
        return same and not changes(folder)
    except OSError:
        return False


def _create(folder: Path, toolkit: Path, seen: Path, program: str) -> None:
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as name:
        new = Path(name) / "tree"
        (new / "bin").mkdir(parents=True)
        (new / "real").symlink_to(seen)
        for entry in toolkit.iterdir():
            if entry.name not in ("bin", LIST):
                (new / entry.name).symlink_to(seen / entry.name)
        for entry in (toolkit / "bin").iterdir():
            if entry.name != "nvcc":
                (new / "bin" / entry.name).symlink_to(seen / "bin" / entry.name)
        (new / "bin" / "nvcc").write_text(program)
        (new / "bin" / "nvcc").chmod(0o755)
        record(new)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def queue(folder: Path, slots: int) -> dict[str, str]:
    """The wrapper's variables: the folder of the slots, of which each compile takes one, and the log of its calls."""
    places = folder / "nvcc-slots"
    places.mkdir()
    for number in range(slots):
        (places / str(number)).touch()
    return {"MISTRALRS_RPM_NVCC_SLOTS": str(places), "MISTRALRS_RPM_NVCC_LOG": str(folder / "nvcc.jsonl")}


def calls(folder: Path) -> str:
    """The wrapper's log of compiles below ``folder``, one line of JSON each, in the order in which they finished."""
    path = folder / "nvcc.jsonl"
    return path.read_text() if path.exists() else ""
