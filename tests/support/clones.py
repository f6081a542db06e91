"""Detects changes in a developer's clone."""

from __future__ import annotations

import hashlib
from pathlib import Path


def state(*folders: Path) -> str:
    """A digest of everything below the folders: names, contents and modes, and the modification times of files."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        about = path.lstat()
        digest.update(f"{path} {about.st_mode} ".encode())
        if not path.is_dir():
            digest.update(f"{about.st_mtime_ns} ".encode() + (b"" if path.is_symlink() else path.read_bytes()))
    return digest.hexdigest()
