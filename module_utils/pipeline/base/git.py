"""git without prompts, and without anybody's configuration.

Rules:

1. No file configures git, neither the system's nor the account's. ``_SETTINGS`` are the project's own: no hook, no
   file monitor, and files as the commit has them.
2. Of the account's configuration only what reaches a remote is read (``_ACCESS``: credential helpers, proxies,
   certificates, headers), and passed on by the environment, since headers hold tokens. git itself reads ~/.netrc.
3. Of the caller's variables only the mirrors of the filter git_environment apply (``url.<mirror>.insteadOf``).
4. A repository is named by GIT_DIR: git never searches for one, so a damaged one inside another is an error and never
   a command for the outer one.
5. The configuration of the project's own repositories is text that ``initialise`` writes, at each use.
6. Replaced and grafted objects do not count: an id names its own bytes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from .environment import SSH_AGENT
from .errors import PipelineError
from .run import NO_SPACE, CommandFailed, DiskFull, run

_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.autocrlf": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
}
_QUIET = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    # git warns of one that is there.
    "GIT_GRAFT_FILE": "/dev/null/none",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
    "GIT_OPTIONAL_LOCKS": "0",
    # git 2.45 and later then never fetches objects that a partial clone lacks.
    "GIT_NO_LAZY_FETCH": "1",
}
_ACCESS = (
    r"^(credential\..*"
    r"|http\.(.*\.)?(proxy|proxyauthmethod|sslcainfo|sslcapath|sslcert|sslkey|extraheader|cookiefile|emptyauth))$"
)
_MIRROR = re.compile(r"url\..+\.insteadof", re.IGNORECASE)
_HEAD = re.compile(r"(ref: refs/\S+|[0-9a-f]{40,64})\n?")
_HOME = ("HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL")


OFFLINE = {"GIT_ALLOW_PROTOCOL": "none"}
"""Lets no call reach a remote: git before 2.45 would fetch objects that a partial clone lacks."""


def git(
    *words: str | Path,
    repository: Path | None = None,
    timeout: float = 600,
    env: Mapping[str, str] | None = None,
    stdin: str | bytes | None = None,
) -> str:
    """Run git and return its output. ``repository`` is a git directory or a work tree; ``timeout`` is in seconds.

    ``env`` adds variables; git mirrors in it replace the caller's. Raises DiskFull, and what ``run`` raises.
    """
    pairs = [*_SETTINGS.items(), *access(), *mirrors(env if env and "GIT_CONFIG_COUNT" in env else os.environ)]
    try:
        return run(
            ["git", *words],
            # Without a repository git must find none: the caller may stand in one.
            cwd=repository or Path("/"),
            env={**_QUIET, **located(repository), **(env or {}), **configured(pairs)},
            keep=("HOME", *SSH_AGENT),
            stdin=stdin,
            timeout=timeout,
        ).stdout
    except CommandFailed as error:
        if NO_SPACE.search(error.stderr):
            raise DiskFull(error.what, error.where) from error
        raise


def located(repository: Path | None) -> dict[str, str]:
    """The variable that names a repository."""
    if repository is None:
        return {}
    # With a GIT_DIR git takes the working directory for the work tree, whoever owns it (git(1)).
    folder = repository.absolute()
    return {"GIT_DIR": str(folder / ".git" if (folder / ".git").exists() else folder)}


def configured(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """git's configuration as environment variables (git-config(1), GIT_CONFIG_COUNT); a later pair wins."""
    numbered = list(enumerate(pairs))
    return {
        "GIT_CONFIG_COUNT": str(len(numbered)),
        **{f"GIT_CONFIG_KEY_{number}": key for number, (key, _) in numbered},
        **{f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in numbered},
    }


def mirrors(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The pairs ``url.<mirror>.insteadOf`` of a configuration in environment variables, and no other ones."""
    for number in range(int(environ.get("GIT_CONFIG_COUNT") or 0)):
        key = environ.get(f"GIT_CONFIG_KEY_{number}", "")
        if _MIRROR.fullmatch(key):
            yield key, environ.get(f"GIT_CONFIG_VALUE_{number}", "")


def access() -> tuple[tuple[str, str], ...]:
    """The account's settings that reach a remote, as pairs of key and value."""
    return account(_ACCESS)


def account(pattern: str) -> tuple[tuple[str, str], ...]:
    """The settings of the account and of the system whose key matches, as pairs; read once in a process."""
    return _account(pattern, *(os.environ.get(name, "") for name in _HOME))


def default_excludes() -> Path:
    """The account's file of ignored names where no setting names one (gitignore(5))."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME", "/"), ".config")
    return Path(home, "git", "ignore")


@cache
def _account(pattern: str, *_home: str) -> tuple[tuple[str, str], ...]:
    # With this GIT_DIR no repository's configuration is read. 1: there is no such setting.
    listed = run(
        ["git", "config", "--includes", "--null", "--get-regexp", pattern],
        cwd=Path("/"),
        env={"GIT_DIR": "/dev/null"},
        keep=_HOME,
        accept=(0, 1),
    ).stdout
    rows = [row.partition("\n") for row in listed.split("\0") if row]
    return tuple((key, value) for key, _, value in rows)


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
            # git's own advice, safe.directory in ~/.gitconfig, has no effect here.
            remedy="The repository belongs to another account: give it to the one that runs Ansible, or name its https "
            "or ssh address"
            if "dubious ownership" in error.stderr
            else "Check upstream_url (UPSTREAM= with make), the network and the credentials, then run again",
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


def initialise(folder: Path, *, bare: bool, commits_of: str = "") -> None:
    """Make ``folder`` a git repository, with the project's configuration alone; replaces a damaged one.

    With ``commits_of``, the address of the remote "origin", it is a treeless partial clone.
    """
    git_dir = folder if bare else folder / ".git"
    if not _sound(git_dir):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        git("init", "--quiet", "--template=", *(["--bare"] if bare else []), folder.absolute())
    wanted = _configuration(bare=bare, commits_of=commits_of)
    config = git_dir / "config"
    if config.is_symlink() or not config.is_file() or config.read_text(errors="replace") != wanted:
        partial = git_dir / "config.new"
        partial.write_text(wanted)
        partial.replace(config)


def _sound(git_dir: Path) -> bool:
    """Whether git finds a repository here (gitrepository-layout(5)): else it is damaged, incomplete or a link."""
    try:
        head = (git_dir / "HEAD").read_text()
    except (OSError, ValueError):
        return False
    folders = (git_dir, git_dir / "objects", git_dir / "refs")
    return bool(_HEAD.fullmatch(head)) and all(path.is_dir() and not path.is_symlink() for path in folders)


def _configuration(*, bare: bool, commits_of: str) -> str:
    lines = ["[core]", f"repositoryformatversion = {int(bool(commits_of))}"]
    lines += ["filemode = true", f"bare = {str(bare).lower()}"]
    if commits_of:
        url = commits_of.replace("\\", "\\\\").replace('"', '\\"')
        lines += ["[extensions]", "partialClone = origin", '[remote "origin"]', f'url = "{url}"']
        lines += ["promisor = true", "partialclonefilter = tree:0"]
    return "".join(f"{line}\n" if line[0] == "[" else f"\t{line}\n" for line in lines)
