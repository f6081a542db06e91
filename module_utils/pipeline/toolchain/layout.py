"""A tree of the toolchain folder: complete or absent.

Rules:

1. A tree is prepared beside its place, verified there, and renamed. Killed at any point, its place holds the old
   tree, none, or the new one; the next call removes the leftovers.
2. A tree's name carries its version, and its stamp the digest of its inputs. Other versions stay untouched.
3. Downloaded bytes are used only if they have the pinned SHA-256.
4. A complete tree has a list of its files, by which it is verified before each use (verified).
"""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..base.environment import opener
from ..base.errors import PipelineError
from ..base.run import CommandFailed, run
from .verified import record

# The registry is the account's choice: pip's configuration. The bytes are the pins'.
_PIP = (
    "HOME", "XDG_CONFIG_HOME", "PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS",
    "PIP_NO_INDEX", "PIP_TRUSTED_HOST", "PIP_PROXY", "PIP_CLIENT_CERT", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES",
)  # fmt: skip
SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin")


def build_path(rust: Path | None, cuda: Path | None) -> str:
    """The PATH of a build: the folders of cargo and of nvcc, where known, then the system's."""
    return ":".join(map(str, filter(None, (rust, cuda, *SYSTEM_PATH))))


@contextmanager
def laid_out(folder: Path, what: str, *, space: int = 0) -> Iterator[Path]:
    """Yield a scratch folder on the same disk; its ``tree`` then becomes ``folder``.

    An error leaves ``folder`` as it was. With fewer than ``space`` bytes free it raises PipelineError, which names
    ``what``.
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
        record(partial / "tree")
        if folder.exists():
            folder.rename(previous)
        (partial / "tree").rename(folder)
    finally:
        for leftover in (partial, previous):
            shutil.rmtree(leftover, ignore_errors=True)


def parse_pins(text: str) -> dict[str, str]:
    """File names and their SHA-256 from sha256sum's format; comments and empty lines are ignored."""
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if any(len(row) != 2 or len(row[0]) != 64 for row in rows):
        raise PipelineError(
            "the pins are not lines of a SHA-256 and a file name", text[:80], "Run make lock to write them"
        )
    return {name: digest for digest, name in rows}


def download(url: str, target: Path, sha256: str) -> None:
    """Download a file with this SHA-256, through the proxies of the environment."""
    digest = hashlib.sha256()
    try:
        with opener(url).open(url, timeout=60) as answer, target.open("wb") as stream:
            while data := answer.read(1 << 20):
                digest.update(data)
                stream.write(data)
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", "") or error
        raise PipelineError(
            f"the download failed: {reason}", url, "Check that the host can reach it, or set a mirror that it can reach"
        ) from error
    if digest.hexdigest() != sha256:
        raise PipelineError(
            "a file does not match its pinned SHA-256; nothing was installed",
            f"{url}: SHA-256 {digest.hexdigest()}, pinned {sha256}",
            "The server or a proxy sent other bytes: find out why before you trust either",
        )


def install_wheels(pins: str, target: Path, partial: Path, python: str, *, what: str, variable: str) -> None:
    """Install the wheels of ``pins`` (a requirements file with hashes) into ``target`` with pip.

    ``partial`` is a folder for pip's own files. Errors name ``what`` the pins are of, and the ``variable`` to set
    where ``python`` has no pip.
    """
    temporary = partial / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    requirements = partial / "pins.txt"
    requirements.write_text(pins)
    words: list[str | Path] = [
        *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-input", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile"),
        *("--target", target, "--requirement", requirements),
    ]
    # On the tree's own disk: /tmp may be small, and a move from there copies.
    try:
        run(words, env={"TMPDIR": str(temporary)}, keep=_PIP)
    except CommandFailed as error:
        raise _pip_failure(error, python, what, variable) from error


def _pip_failure(error: CommandFailed, python: str, what: str, variable: str) -> PipelineError:
    output = error.stderr
    last = next((line for line in reversed(output.splitlines()) if line.startswith("ERROR")), output[-300:]).strip()
    where = f"pins of {what}"
    if "No module named pip" in output:
        return PipelineError("this Python has no pip", python, f"Install python3-pip there, or set {variable}")
    if "DO NOT MATCH THE HASHES" in output:
        return PipelineError(
            "a wheel does not match its pinned SHA-256; nothing was installed",
            where,
            "The registry or a proxy sent other bytes: find out why before you trust either",
        )
    if "No matching distribution" in output:
        return PipelineError(
            f"a pinned wheel is not available: {last}",
            where,
            "Check that the registry in pip's own configuration answers; the wheels are for x86_64",
        )
    return PipelineError(f"pip failed to install {what}: {last}", where, "Run the command to see its whole output")
