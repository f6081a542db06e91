"""Parts of the mirror: folders of the cache, each complete and named by a digest of its inputs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

from settings import CACHE, PROJECT

RECIPE = 1
"""Raise it with every change of how a part is made."""


class MirrorError(OSError):
    """A part cannot be made: which one, and why."""


def digest(*facts: object, files: Iterable[Path] = ()) -> str:
    total = hashlib.sha256(json.dumps([RECIPE, *facts], sort_keys=True).encode())
    for file in sorted(files):
        content = os.fsencode(file.readlink()) if file.is_symlink() else file.read_bytes()
        total.update(f"{file.relative_to(PROJECT)}\0{file.lstat().st_mode}\0".encode() + content)
    return total.hexdigest()[:12]


@contextmanager
def made(name: str) -> Iterator[Path | None]:
    """A new folder, which gets the name when the block ends; None if the part exists already."""
    place = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if place.exists():
            os.utime(place)
            yield None
            return
        part = place.with_name(f"{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        print(f"mirror: making {place}", file=sys.stderr, flush=True)
        yield part
        part.rename(place)
        _forget(name.rpartition("-")[0])


def _forget(kind: str) -> None:
    """Removes parts of a kind that are unused for a month."""
    for place in CACHE.glob(f"{kind}-*"):
        if place.is_dir() and time.time() - place.stat().st_mtime > 30 * 86400:
            shutil.rmtree(place)


def apt(root: Path, *words: str) -> str:
    # A frozen mirror's validity has passed; its signatures are verified all the same.
    frozen = "Acquire::Check-Valid-Until=false"
    return run(["chroot", root, "apt-get", "--quiet", "-o", frozen, *words], {"DEBIAN_FRONTEND": "noninteractive"})


def run(words: list, more: Mapping[str, str] | None = None, *, check: bool = True, quiet: bool = True) -> str:
    """The output of a program; MirrorError with the end of its messages if it fails."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(more or {})}
    errors = subprocess.PIPE if quiet else None
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=errors, text=True, check=False, env=environment)
    if check and done.returncode:
        tail = "\n".join(((done.stderr or "") + done.stdout).strip().splitlines()[-8:])
        raise MirrorError(f"{' '.join(map(str, words[:6]))} failed: {tail}")
    return done.stdout
