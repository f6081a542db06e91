"""A tree of the toolchain folder is verified each time before it is used, not only when it is installed.

Rules:

1. ``record`` leaves a list of a tree's files in it, with their SHA-256, when it is installed (layout). ``verify``
   refuses a tree with a changed, added or missing file, one that another account may write, and one without its list.
2. A file whose inode, size, mode and times (mtime and ctime) are as recorded is not read: the kernel sets the ctime,
   and no account can set it back. All others are read and compared. So a verification of an unchanged tree takes
   milliseconds.
3. In a build's sandbox the trees are read-only (build/layers). This finds what changed them otherwise: a build without
   a sandbox, an account with the builder's rights, a damaged disk. Who has the builder's rights can also write the
   list: a sandbox is the wall, this is the alarm.
4. The system's compilers belong to its package manager. Of these only owner and mode are checked.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PipelineError
from ..base.records import sha256_file

LIST = "files.json"
_SHOWN = 5


@dataclass(frozen=True)
class _Entry:
    """A file or a link: ``state`` decides whether it must be read, ``content`` is its SHA-256 or its target."""

    state: tuple[int, ...]
    content: str


def record(tree: Path) -> None:
    """Write the list of a tree."""
    found = {name: [_state(path), _content(path)] for name, path in _files(tree).items()}
    # A rename: what lies there may be a link.
    partial = tree.with_name(f".{tree.name}.{LIST}")
    partial.write_text(json.dumps(found))
    partial.replace(tree / LIST)


def changes(tree: Path) -> list[str]:
    """What differs from the list of a tree, one phrase for each file; empty for an unchanged tree."""
    try:
        listed = _read(tree)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return [f"{LIST} is missing or damaged"]
    present = _files(tree)
    found = [f"{name} is missing" for name in sorted(listed.keys() - present.keys())]
    found += [f"{name} was added" for name in sorted(present.keys() - listed.keys())]
    moved = False
    for name in sorted(listed.keys() & present.keys()):
        path, entry = present[name], listed[name]
        if reason := _unsafe(path, tree):
            found.append(f"{name} {reason}")
        if _state(path) != entry.state:
            moved = True
            if _content(path) != entry.content:
                found.append(f"{name} has other content")
    if moved and not found:
        # A restored backup or a new link to a file: the next verification need not read it again.
        record(tree)
    return found


def verify(tree: Path) -> None:
    """Raise PipelineError for a tree that is not as it was installed."""
    if found := changes(tree):
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise PipelineError(
            f"the toolchain is not as it was installed: {', '.join(found[:_SHOWN])}{more}",
            str(tree),
            "Nothing was compiled with it. Find out what changed it; then delete the folder and run "
            "playbooks/builders.yml, or with a toolkit of wheels the release again: they install it anew",
        )


def verify_programs(root: Path, programs: Iterable[Path]) -> None:
    """Verify the trees below ``<root>/toolchain`` that hold these programs, and the owner and mode of others."""
    folder, trees = root / "toolchain", dict[Path, None]()
    for program in programs:
        if program.is_relative_to(folder):
            trees[folder / program.relative_to(folder).parts[0]] = None
        elif reason := _unsafe(program.resolve(), root):
            remedy = "Let it belong to root or to the account, and let no other account write it"
            raise PipelineError(f"a compiler {reason}", str(program), remedy)
    for tree in trees:
        verify(tree)


def _read(tree: Path) -> dict[str, _Entry]:
    found = json.loads((tree / LIST).read_text())
    return {name: _Entry(tuple(state), str(content)) for name, (state, content) in found.items()}


def _files(tree: Path) -> dict[str, Path]:
    """The files and links of a tree by their path in it, without the list."""
    found: dict[str, Path] = {}
    waiting = [str(tree)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    found[os.path.relpath(entry.path, tree)] = Path(entry.path)
    found.pop(LIST, None)
    return found


def _state(path: Path) -> tuple[int, ...]:
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mode, status.st_mtime_ns, status.st_ctime_ns


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    return sha256_file(path) if path.is_file() else "no file"


def _unsafe(path: Path, owned_like: Path) -> str:
    """Why another account could have written a file, or ""."""
    try:
        status = path.lstat()
    except OSError:
        return "is missing"
    if status.st_uid not in (0, os.geteuid(), owned_like.lstat().st_uid):
        return f"belongs to another account (uid {status.st_uid})"
    writable = status.st_mode & stat.S_IWOTH and not stat.S_ISLNK(status.st_mode)
    return "can be written by every account" if writable else ""
