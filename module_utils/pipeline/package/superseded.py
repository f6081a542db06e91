"""Prune the artifacts of a builder, and the packages and copies on the signer.

A builder has ``artifacts/<flavour>/<digest>/`` and ``handover/<flavour>-<version>-<release>.tar``. The signer has
``incoming/<builder>/`` with copies of hand-overs, ``packages/<digest>/`` with what it packaged, and
``signed/<digest>/`` with what it signed. Rules:

1. The newest artifacts of each flavour stay: the same number of releases', of other commits', and of those compiled
   incrementally; and the same number of packages and copies of each flavour in each folder; of a builder's hand-overs
   two. The age of an artifact is its manifest's, the age of all else its file's.
2. What is in use stays: files younger than ``GRACE`` seconds, and packages that a run asked for within them, since the
   next step may still read them. Handing over and packaging of a flavour exclude its pruning.
3. A removal is atomic: what is removed is renamed first. The same inputs make it again.
4. Leftovers of interrupted runs are removed after a day.
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
"""Folders or files, each with the time at which its content was made."""


def superseded(made: Made, keep: int, now: float) -> list[Path]:
    """What to remove of one flavour in one folder; the oldest last."""
    newest = sorted(made, key=lambda one: one[1], reverse=True)
    return [path for path, at in newest[keep:] if now - at > GRACE]


def prune(root: Path, keep: int, *, check: bool = False) -> list[Path]:
    """Remove what is superseded below the root of a builder or signer; returns it. With ``check`` nothing changes."""
    if keep < 1:
        raise PipelineError(f"artifacts_kept is {keep}", str(root), "Keep at least 1 of each flavour")
    removed: list[Path] = []
    for path in _superseded_below(root, keep, time.time()):
        removed.append(path)
        if not check:
            _remove(path)
    return removed


def _superseded_below(root: Path, keep: int, now: float) -> Iterator[Path]:
    """The folders to remove, each while its lock is held."""
    for artifacts in sorted((root / "artifacts").glob("*/")):
        # Held while an artifact is handed over.
        with held_if_free(root / "handover" / f"{artifacts.name}.lock") as free:
            if free:
                for made in _made(artifacts):
                    yield from superseded(made, keep, now)
                yield from _leftovers(artifacts.glob(".*/"), now)
    for flavour, packages in sorted(_packages(root / "packages").items()):
        # Held from before rpmbuild starts until the package is in its folder.
        with held_if_free(root / "rpmbuild" / f"{flavour}.lock") as free:
            if free:
                yield from superseded(packages, keep, now)
    for copies in _packages(root / "signed").values():
        yield from superseded(copies, keep, now)
    for folder in (root / "packages", root / "signed"):
        yield from _leftovers(
            (path for path in folder.glob("*/") if path.name[0] == "." or not [*path.glob("*.rpm")]), now
        )
    for folder, number in [(root / "handover", min(keep, 2)), *((one, keep) for one in (root / "incoming").glob("*/"))]:
        for copies in _handed(folder).values():
            yield from superseded(copies, number, now)
        yield from _leftovers(folder.glob(".*"), now)


def _made(artifacts: Path) -> tuple[Made, Made, Made]:
    """The artifacts of a flavour: those of releases, of other commits, and of incremental builds."""
    kinds: tuple[Made, Made, Made] = ([], [], [])
    for path in artifacts.glob("[!.]*/manifest.json"):
        text = path.read_text()
        kind = 2 if '"incremental": true' in text else 0 if '"kind": "tag"' in text else 1
        kinds[kind].append((path.parent, path.stat().st_mtime))
    return kinds


def _remove(path: Path) -> None:
    if not path.name.startswith(".old-"):
        away = path.with_name(f".old-{path.name}")
        shutil.rmtree(away, ignore_errors=True)
        away.unlink(missing_ok=True)
        path = path.rename(away)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _packages(folder: Path) -> dict[str, Made]:
    """The packages ``folder``/<digest>/mistralrs-<flavour>-<version>-<release>.<arch>.rpm by flavour."""
    found: dict[str, Made] = {}
    for path in sorted(folder.glob("[!.]*/mistralrs-*-*-*.rpm")):
        flavour = path.name.rsplit("-", 2)[0].removeprefix("mistralrs-")
        found.setdefault(flavour, []).append((path.parent, path.stat().st_mtime))
    return found


def _handed(folder: Path) -> dict[str, Made]:
    """The hand-overs ``folder``/<flavour>-<version>-<release>.tar by flavour."""
    found: dict[str, Made] = {}
    for path in sorted(folder.glob("[!.]*-*-*.tar")):
        found.setdefault(path.name.rsplit("-", 2)[0], []).append((path, path.lstat().st_mtime))
    return found


def _leftovers(unfinished: Iterable[Path], now: float) -> list[Path]:
    """Those unfinished folders that no run can still be writing."""
    return [path for path in unfinished if now - path.lstat().st_mtime > LEFTOVER]
