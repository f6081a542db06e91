"""What an rpm file holds, by programs that must succeed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def sh(*argv: str | Path, **environment: str) -> str:
    """The output of a program; AssertionError with all of it if it fails."""
    words, env = [str(word) for word in argv], os.environ | environment
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def query(rpm: Path | str, *words: str) -> list[str]:
    return sh("rpm", "-qp", "--nosignature", *words, rpm).splitlines()


def unpack(rpm: Path | str, folder: Path) -> Path:
    """The package's files below ``folder``, which is made."""
    folder.mkdir()
    archive = subprocess.run(["rpm2cpio", rpm], capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet"], cwd=folder, input=archive, check=True)
    return folder
