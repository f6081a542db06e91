"""git without prompts, and without the repository or the askpass programs of the caller's environment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import PipelineError
from .run import CommandFailed, run

# A git hook sets these to its own repository: no call may go there.
_CALLERS = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX",
)  # fmt: skip
_QUIET: dict[str, str | None] = {
    **dict.fromkeys(_CALLERS),
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
    "GIT_OPTIONAL_LOCKS": "0",
    # git 2.45 and later then never fetches objects that a partial clone lacks.
    "GIT_NO_LAZY_FETCH": "1",
}


OFFLINE = {"GIT_ALLOW_PROTOCOL": "none"}
"""Lets no call reach a remote: git before 2.45 would fetch objects that a partial clone lacks."""


def git(
    *words: str | Path,
    repository: Path | None = None,
    timeout: float = 600,
    env: Mapping[str, str] | None = None,
    stdin: str | bytes | None = None,
) -> str:
    """Run git and return its output. ``repository`` is a git directory or a work tree; ``timeout`` is in seconds."""
    where: Sequence[str | Path] = ["-C", repository] if repository else []
    # A builder's checkout may belong to another account than the reader.
    safe = ["-c", f"safe.directory={repository}"] if repository else []
    return run(["git", *safe, *where, *words], env={**_QUIET, **(env or {})}, stdin=stdin, timeout=timeout).stdout


def has(repository: Path, thing: str) -> bool:
    """Whether the repository itself holds an object, such as "<commit>^{tree}"."""
    try:
        git("cat-file", "-e", thing, repository=repository, env=OFFLINE)
    except CommandFailed:
        return False
    return True


def parents_and_time(repository: Path, commit: str) -> tuple[list[str], int]:
    """A commit's parents, which may be missing, and its committer's time in seconds since 1970 UTC."""
    lines = git("cat-file", "commit", commit, repository=repository).partition("\n\n")[0].splitlines()
    committer = next(line for line in lines if line.startswith("committer "))
    return [line.split()[1] for line in lines if line.startswith("parent ")], int(committer.split()[-2])


def remote_refs(url: str) -> dict[str, str]:
    """All refs of a remote and their objects, in one exchange.

    An annotated tag has two rows: "refs/tags/v1" is the tag object and "refs/tags/v1^{}" the commit. "HEAD" maps to the
    name of the default branch's ref.
    """
    try:
        text = git("ls-remote", "--symref", "--", url, timeout=120)
    except CommandFailed as error:
        # The lines after the first "fatal:" are advice.
        fatal = [line for line in error.stderr.splitlines() if line.startswith("fatal: ")]
        raise PipelineError(
            f"upstream cannot be reached: {fatal[0] if fatal else 'git printed no reason'}",
            where=url,
            remedy="Check upstream_url (UPSTREAM= with make), the network and the credentials, then run again",
        ) from error
    return parse_refs(text)


def parse_refs(text: str) -> dict[str, str]:
    """The mapping that ``remote_refs`` describes, from ``git ls-remote --symref``."""
    refs: dict[str, str] = {}
    for line in text.splitlines():
        value, _, name = line.partition("\t")
        if value.startswith("ref: "):
            refs[name] = value.removeprefix("ref: ")
        elif name != "HEAD" or name not in refs:
            refs[name] = value
    return refs


def peeled(refs: Mapping[str, str], ref: str) -> str:
    """The commit of a ref of ``remote_refs``; peels annotated tags."""
    return refs.get(f"{ref}^{{}}", refs[ref])


def initialise(folder: Path, *, bare: bool) -> None:
    """Make ``folder`` a git repository unless it is one; replaces an incomplete one."""
    marker = folder / ("HEAD" if bare else ".git/HEAD")
    if marker.is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    git("init", "--quiet", *(["--bare"] if bare else []), folder)
