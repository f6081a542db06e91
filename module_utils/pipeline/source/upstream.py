"""Resolve: which commit of upstream a run builds.

It is a tag, the newest commit of a branch, or any commit by its id. The mirror on the controller holds commits only (a
treeless partial clone), is updated only when the remote's refs moved, and can be deleted: it comes back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from ..base.errors import PipelineError
from ..base.git import OFFLINE, fetch, git, peeled, remote_refs, shallow
from ..base.lock import held
from ..base.records import Source
from ..base.run import CommandFailed
from ..base.text import without_account
from ..base.versions import Release, commit_version, corrected_time, nearest, parse_tag, releases
from .git_folder import drop_conflicting, whole

T = TypeVar("T")


def refuse_account(url: str) -> None:
    """PipelineError for an address with a password, or with an account for http(s), which may be a token.

    The address is in the package's VCS tag, in manifests, reports, logs and arguments of programs.
    """
    parts = urlsplit(url)
    if parts.password is not None or (parts.username is not None and parts.scheme in ("http", "https")):
        raise PipelineError(
            "upstream's address holds an account, which packages, reports and logs would show",
            where=without_account(url),
            remedy="Take it out of upstream_url. git reads accounts from ~/.netrc or its credential helper",
        )


def resolve(url: str, mirror: Path, *, kind: str, version: str = "", branch: str = "") -> Source:
    """The commit to build, with its time and versions.

    ``kind`` "tag" takes the tag of ``version``, or the newest release that is no prerelease; "branch" takes the newest
    commit of ``branch``, or of the remote's default branch, with a version after the highest release among its
    ancestors. Costs one ``git ls-remote``, and a fetch if a ref moved. Raises PipelineError for an unreachable upstream
    and for an unknown version or branch.
    """
    refuse_account(url)
    refs = remote_refs(url)
    known = releases(name.removeprefix("refs/tags/") for name in refs if name.startswith("refs/tags/"))
    if kind == "tag":
        release = choose_release(known, version, url)
        refuse_ambiguous(release, known, refs, url)
        ref = f"refs/tags/{release.tag}"
        commit = peeled(refs, ref)
        time = from_mirror(url, mirror, refs, ref, lambda: commit_time(mirror, commit))
        return Source(url, release.tag, "tag", commit, time, release.version, release.rpm_version)
    if version:
        raise PipelineError(
            f"version {version} was given, but this channel follows a branch",
            where=url,
            remedy="Leave the version out, or release it to the stable channel",
        )
    ref = choose_branch(refs, branch, url)
    commit = refs[ref]
    time, versions = from_mirror(
        url, mirror, refs, ref, lambda: (commit_time(mirror, commit), versions_of(mirror, commit, url))
    )
    return Source(url, ref.removeprefix("refs/heads/"), "branch", commit, time, *versions)


BRANCHES = "refs/heads/*"


def resolve_commit(url: str, mirror: Path, wanted: str) -> tuple[Source, list[str]]:
    """The commit of an id, or of the first digits of one, and the branches that hold it.

    Costs one ``git ls-remote``, and a fetch of commits without files if a ref moved. A commit on no branch is fetched
    by its whole id; some servers refuse that, and GitHub serves commits of forks too. Raises PipelineError if there is
    no such commit, or more than one.
    """
    refuse_account(url)
    if not re.fullmatch(r"[0-9a-f]{7,40}", wanted):
        raise PipelineError(
            f"{wanted!r} is no commit's id",
            where=url,
            remedy="Give 7 to 40 hexadecimal digits; for a branch or a tag, set source= and ref= to a local clone",
        )

    def read() -> tuple[Source, list[str]]:
        commit = find_commit(url, mirror, wanted)
        source = Source(url, wanted, "commit", commit, commit_time(mirror, commit), *versions_of(mirror, commit, url))
        words = ("for-each-ref", "--format=%(refname:lstrip=2)", "--contains", commit, "refs/heads")
        return source, git(*words, repository=mirror).split()

    return from_mirror(url, mirror, remote_refs(url), BRANCHES, read)


def find_commit(url: str, mirror: Path, wanted: str) -> str:
    """The whole id of a commit that the mirror has, or that upstream serves."""
    found = _commits(mirror, wanted)
    if not found and len(wanted) == 40:
        try:
            fetch(
                mirror, url, "--filter=tree:0", "--no-tags", "origin", f"+{wanted}:refs/commits/{wanted}", timeout=1800
            )
        except CommandFailed:
            pass
        else:
            found = [wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise PipelineError(
            f"{len(found)} commits begin with {wanted}: {', '.join(found)}", url, "Give more digits of the one you mean"
        )
    raise PipelineError(
        f"upstream has no commit {wanted}",
        where=url,
        remedy="Check the id"
        + ("" if len(wanted) == 40 else ". A commit on no branch needs all 40 digits of its id")
        + "; for a commit that is not pushed, set source= and ref= to a local clone",
    )


def _commits(mirror: Path, wanted: str) -> list[str]:
    ids = git("rev-parse", f"--disambiguate={wanted}", repository=mirror, env=OFFLINE).split()
    kinds = git("cat-file", "--batch-check=%(objectname) %(objecttype)", repository=mirror, env=OFFLINE,
                stdin="".join(f"{i}\n" for i in ids))  # fmt: skip
    return [line.split()[0] for line in kinds.splitlines() if line.endswith(" commit")]


def choose_release(known: list[Release], version: str, url: str) -> Release:
    """The release of ``version``, in any spelling of its tag or of rpm; the newest final release if it is empty.

    Of several tags of one version it is always the same one, however the version is spelled.
    """
    if version:
        wanted = parse_tag(version.replace("~", "-"))
        named = [release for release in known if wanted and release.rpm_version == wanted.rpm_version]
        if named:
            return named[-1]
        likely = ", ".join(nearest(version, known)) or "none: upstream has no release tags"
        raise PipelineError(f"upstream has no version {version}", where=url, remedy=f"The nearest are: {likely}")
    final = [release for release in known if release.final]
    if not final:
        raise PipelineError(
            "upstream has no release tag",
            where=url,
            remedy="Tags look like v1.2.3; name a version= to build an rc",
        )
    return final[-1]


def refuse_ambiguous(release: Release, known: list[Release], refs: Mapping[str, str], url: str) -> None:
    """PipelineError if tags of the release's version are on different commits: nothing decides which one it is."""
    tags = {
        other.tag: peeled(refs, f"refs/tags/{other.tag}") for other in known if other.rpm_version == release.rpm_version
    }
    if len(set(tags.values())) > 1:
        each = " and ".join(f"{tag} is {commit}" for tag, commit in tags.items())
        raise PipelineError(
            f"upstream has several tags of version {release.version} on different commits: {each}",
            where=url,
            remedy="Find out from upstream which one is the release: one has to go. Nothing was built; another release"
            " can be named with version= (VERSION= with make)",
        )


