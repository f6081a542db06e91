"""Resolve: real git, upstream's stand-in."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.git import git
from pipeline.base.versions import rpm_order
from pipeline.source.checkout import move
from pipeline.source.mirrors import Mirrors
from pipeline.source.upstream import released, resolve, resolve_commit


@pytest.mark.parametrize(
    "url",
    ["https://me:hunter2@git.invalid/a.git", "https://hunter2@git.invalid/a.git", "ssh://me:hunter2@git.invalid/a"],
)
def test_an_account_in_upstreams_address_is_refused_and_not_shown(url, tmp_path):
    """Before any program gets it as an argument."""
    with pytest.raises(PipelineError, match="upstream's address holds an account.*git.invalid.*upstream_url") as error:
        resolve(url, tmp_path / "mirror", kind="tag")
    assert "hunter2" not in str(error.value)
    with pytest.raises(PipelineError, match="holds an account"):
        resolve_commit(url, tmp_path / "mirror", "0123456")
    assert list(tmp_path.iterdir()) == []


def test_the_newest_final_tag_is_taken(upstream, tmp_path):
    source = resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag")
    assert (source.ref, source.rpm_version, source.kind) == ("v0.9.2", "0.9.2", "tag")
    assert source.commit == git("rev-parse", "v0.9.2^{commit}", repository=upstream).strip()
    assert source.commit_time == int(git("show", "-s", "--format=%ct", source.commit, repository=upstream))


def test_an_annotated_tag_is_peeled_to_its_commit(upstream, tmp_path):
    source = resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version="0.9.0")
    assert git("cat-file", "-t", "v0.9.0", repository=upstream).strip() == "tag"
    assert git("cat-file", "-t", source.commit, repository=upstream).strip() == "commit"


@pytest.mark.parametrize("spelling", ["0.9.0-rc1", "v0.9.0-rc1", "0.9.0~rc1", "v0.9.0rc1", "0.9.0-rc.1"])
def test_a_prerelease_is_built_when_it_is_named(upstream, tmp_path, spelling):
    source = resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version=spelling)
    assert (source.ref, source.rpm_version) == ("v0.9.0-rc1", "0.9.0~rc1")


@pytest.mark.parametrize("annotated", [False, True])
@pytest.mark.parametrize("version", ["", "0.9.2", "v0.9.2"])
def test_tags_of_one_version_on_different_commits_are_refused(upstream, tmp_path, stand_in, version, annotated):
    stand_in.tag(upstream, "0.9.2", "master", annotated=annotated)
    with pytest.raises(PipelineError) as error:
        resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version=version)
    for tag in ("0.9.2", "v0.9.2"):
        commit = git("rev-parse", f"refs/tags/{tag}^{{commit}}", repository=upstream).strip()
        assert f"{tag} is {commit}" in error.value.what
    assert "Find out from upstream which one" in error.value.remedy
    assert not (tmp_path / "mirror").exists()
    assert resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version="0.9.1").ref == "v0.9.1"


def test_tags_of_one_version_on_one_commit_give_one_source(upstream, tmp_path, stand_in):
    """A lightweight and an annotated one, whatever the spelling that is asked for."""
    stand_in.tag(upstream, "0.9.2", "v0.9.2", annotated=True)
    url, mirror = f"file://{upstream}", tmp_path / "mirror"
    found = {resolve(url, mirror, kind="tag", version=version) for version in ("", "0.9.2", "v0.9.2")}
    assert {(source.ref, source.rpm_version) for source in found} == {("v0.9.2", "0.9.2")}


def test_the_branch_is_upstreams_default(upstream, tmp_path):
    """The stand-in's default branch is master, as upstream's; no code guesses main."""
    source = resolve(f"file://{upstream}", tmp_path / "mirror", kind="branch")
    assert source.ref == "master"
    assert source.rpm_version == f"0.9.2^20260822.143800git{source.commit[:7]}"


def committed(repository, time, *parents):
    """A commit on the default branch with this committer's time, on top of the branch or of ``parents``."""
    person = {f"GIT_{role}_{what}": "x@x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {"GIT_AUTHOR_DATE": f"{time} +0000", "GIT_COMMITTER_DATE": f"{time} +0000"}
    before = [word for parent in parents or ["master"] for word in ("-p", parent)]
    made = git("commit-tree", "master^{tree}", *before, "-m", "x", repository=repository, env=person | dates).strip()
    git("update-ref", "refs/heads/master", made, repository=repository)
    return made


def test_the_version_of_a_commit_is_above_that_of_each_ancestor(upstream, tmp_path):
    """As a clock that is behind, a rebase that keeps its times, and two commits of one second make it."""
    mirror, url = tmp_path / "mirror", f"file://{upstream}"
    now = int(git("show", "-s", "--format=%ct", "master", repository=upstream))
    found = [resolve(url, mirror, kind="branch")]

    def follow(time, *parents):
        committed(upstream, time, *parents)
        found.append(resolve(url, mirror, kind="branch"))

    follow(now - 86400)
    follow(now + 1)
    follow(now + 1)
    # A merge of a branch whose clock is ahead, and a commit after it.
    side = committed(upstream, now + 7200, "v0.9.2")
    follow(now + 60, found[-1].commit, side)
    follow(now + 120)
    for older, newer in itertools.pairwise(found):
        assert rpm_order(older.rpm_version, newer.rpm_version) < 0, (older, newer)
    assert [source.commit_time - now for source in found] == [0, -86400, 1, 1, 60, 120]
    assert found[1].rpm_version == f"0.9.2^20260822.143801git{found[1].commit[:7]}"
    assert resolve_commit(url, tmp_path / "another", found[1].commit)[0].rpm_version == found[1].rpm_version


def test_a_release_counts_with_its_own_time_only(upstream, tmp_path, stand_in):
    """A clock that was a year ahead ends with the next release; a commit after that is above the release's own."""
    mirror, url = tmp_path / "mirror", f"file://{upstream}"
    now = int(git("show", "-s", "--format=%ct", "master", repository=upstream))
    committed(upstream, now + 366 * 86400)
    assert "^20270823.143800git" in resolve(url, mirror, kind="branch").rpm_version
    committed(upstream, now + 60)
    stand_in.tag(upstream, "v0.9.3")
    released = resolve(url, mirror, kind="branch").rpm_version
    assert released.startswith("0.9.3^20260822.143900git")
    committed(upstream, now)
    assert rpm_order(resolve(url, mirror, kind="branch").rpm_version, released) > 0


def test_a_new_tag_is_seen_through_the_kept_mirror(upstream, tmp_path, stand_in):
    mirror = tmp_path / "mirror"
    resolve(f"file://{upstream}", mirror, kind="tag")
    commit = stand_in.release(upstream, "0.9.3")
    assert resolve(f"file://{upstream}", mirror, kind="tag").commit == commit


def test_a_lost_tag_leaves_the_kept_mirror(upstream, tmp_path, stand_in):
    """Versions of commits are made of the mirror's tags: they depend on upstream alone, not on what it had."""
    mirror, url = tmp_path / "mirror", f"file://{upstream}"
    stand_in.tag(upstream, "v0.9.3")
    assert resolve(url, mirror, kind="branch").version == "0.9.3"
    git("tag", "--delete", "v0.9.3", repository=upstream)
    assert resolve(url, mirror, kind="branch").version == "0.9.2"
    assert released(mirror) == ["0.8.0", "0.8.3", "0.9.0~rc1", "0.9.0", "0.9.1", "0.9.2"]


def test_nothing_is_fetched_when_nothing_moved(upstream, tmp_path):
    mirror = tmp_path / "mirror"
    resolve(f"file://{upstream}", mirror, kind="tag")
    before = sorted((p.name, p.stat().st_mtime_ns) for p in mirror.rglob("*"))
    resolve(f"file://{upstream}", mirror, kind="tag")
    assert sorted((p.name, p.stat().st_mtime_ns) for p in mirror.rglob("*")) == before


def test_an_unknown_version_names_the_nearest(upstream, tmp_path):
    with pytest.raises(PipelineError, match=r"no version 0\.9\.5 .*The nearest are: 0\.9\.\d") as caught:
        resolve(f"file://{upstream}", tmp_path / "mirror", kind="tag", version="0.9.5")
    assert str(upstream) in caught.value.where


def test_an_unknown_branch_names_the_known(upstream, tmp_path):
    with pytest.raises(PipelineError, match=r"no branch main .*one of: master"):
        resolve(f"file://{upstream}", tmp_path / "mirror", kind="branch", branch="main")


def test_a_version_for_a_branch_channel_is_refused(upstream, tmp_path):
    with pytest.raises(PipelineError, match="this channel follows a branch"):
        resolve(f"file://{upstream}", tmp_path / "mirror", kind="branch", version="0.9.2")


def test_an_unreachable_upstream_is_an_error(tmp_path):
    with pytest.raises(PipelineError, match="upstream cannot be reached.*upstream_url"):
        resolve(f"file://{tmp_path}/none.git", tmp_path / "mirror", kind="tag")
    assert not (tmp_path / "mirror").exists()


def test_an_incomplete_mirror_is_created_again(upstream, tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "config").write_text("broken")
    assert resolve(f"file://{upstream}", mirror, kind="tag").ref == "v0.9.2"


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_shallow_upstream_is_refused_by_name(upstream, tmp_path, monkeypatch, mirrored):
    """It would give commits lower versions: references that end at its edge are not stored."""
    url, shallow = f"file://{upstream}", tmp_path / "shallow.git"
    git("clone", "--quiet", "--bare", "--depth=2", url, shallow)
    git("fetch", "--quiet", "--depth=2", url, "+refs/tags/*:refs/tags/*", repository=shallow)
    address = f"file://{shallow}"
    if mirrored:
        address = "https://git.invalid/upstream.git"
        for name, value in Mirrors({address: f"file://{shallow}"}).environment.items():
            monkeypatch.setenv(name, value)
    for kind in ("tag", "branch"):
        with pytest.raises(PipelineError, match="is a shallow clone.*unshallow --tags there") as error:
            resolve(address, tmp_path / "mirror", kind=kind)
        assert error.value.where == f"file://{shallow}"
    git("fetch", "--quiet", "--unshallow", url, "+refs/*:refs/*", "--update-head-ok", repository=shallow)
    assert resolve(address, tmp_path / "mirror", kind="branch").rpm_version.startswith("0.9.2^20260822.143800git")


def test_a_builder_may_fetch_a_commit_from_a_shallow_mirror_that_has_it(upstream, tmp_path):
    url, shallow = f"file://{upstream}", tmp_path / "shallow"
    git("clone", "--quiet", "--depth=1", "--branch", "v0.9.2", url, shallow)
    source = replace(resolve(url, tmp_path / "mirror", kind="tag"), url=f"file://{shallow}")
    assert move(tmp_path / "src", source).commit == source.commit
    older = replace(source, commit=git("rev-parse", "v0.9.2~1", repository=upstream).strip())
    with pytest.raises(PipelineError, match="is a shallow clone"):
        move(tmp_path / "src2", older)
