"""What runs left on a builder and on the signer, and which of it goes.

On a builder ``artifacts/<flavour>/<digest>/`` and ``packages/<digest>/``; on the signer the copies that were brought
there, ``incoming/<digest>/``, and those that it signed, ``signed/<digest>/``. Rules:

1. The newest few artifacts of each flavour stay, as many again of those compiled incrementally, and in each folder as
   many packages of each name. An artifact is as old as its manifest, a package as its file.
2. One in use stays: what was made less than ``GRACE`` seconds ago, or a builder's package that was asked for then, may
   be on its way to the next stage. Of a flavour that is packaged just now nothing goes from the builder, and a package
   that is begun meanwhile waits.
3. One goes whole: its name first. The same inputs make it anew.
4. What an interrupted run left half goes after a day.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..base.errors import PipelineError
from ..base.lock import held_if_free

GRACE = 600
LEFTOVER = 86400

Made = list[tuple[Path, float]]
"""Folders, each with the time that what is in it was made at."""


def superseded(made: Made, keep: int, now: float) -> list[Path]:
    """Of one flavour's artifacts or one folder's packages of a name, those that go; oldest last."""
    newest = sorted(made, key=lambda one: one[1], reverse=True)
    return [path for path, at in newest[keep:] if now - at > GRACE]


def prune(root: Path, keep: int, *, check: bool = False) -> list[Path]:
    """Take away what is superseded below the root of a builder or signer; tells (``check``: would take) what went."""
    if keep < 1:
        raise PipelineError(f"artifacts_kept is {keep}", str(root), "Keep 1 of each flavour at least")
    gone: list[Path] = []
    for path in _going(root, keep, time.time()):
        gone.append(path)
        if not check:
            _remove(path)
    return gone


def _going(root: Path, keep: int, now: float) -> Iterator[Path]:
    """What goes, each while its lock is held."""
    built = root / "packages"
    for flavour in sorted({folder.name for folder in (root / "artifacts").glob("*/")} | _packages(built).keys()):
        # The lock that packaging holds from before rpmbuild reads the artifact until the package is there.
        with held_if_free(root / "rpmbuild" / f"{flavour}.lock") as free:
            if free:
                artifacts = root / "artifacts" / flavour
                for made in _made(artifacts):
                    yield from superseded(made, keep, now)
                yield from _left(artifacts.glob(".*/"), now)
                yield from superseded(_packages(built).get(flavour, []), keep, now)
    for folder in (root / "incoming", root / "signed"):
        for copies in _packages(folder).values():
            yield from superseded(copies, keep, now)
    for folder in (built, root / "incoming", root / "signed"):
        yield from _left((path for path in folder.glob("*/") if path.name[0] == "." or not [*path.glob("*.rpm")]), now)


def _made(artifacts: Path) -> tuple[Made, Made]:
    """The artifacts of a flavour that were compiled as releases are, and those that were incrementally."""
    kinds: tuple[Made, Made] = ([], [])
    for path in artifacts.glob("[!.]*/manifest.json"):
        incremental = '"incremental": true' in path.read_text()
        kinds[incremental].append((path.parent, path.stat().st_mtime))
    return kinds


def _remove(path: Path) -> None:
    if not path.name.startswith(".old-"):
        away = path.with_name(f".old-{path.name}")
        shutil.rmtree(away, ignore_errors=True)
        path = path.rename(away)
    shutil.rmtree(path)


def _packages(folder: Path) -> dict[str, Made]:
    """The packages ``folder``/<digest>/mistralrs-<flavour>-<version>-<release>.<arch>.rpm by flavour."""
    found: dict[str, Made] = {}
    for path in sorted(folder.glob("[!.]*/mistralrs-*-*-*.rpm")):
        flavour = path.name.rsplit("-", 2)[0].removeprefix("mistralrs-")
        found.setdefault(flavour, []).append((path.parent, path.stat().st_mtime))
    return found


def _left(halves: Iterable[Path], now: float) -> list[Path]:
    """Of what was left half, that which nobody can be at any more."""
    return [path for path in halves if now - path.stat().st_mtime > LEFTOVER]
