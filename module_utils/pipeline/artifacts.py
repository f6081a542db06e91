"""What builds left below a builder's root, ``artifacts/<flavour>/`` and ``packages/``, and which of it goes.

Rules:

1. The newest few artifacts of each flavour stay, and as many packages of each name. One is as old as its manifest.
2. One in use stays: an artifact made less than ``GRACE`` seconds ago may be on its way to a package, and a package made
   or asked for then on its way to the signer. Of a flavour that is packaged just now nothing goes, and a package that
   is begun meanwhile waits.
3. One goes whole: its name first. The same inputs make it anew.
4. What an interrupted run left half goes after a day.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import PipelineError
from .lock import held_if_free
from .records import Flavour, Package

GRACE = 600
LEFTOVER = 86400


def superseded(made: Iterable[tuple[Path, float]], keep: int, now: float) -> list[Path]:
    """Of one flavour's artifacts or packages, each with the time it was made at, those that go; oldest last."""
    newest = sorted(made, key=lambda one: one[1], reverse=True)
    return [path for path, at in newest[keep:] if now - at > GRACE]


def prune(root: Path, keep: int, *, check: bool = False) -> list[Path]:
    """Take away what is superseded below the builder's root; tells (with ``check``: would take) what went."""
    if keep < 1:
        raise PipelineError(f"artifacts_kept is {keep}", str(root), "Keep 1 of each flavour at least")
    gone: list[Path] = []
    now = time.time()
    flavours = {folder.name for folder in (root / "artifacts").glob("*/")}
    for flavour in sorted(flavours | {flavour for flavour, _ in _packages(root) if flavour}):
        # The lock that packaging holds while rpmbuild reads the artifact, and until the package is there.
        with held_if_free(root / "rpmbuild" / f"{flavour}.lock") as free:
            if free:
                artifacts = root / "artifacts" / flavour
                packages = [folder for other, folder in _packages(root) if other == flavour]
                superseded_ones = [
                    *superseded(_made(artifacts.glob("[!.]*/")), keep, now), 
                ]
    return gone
