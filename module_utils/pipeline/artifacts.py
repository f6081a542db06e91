"""What builds left below a builder's ``artifacts/<flavour>/``, and which of it goes.

Rules:

1. The newest few of each flavour stay. An artifact is as old as its manifest.
2. One in use stays: one made less than ``GRACE`` seconds ago may be on its way to a package, and of a flavour that is
   packaged just now nothing goes. A package that is begun meanwhile waits.
3. An artifact goes whole: its name first. A build of the same inputs makes it anew.
4. What an interrupted build left half goes after a day.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from .errors import PipelineError
from .lock import held_if_free

GRACE = 600
LEFTOVER = 86400


def superseded(made: Iterable[tuple[Path, float]], keep: int, now: float) -> list[Path]:
    """Of one flavour's artifacts, each with the time it was made at, those that go; oldest last."""
    newest = sorted(made, key=lambda one: one[1], reverse=True)
    return [path for path, at in newest[keep:] if now - at > GRACE]


def prune(root: Path, keep: int, *, check: bool = False) -> list[Path]:
    """Take away what is superseded below the builder's root; tells (with ``check``: would take) what went."""
    if keep < 1:
        raise PipelineError(f"artifacts_kept is {keep}", str(root), "Keep 1 of each flavour at least")
    gone: list[Path] = []
    now = time.time()
    for flavour in sorted((root / "artifacts").glob("*/")):
        # The lock that packaging holds while rpmbuild reads the artifact.
        with held_if_free(root / "rpmbuild" / f"{flavour.name}.lock") as free:
            made = [(path.parent, path.stat().st_mtime) for path in flavour.glob("[!.]*/manifest.json")]
            halves = [path for path in flavour.glob(".*/") if now - path.stat().st_mtime > LEFTOVER]
            for path in [*superseded(made, keep, now), *halves] if free else []:
                gone.append(path)
                if not check:
                    away = path.with_name(f".old-{path.name}")
                    shutil.rmtree(away, ignore_errors=True)
                    shutil.rmtree(path.rename(away))
    return gone
