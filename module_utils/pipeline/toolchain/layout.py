"""A tree of the toolchain folder: complete at its place, or not there.

Rules:

1. A tree is laid out beside its place, tried there, and renamed. Killed at any point, the place holds the old
   tree, none, or the new one; what is left beside it is cleared away by the next call.
2. The name of a tree tells its version, and its stamp what it was made from. Other versions are left alone.
3. Bytes from outside count only when they have the SHA-256 that is pinned.
"""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..base.errors import PipelineError
from ..base.run import CommandFailed, run


@contextmanager
def laid_out(folder: Path, what: str, *, space: int = 0) -> Iterator[Path]:
    """Yield a folder to work in, on the same disk; its ``tree`` then becomes ``folder``.

    ``what`` is named when less than ``space`` bytes are free. An error leaves ``folder`` as it was.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    previous = folder.with_name(f".{folder.name}.previous")
    for leftover in (partial, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < space:
        raise PipelineError(
            f"{what} needs {space >> 20} MB and {free >> 20} MB are free",
            str(folder.parent),
            "Free some space, or set builder_root to a folder on another disk",
        )
    try:
        partial.mkdir()
        yield partial
        if folder.exists():
            folder.rename(previous)
        (partial / "tree").rename(folder)
    finally:
        for leftover in (partial, previous):
            shutil.rmtree(leftover, ignore_errors=True)


def parse_pins(text: str) -> dict[str, str]:
    """File names and their SHA-256 from text as sha256sum writes it; comments and empty lines do not count."""
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if any(len(row) != 2 or len(row[0]) != 64 for row in rows):
        raise PipelineError(
            "the pins are not lines of a SHA-256 and a file name", text[:80], "Run make lock to write them"
        )
    return {name: digest for digest, name in rows}


def download(url: str, target: Path, sha256: str) -> None:
    """Bring a file that has this SHA-256; the proxies of the environment are used."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, target.open("wb") as stream:  # noqa: S310
            while data := answer.read(1 << 20):
                digest.update(data)
                stream.write(data)
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", "") or error
        raise PipelineError(
            f"the download failed: {reason}", url, "See that the host can reach it, or name a mirror that it can reach"
        ) from error
    if digest.hexdigest() != sha256:
        raise PipelineError(
            "a file is not the one that was pinned; nothing was installed",
            f"{url}: SHA-256 {digest.hexdigest()}, pinned {sha256}",
            "The server or a proxy gave other bytes: find out why before you trust either",
        )


def install_wheels(pins: str, target: Path, partial: Path, python: str, *, what: str, variable: str) -> None:
    """Have pip put the wheels of ``pins`` (a requirements file with hashes) into ``target``.

    ``partial`` is a folder for pip's own files; ``what`` names the pins in an error, and ``variable`` is what
    to set where ``python`` has no pip.
    """
    temporary = partial / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    listed = partial / "pins.txt"
    listed.write_text(pins)
    words: list[str | Path] = [
        *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-input", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile"),
        *("--target", target, "--requirement", listed),
    ]
    # On the same disk as the tree: /tmp may be small, and a move there is a copy.
    environment: Mapping[str, str] = {"TMPDIR": str(temporary)}
    try:
        run(words, env=environment)
    except CommandFailed as error:
        raise _pip_failure(error, python, what, variable) from error


def _pip_failure(error: CommandFailed, python: str, what: str, variable: str) -> PipelineError:
    said = error.stderr
    last = next((line for line in reversed(said.splitlines()) if line.startswith("ERROR")), said[-300:]).strip()
    where = f"pins of {what}"
    if "No module named pip" in said:
        return PipelineError("this Python has no pip", python, f"Install python3-pip there, or set {variable}")
    if "DO NOT MATCH THE HASHES" in said:
        return PipelineError(
            "a wheel is not the one that was pinned; nothing was installed",
            where,
            "The registry or a proxy gave other bytes: find out why before you trust either",
        )
    if "No matching distribution" in said:
        return PipelineError(
            f"a pinned wheel is not to be had: {last}",
            where,
            "See that the registry in pip's own configuration can be reached; the wheels are for x86_64",
        )
    return PipelineError(f"pip could not install {what}: {last}", where, "Run the command to see all of it")
