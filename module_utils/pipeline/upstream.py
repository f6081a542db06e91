"""Resolve: which commit of upstream a run is about.

The mirror on the controller holds commits only (a treeless partial clone), is brought up to date
only when the remote's refs moved, and can be deleted: it comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .errors import PipelineError
from .git import git, initialise, peeled, remote_refs
from .lock import held
from .records import Source
from .versions import Release, commit_version, nearest, releases


def resolve(url: str, mirror: Path, *, kind: str, version: str = "", branch: str = "") -> Source:
    """The commit to build, with its time and versions.

    ``kind`` "tag" takes the tag of ``version``, or the newest release that is no prerelease;
    "branch" takes the newest commit of ``branch``, or of the remote's default branch, and names it
    after the highest release among its ancestors. Costs one ``git ls-remote``, and a fetch when
    something moved. Raises PipelineError for an unreachable upstream and for an unknown version or branch.
    """
    refs = remote_refs(url)
    known = releases(name.removeprefix("refs/tags/") for name in refs if name.startswith("refs/tags/"))
    if kind == "tag":
        release = choose_release(known, version, url)
        ref = f"refs/tags/{release.tag}"
        commit = peeled(refs, ref)
        update_mirror(url, mirror, refs, ref)
        time = commit_time(mirror, commit)
        return Source(url, release.tag, "tag", commit, time, release.version, release.rpm_version)
    if version:
        raise PipelineError(
            f"version {version} was asked for, but this channel follows a branch",
            where=url,
            remedy="Leave the version out, or release it to the stable channel",
        )
    ref = choose_branch(refs, branch, url)
    commit = refs[ref]
    update_mirror(url, mirror, refs, ref)
    time, base = commit_time(mirror, commit), base_release(mirror, commit, url)
    name = ref.removeprefix("refs/heads/")
    return Source(url, name, "branch", commit, time, base.version, commit_version(base, commit, time))


def choose_release(known: list[Release], version: str, url: str) -> Release:
    """The release of ``version``, spelled with or without v; without one, the newest final release."""
    if version:
        for release in known:
            if version.removeprefix("v") in (release.version, release.rpm_version, release.tag):
                return release
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


def choose_branch(refs: Mapping[str, str], branch: str, url: str) -> str:
    """The ref of the branch to follow; without a name the remote's own default, never a guessed one."""
    ref = f"refs/heads/{branch}" if branch else refs.get("HEAD", "")
    if ref in refs:
        return ref
    names = sorted(name.removeprefix("refs/heads/") for name in refs if name.startswith("refs/heads/"))
    raise PipelineError(
        f"upstream has no branch {branch or 'marked as its default'}",
        where=url,
        remedy=f"Set upstream_branch to one of: {', '.join(names) or 'none there'}",
    )


def commit_time(mirror: Path, commit: str) -> int:
    """The committer's time, in seconds since 1970 UTC. rev-list, since git show would fetch the commit's trees."""
    return int(git("rev-list", "--max-count=1", "--timestamp", commit, repository=mirror).split()[0])


def base_release(mirror: Path, commit: str, url: str) -> Release:
    """The highest release among the commit's ancestors."""
    tags = releases(git("tag", "--merged", commit, repository=mirror).split())
    if not tags:
        raise PipelineError(
            "no release tag is an ancestor of this commit, so its version cannot be told",
            where=f"{url} {commit}",
            remedy="Follow a branch that contains a release",
        )
    return tags[-1]


def update_mirror(url: str, mirror: Path, refs: Mapping[str, str], ref: str) -> None:
    """Bring the commits behind ``ref`` and all tags into the mirror, unless they are there.

    Holds the mirror's lock: two runs on one controller do not fetch into it at once.
    """
    with held(mirror.with_suffix(".lock")):
        initialise(mirror, bare=True)
        wanted = {name: value for name, value in refs.items() if name == ref or name.startswith("refs/tags/")}
        listed = git("for-each-ref", "--format=%(objectname) %(refname)", repository=mirror)
        present = {name: value for value, name in (line.split(" ", 1) for line in listed.splitlines())}
        if all(present.get(name) == value for name, value in wanted.items() if not name.endswith("^{}")):
            return
        git("config", "remote.origin.url", url, repository=mirror)
        git("fetch", "--quiet", "--filter=tree:0", "--no-tags", "--prune", "origin",
            f"+{ref}:{ref}", "+refs/tags/*:refs/tags/*", repository=mirror, timeout=1800)  # fmt: skip
