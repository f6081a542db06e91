"""Repositories of one commit, made of a table of files, with modes that no work tree needs to hold."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COMMIT = "1" * 40


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Submodule:
    """A commit of another repository."""

    commit: str = COMMIT


def pointer(text: str = "4" * 64, size: int = 12345) -> str:
    """What git stores of a file in Git LFS."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{text}\nsize {size}\n"


def commit(repository: Path, files: Mapping[str, str | Link | Submodule]) -> str:
    """Add a commit of exactly these files to a bare repository, which is made if it is missing; returns its id."""
    if not repository.is_dir():
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", repository], check=True)
    lines = ["commit refs/heads/main", "committer t <t@localhost> 1700000000 +0000", "data 1", "x", "deleteall"]
    for path, content in files.items():
        if isinstance(content, Submodule):
            lines.append(f"M 160000 {content.commit} {path}")
            continue
        mode, text = ("120000", content.target) if isinstance(content, Link) else ("100644", content)
        lines += [f"M {mode} inline {path}", f"data {len(text.encode())}", text]
    words = ["git", "-C", repository, "fast-import", "--quiet", "--force"]
    subprocess.run(words, input="\n".join([*lines, "done", ""]), text=True, check=True)
    words = ["git", "-C", repository, "rev-parse", "main"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
