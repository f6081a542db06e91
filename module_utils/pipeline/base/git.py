"""git without prompts, and without anybody's configuration.

Rules:

1. No file configures git, neither the system's nor the account's. ``_SETTINGS`` are the project's own: no hook, no
   file monitor, and files as the commit has them.
2. Of the account's configuration only what reaches a remote is read (``_ACCESS``: credential helpers, proxies,
   certificates, headers), and passed on by the environment, since headers hold tokens. git itself reads ~/.netrc.
3. Of the caller's variables only the mirrors of the filter git_environment apply (``url.<mirror>.insteadOf``).
4. A repository is named by GIT_DIR: git never searches for one, so a damaged one inside another is an error and never
   a command for the outer one.
5. The configuration of the project's own repositories is text that the project writes, at each use
   (source/git_folder.py).
6. Nothing of git goes on after its command: it would work on a repository without the repository's lock.
7. Replaced and grafted objects do not count: an id names its own bytes.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    "gc.autoDetach": "false",
    # git 2.47 and later.
    "maintenance.autoDetach": "false",
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
    return _done(words, repository, timeout, env, stdin).stdout


def _done(
    words: Sequence[str | Path],
    repository: Path | None,
    timeout: float,
    env: Mapping[str, str] | None = None,
    stdin: str | bytes | None = None,
) -> subprocess.CompletedProcess[str]:
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
        )
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


def git_mirrors(environ: Mapping[str, str]) -> dict[str, str]:
    """The mirrors of a configuration in environment variables, by the prefix of addresses that each replaces."""
    return {prefix: key[len("url.") : -len(".insteadof")] for key, prefix in mirrors(environ)}


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
        raise PipelineError(
            f"upstream cannot be reached: {fatal(error.stderr) or 'git printed no reason'}",
            where=url,
            remedy=remote_remedy(
                url,
                error.stderr,
                "Check upstream_url (UPSTREAM= with make), the network and the credentials, then run again",
            ),
        ) from error
    return parse_refs(text)


class FetchFailed(CommandFailed):
    """A failed ``fetch``: git's own reason, and the remedy where its cause is the remote."""

    def __init__(self, failure: CommandFailed, url: str) -> None:
        super().__init__(failure.argv, failure.status, failure.stdout, failure.stderr)
        self.what = f"git cannot fetch: {fatal(failure.stderr) or failure.what}"
        self.where = url
        otherwise = f"Check that this host reaches {url}: network, proxy, credentials; or name a mirror (git_mirrors)"
        self.remedy = remote_remedy(url, failure.stderr, otherwise)


def fetch(repository: Path, url: str, *words: str, timeout: float = 3600) -> bool:
    """Run ``git fetch`` with ``words``, its options, remote and refspecs; returns whether all references were stored.

    Others end at commits that the remote, a shallow clone, lacks. ``url`` is the remote's address, for errors.
    """
    try:
        return "shallow roots are not allowed" not in _done(["fetch", "--quiet", *words], repository, timeout).stderr
    except CommandFailed as error:
        raise FetchFailed(error, url) from error


def fatal(output: str) -> str:
    """The line of git's output with the reason, or "": those after the first "fatal:" are advice."""
    return next((line for line in output.splitlines() if line.startswith("fatal: ")), "")


def remote_remedy(url: str, output: str, otherwise: str = "") -> str:
    """The remedy for a remote that git failed on, by git's output; ``otherwise`` where the cause is not known."""
    if "dubious ownership" in output:
        # git's own advice, safe.directory in ~/.gitconfig, has no effect here.
        return (
            "The repository belongs to another account: give it to the one that runs git here, or name its https or ssh"
            " address (upstream_url, git_mirrors)"
        )
    sent = mirrored(url, git_mirrors(os.environ))
    if sent != url:
        return f"git_mirrors sends this address to {sent}: check that it answers and holds what upstream has"
    return otherwise


def shallow(url: str) -> PipelineError:
    """The error for a remote whose history is incomplete."""
    return PipelineError(
        "this repository is a shallow clone: it lacks the history that versions and builds are made from",
        where=mirrored(url, git_mirrors(os.environ)),
        remedy="Run git fetch --unshallow --tags there, or name a complete repository (upstream_url, git_mirrors)",
    )


def mirrored(url: str, by_prefix: Mapping[str, str]) -> str:
    """The address that git uses for ``url`` with these mirrors (``git_mirrors``): the longest prefix wins."""
    longest = max(filter(url.startswith, by_prefix), key=len, default="")
    return by_prefix.get(longest, "") + url.removeprefix(longest)


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