def choose_branch(refs: Mapping[str, str], branch: str, url: str) -> str:
    """The ref of the branch to follow; without a name the remote's own default branch."""
    ref = f"refs/heads/{branch}" if branch else refs.get("HEAD", "")
    if ref in refs:
        return ref
    names = sorted(name.removeprefix("refs/heads/") for name in refs if name.startswith("refs/heads/"))
    raise PipelineError(
        f"upstream has no branch {branch or 'marked as its default'}",
        where=url,
        remedy=f"Set upstream_branch to one of: {', '.join(names) or 'none'}",
    )


def commit_time(mirror: Path, commit: str) -> int:
    """The committer's time, in seconds since 1970 UTC. git show would fetch the commit's trees, rev-list does not."""
    return int(git("rev-list", "--max-count=1", "--timestamp", commit, repository=mirror).split()[0])


def versions_of(
    mirror: Path, commit: str, url: str, *, objects: Path | None = None, dirty: bool = False
) -> tuple[str, str]:
    """The base release of a commit, and the version of its package; ``objects`` is a folder with more commits."""
    base = base_release(mirror, commit, url, objects)
    # From the base release on: a clock that was ahead before it does not count for ever.
    listed = git("rev-list", "--topo-order", "--reverse", "--timestamp", "--parents", commit,
                 "--not", f"refs/tags/{base.tag}^{{commit}}^@", repository=mirror, env=_more(objects))  # fmt: skip
    rows = (line.split() for line in listed.splitlines())
    time = corrected_time((int(time), commit, parents) for time, commit, *parents in rows)
    return base.version, commit_version(base, commit, time, dirty=dirty)


def _more(objects: Path | None) -> dict[str, str]:
    return OFFLINE | ({"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects)} if objects else {})


def base_release(mirror: Path, commit: str, url: str, objects: Path | None = None) -> Release:
    """The highest release among the commit's ancestors; ``objects`` is an object folder with more commits."""
    tags = releases(git("tag", "--merged", commit, repository=mirror, env=_more(objects)).split())
    if not tags:
        raise PipelineError(
            "no release tag is an ancestor of this commit, so it has no version",
            where=f"{url} {commit}",
            remedy="Choose a branch or a commit that descends from a release",
        )
    return tags[-1]


def released(mirror: Path) -> list[str]:
    """The versions of upstream's releases, oldest first, in rpm's spelling; ``resolve`` has updated the mirror."""
    return [release.rpm_version for release in releases(git("tag", "--list", repository=mirror).split())]


def from_mirror(url: str, mirror: Path, refs: Mapping[str, str], ref: str, read: Callable[[], T]) -> T:
    """What ``read`` finds in the mirror, which has the commits of ``ref``, which may be ``BRANCHES``, and all tags.

    Holds the mirror's lock. A damaged mirror is made anew, and read again.
    """

    def work() -> T:
        _update(url, mirror, refs, ref)
        return read()

    with held(mirror.with_suffix(".lock")):
        return whole(mirror, work, bare=True, commits_of=url)


def _update(url: str, mirror: Path, refs: Mapping[str, str], ref: str) -> None:
    wanted = {
        name: value
        for name, value in refs.items()
        if (fnmatchcase(name, ref) or name.startswith("refs/tags/")) and not name.endswith("^{}")
    }
    listed = git("for-each-ref", "--format=%(objectname) %(refname)", repository=mirror)
    present = {name: value for value, name in (line.split(" ", 1) for line in listed.splitlines())}
    # A tag that upstream lost is a difference too: versions are made of the mirror's tags.
    lost = {name for name in present if name.startswith("refs/tags/")} - wanted.keys()
    if not lost and wanted.items() <= present.items():
        return
    drop_conflicting(mirror, wanted)
    words = ("--filter=tree:0", "--no-tags", "--prune", "origin", f"+{ref}:{ref}", "+refs/tags/*:refs/tags/*")
    if not fetch(mirror, url, *words, timeout=1800):
        raise shallow(url)
