"""Prune the artifacts and packages of a builder, and the copies on the signer.

A builder has ``artifacts/<flavour>/<digest>/`` and ``packages/<digest>/``; the signer has ``incoming/<name>/``, the
packages in its inbox, and ``signed/<digest>/``, those that it signed. Rules:

1. The newest artifacts of each flavour stay: the same number of releases', of other commits', and of those compiled
   incrementally; and the same number of packages of each name in each folder. The age of an artifact is its manifest's,
   the age of a package its file's.
2. What is in use stays: files younger than ``GRACE`` seconds, and packages that a run asked a builder for within them,
   since the next step may still read them. Packaging and pruning of a flavour on a builder exclude each other.
3. A removal is atomic: the folder is renamed first. The same inputs make it again.
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
"""Folders, each with the time at which its content was made."""


def superseded(made: Made, keep: int, now: float) -> list[Path]:
    """The folders to remove, of one flavour's artifacts or one folder's packages of a name; the oldest last."""
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
    built = root / "packages"
    for flavour in sorted({folder.name for folder in (root / "artifacts").glob("*/")} | _packages(built).keys()):
        # Packaging holds this lock from before rpmbuild reads the artifact until the package is in its folder.
        with held_if_free(root / "rpmbuild" / f"{flavour}.lock") as free:
            if free:
                artifacts = root / "artifacts" / flavour
                for made in _made(artifacts):
                    yield from superseded(made, keep, now)
                yield from _leftovers(artifacts.glob(".*/"), now)
                yield from superseded(_packages(built).get(flavour, []), keep, now)
    for folder in (root / "incoming", root / "signed"):
        for copies in _packages(folder).values():
            yield from superseded(copies, keep, now)
    for folder in (built, root / "incoming", root / "signed"):
        yield from _leftovers(
            (path for path in folder.glob("*/") if path.name[0] == "." or not [*path.glob("*.rpm")]), now
        )


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
        path = path.rename(away)
    shutil.rmtree(path)


def _packages(folder: Path) -> dict[str, Made]:
    """The packages ``folder``/<digest>/mistralrs-<flavour>-<version>-<release>.<arch>.rpm by flavour."""
    found: dict[str, Made] = {}
    for path in sorted(folder.glob("[!.]*/mistralrs-*-*-*.rpm")):
        flavour = path.name.rsplit("-", 2)[0].removeprefix("mistralrs-")
        found.setdefault(flavour, []).append((path.parent, path.stat().st_mtime))
    return found


def _leftovers(unfinished: Iterable[Path], now: float) -> list[Path]:
    """Those unfinished folders that no run can still be writing."""
    return [path for path in unfinished if now - path.stat().st_mtime > LEFTOVER]
