"""A development build from a clone: its commit, the pack for the builder, and the clone, which never changes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.git import git
from pipeline.base.records import Flavour
from pipeline.source import checkout
from pipeline.source.local_clone import DevRequest, resolve_local
from pipeline.source.upstream import resolve, resolve_commit
from support.clones import state

LIMITS = "mistralrs-core/src/limits.rs"
PERSON = ("-c", "user.name=Dev", "-c", "user.email=dev@example.org", "-c", "commit.gpgSign=false")


def objects(pack: Path) -> int:
    """The number of objects in a pack (gitformat-pack(5))."""
    return int.from_bytes(pack.read_bytes()[8:12])


class Developer:
    """Upstream, a developer's clone with one more commit, and a builder."""

    def __init__(self, folder: Path, stand_in) -> None:
        self.folder, self.upstream, self.clone = folder, folder / "upstream.git", folder / "clone"
        stand_in.create(self.upstream)
        self.url = f"file://{self.upstream}"
        self.builder = folder / "builder/src"
        git("clone", "--quiet", self.url, self.clone)
        self.commit("work of my own", **{LIMITS: "// mine\n"})

    def commit(self, message: str, **added: str) -> str:
        for name, text in added.items():
            with (self.clone / name).open("a") as stream:
                stream.write(text)
        git(*PERSON, "commit", "--quiet", "--all", "--message", message, repository=self.clone)
        return git("rev-parse", "HEAD", repository=self.clone).strip()

    def resolve(self, source: Path | None = None, **options):
        return resolve_local(
            DevRequest(source=str(source or self.clone), **options), self.url, self.folder / "mirror.git",
            checkout.known(self.builder, self.folder / "lock"), self.folder / "packs",
        )  # fmt: skip

    def build(self, found) -> Path:
        """The builder's part: receive the pack and move the checkout."""
        if found.pack:
            checkout.receive(self.builder, found.source.commit, found.pack)
        checkout.move(self.builder, found.source)
        return self.builder


@pytest.fixture
def developer(tmp_path, stand_in):
    return Developer(tmp_path, stand_in)


@pytest.fixture
def warm(developer):
    """A developer whose builder has upstream's newest commit."""
    checkout.move(developer.builder, resolve(developer.url, developer.folder / "mirror.git", kind="branch"))
    return developer


def test_a_commit_is_packed_without_history_and_its_version_follows_upstreams_releases(warm):
    before = state(warm.clone)
    found = warm.resolve()
    head = git("rev-parse", "HEAD", repository=warm.clone).strip()
    assert (found.source.commit, found.source.kind, found.source.ref) == (head, "commit", "HEAD")
    assert found.source.rpm_version.startswith("0.9.2^")
    assert found.source.rpm_version.endswith(f"git{head[:7]}")
    assert found.source.url == warm.clone.as_uri()
    # The commit, the file that changed, and the three folders above it: no other file, no other commit.
    assert objects(found.pack) == 5
    assert warm.build(found).joinpath(LIMITS).read_text().endswith("// mine\n")
    assert (
        git("rev-parse", "--is-shallow-repository", repository=warm.builder).strip() == "false"
    )  # the builder has its parent
    assert state(warm.clone) == before
    assert warm.resolve().pack is None


def test_an_empty_builder_gets_one_commit_and_then_follows_upstream(developer, stand_in):
    for number in range(3):
        developer.commit(f"more {number}", **{LIMITS: f"// {number}\n"})
    found = developer.resolve()
    shutil.move(developer.clone, developer.folder / "gone")  # the builder no longer needs the clone
    tree = developer.build(found)
    assert git("rev-list", "--count", "HEAD", repository=tree).strip() == "1"
    assert git("fsck", "--connectivity-only", repository=tree) is not None
    stand_in.release(developer.upstream, "0.9.3")
    checkout.move(tree, resolve(developer.url, developer.folder / "mirror.git", kind="tag"))
    assert int(git("rev-list", "--count", "HEAD", repository=tree)) > 9
    git("gc", "--quiet", "--prune=now", repository=tree)
    assert git("status", "--porcelain", repository=tree) == ""


def test_uncommitted_work_becomes_a_commit_and_the_clone_does_not_change(warm, monkeypatch):
    git("config", "core.hooksPath", "/nonexistent", repository=warm.clone)
    git("config", "core.fsmonitor", f"touch {warm.folder}/ran; false", repository=warm.clone)
    git("config", "filter.x.clean", f"touch {warm.folder}/ran; cat", repository=warm.clone)
    (warm.clone / ".gitattributes").write_text("*.rs filter=x\n")
    (warm.clone / ".git/info/exclude").write_text("*.private\n")
    (warm.clone / ".gitignore").write_text("*.log\n")
    for name in ("new.rs", "notes.private", "run.log"):
        (warm.clone / name).write_text("fresh\n")
    (warm.clone / LIMITS).write_text("pub const CHANGED: bool = true;\n")
    (warm.clone / "README.md").unlink()
    before = state(warm.clone)
    # The account's configuration is used, without a file system monitor, which would write into the clone.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"touch {warm.folder}/ran; false")
    first, second = warm.resolve(uncommitted=True), warm.resolve(uncommitted=True)
    assert state(warm.clone) == before
    assert not (warm.folder / "ran").exists()
    monkeypatch.undo()
    assert first.source == second.source
    assert first.source.rpm_version.endswith(f"git{first.source.commit[:7]}.dirty")
    tree = warm.build(first)
    assert (tree / LIMITS).read_text() == "pub const CHANGED: bool = true;\n"
    assert (tree / "new.rs").is_file()
    assert not [name for name in ("notes.private", "run.log", "README.md") if (tree / name).exists()]
    (warm.clone / "new.rs").write_text("other\n")
    assert warm.resolve(uncommitted=True).source.commit != first.source.commit


@pytest.mark.parametrize("ignore_case", ["false", "true"])
def test_programs_in_the_configuration_of_a_submodule_never_run(warm, ignore_case):
    """git add runs git status in each submodule, which would run them."""
    git("config", "core.ignoreCase", ignore_case, repository=warm.clone)
    trap = f"touch {warm.folder}/ran; cat"
    modules = [warm.clone / name for name in ("mod", "third/party/Mod", "mistralrs-core/a *[b]\n: mod")]
    for module in [*modules, warm.clone / "fresh"]:
        git("clone", "--quiet", warm.url, module)
        for name in ("core.fsmonitor", "filter.x.clean", "core.hooksPath"):
            git("config", name, trap, repository=module)
        (module / ".git/info/attributes").write_text("* filter=x\n")
    paths = [str(module.relative_to(warm.clone)) for module in modules]
    git("add", *(f":(literal){path}" for path in paths), repository=warm.clone)
    git(*PERSON, "commit", "--quiet", "--message", "submodules", repository=warm.clone)
    for module in modules:
        (module / LIMITS).write_text((module / LIMITS).read_text())  # same content, new time: git must compare it
    git(*PERSON, "commit", "--quiet", "--allow-empty", "--message", "newer", repository=modules[0])
    (warm.clone / LIMITS).write_text("// uncommitted\n")
    (warm.folder / "ran").unlink(missing_ok=True)
    before = state(warm.clone)
    found = warm.resolve(uncommitted=True)
    assert not (warm.folder / "ran").exists()
    assert state(warm.clone) == before
    tree = warm.build(found)
    assert (tree / LIMITS).read_text() == "// uncommitted\n"
    head, made = (
        {line for line in git("ls-tree", "-r", "-z", commit, repository=where).split("\0") if line[:6] == "160000"}
        for where, commit in ((warm.clone, "HEAD"), (tree, found.source.commit))
    )
    assert head == {line for line in made if not line.endswith("\tfresh")}
    assert len(head) == 3


def test_a_submodule_whose_path_is_not_utf8_is_refused(warm):
    module = os.fsencode(warm.clone) + b"/mod-\xff"
    subprocess.run(["git", "clone", "--quiet", warm.url, module], check=True)
    git("config", "core.fsmonitor", f"touch {warm.folder}/ran; false", repository=Path(os.fsdecode(module)))
    subprocess.run(["git", "-C", warm.clone, "add", b"mod-\xff"], check=True, capture_output=True)
    (warm.folder / "ran").unlink(missing_ok=True)
    with pytest.raises(PipelineError, match=r"the submodule mod-. is no UTF-8 .*Leave uncommitted out"):
        warm.resolve(uncommitted=True)
    assert not (warm.folder / "ran").exists()
    assert warm.resolve().source.ref == "HEAD"


def test_a_work_tree_elsewhere_is_refused_for_uncommitted_work_only(warm):
    """Its files would be packed, for example keys in the developer's home."""
    (warm.folder / "secret").write_text("of the developer")
    git("config", "core.worktree", "../..", repository=warm.clone)
    before = state(warm.clone)
    with pytest.raises(PipelineError, match=(
        rf"core.worktree .* names another folder, {warm.folder} .*\({warm.clone}\).*git config --unset core.worktree"
    )):  # fmt: skip
        warm.resolve(uncommitted=True)
    assert state(warm.clone) == before
    assert not (warm.folder / "packs").exists()
    assert warm.resolve().source.ref == "HEAD"


def test_the_checkout_of_a_submodule_is_a_valid_source(warm):
    """Its core.worktree names its own folder."""
    upper = warm.folder / "upper"
    git("init", "--quiet", upper)
    git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", warm.url, "engine", repository=upper)
    (upper / "engine" / LIMITS).write_text("// uncommitted\n")
    assert warm.resolve(upper / "engine", uncommitted=True).source.rpm_version.endswith(".dirty")


def test_a_second_pack_holds_only_the_second_change(developer):
    for number in range(2):
        (developer.clone / LIMITS).write_text(f"// {number}\n")
        found = developer.resolve(uncommitted=True)
        developer.build(found)
    # The commit, the file and the three folders above it.
    assert objects(found.pack) == 5


def test_a_clean_tree_resolves_to_its_commit(warm):
    (warm.clone / LIMITS).touch()
    assert warm.resolve(uncommitted=True).source == warm.resolve().source


def test_a_change_with_the_time_of_the_index_and_the_same_size_is_found(warm, monkeypatch):
    """The file's time equals the indexed time. Git compares the content of files as new as the index."""
    path, index = warm.clone / LIMITS, warm.clone / ".git/index"
    instant = (path.stat().st_mtime_ns,) * 2
    path.write_text(path.read_text().replace("mine", "MINE"))
    for file in (path, index):
        os.utime(file, ns=instant)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.trustctime")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "false")
    assert warm.resolve(uncommitted=True).source.rpm_version.endswith(".dirty")


def test_a_merge_in_progress_is_refused(warm):
    git("checkout", "--quiet", "-b", "other", "HEAD~1", repository=warm.clone)
    warm.commit("another", **{LIMITS: "// theirs\n"})
    subprocess.run(["git", *PERSON, "-C", warm.clone, "merge", "-q", "master"], capture_output=True, check=False)
    before = state(warm.clone)
    with pytest.raises(PipelineError, match=r"a merge is in progress: .*limits\.rs has conflicts"):
        warm.resolve(uncommitted=True)
    assert state(warm.clone) == before


def test_a_sparse_index_is_refused_for_uncommitted_work_only(warm):
    git("sparse-checkout", "set", "--sparse-index", "mistralrs-core", repository=warm.clone)
    with pytest.raises(PipelineError, match=r"from a sparse index .*sparse-checkout reapply --no-sparse-index"):
        warm.resolve(uncommitted=True)
    assert warm.resolve().source.ref == "HEAD"


@pytest.mark.parametrize("kind", ["worktree", "bare", "shallow", "partial", "split index", "sparse"])
def test_every_kind_of_clone_is_a_valid_source(warm, kind):
    other = warm.folder / "other"
    head = git("rev-parse", "HEAD", repository=warm.clone).strip()
    git("config", "uploadpack.allowFilter", "true", repository=warm.clone)
    options = {"bare": ["--bare"], "shallow": ["--depth=2"], "partial": ["--filter=blob:none"]}
    if kind == "worktree":
        git("worktree", "add", "--quiet", "--detach", other, repository=warm.clone)
    else:
        subprocess.run(["git", "clone", "-q", *options.get(kind, []), f"file://{warm.clone}", other], check=True)
    if kind == "split index":
        git("update-index", "--split-index", repository=other)
    if kind == "sparse":
        git("sparse-checkout", "set", "mistralrs-core", repository=other)
    before = state(warm.clone, other)
    found = warm.resolve(other)
    assert found.source.commit == head
    if kind != "bare":
        assert warm.resolve(other, uncommitted=True).source == found.source
        (other / LIMITS).write_text("// uncommitted\n")
        dirty = warm.resolve(other, uncommitted=True)
        (other / LIMITS).write_text((warm.clone / LIMITS).read_text())
        assert warm.build(dirty).joinpath(LIMITS).read_text() == "// uncommitted\n"
        assert warm.builder.joinpath("README.md").is_file()
        os.utime(other / LIMITS, ns=(0, 0))
        before = state(warm.clone, other)
        warm.resolve(other)
    assert state(warm.clone, other) == before
    assert warm.build(warm.resolve(other)).joinpath(LIMITS).read_text().endswith("// mine\n")


def test_a_clone_that_lacks_files_or_history_is_refused_with_a_remedy(warm):
    git("config", "uploadpack.allowFilter", "true", repository=warm.clone)
    partial, shallow = warm.folder / "partial", warm.folder / "shallow"
    git("clone", "--quiet", "--filter=blob:none", "--no-checkout", f"file://{warm.clone}", partial)
    before = state(partial)
    with pytest.raises(
        PipelineError, match=r"the clone lacks files of commit .*It is a partial clone: check that commit"
    ):
        warm.resolve(partial)
    assert state(partial) == before
    warm.commit("second", **{LIMITS: "// 2\n"})
    git("clone", "--quiet", "--depth=1", f"file://{warm.clone}", shallow)
    with pytest.raises(PipelineError, match=r"ends before a release.*git fetch --unshallow"):
        warm.resolve(shallow)


def test_a_clone_of_another_account_is_a_valid_source(warm):
    for path in (warm.clone, *warm.clone.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    assert warm.resolve(uncommitted=True).source == warm.resolve().source


def test_an_unreachable_upstream_is_a_warning_once_its_releases_are_known(warm):
    found = warm.resolve()
    warm.upstream.rename(warm.folder / "away")
    again = warm.resolve()
    assert again.source == found.source
    assert "upstream cannot be reached" in again.warnings[0]
    shutil.rmtree(warm.folder / "mirror.git")
    with pytest.raises(PipelineError, match="upstream cannot be reached"):
        warm.resolve()


def test_submodules_and_large_files_are_warnings(warm):
    (warm.clone / ".gitattributes").write_text("*.bin filter=lfs\n")
    git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},third/party", repository=warm.clone)
    git("add", ".gitattributes", repository=warm.clone)
    git(*PERSON, "commit", "--quiet", "--message", "both", repository=warm.clone)
    modules, large = warm.resolve().warnings
    assert "submodules are not brought to the builder: third/party" in modules
    assert "Git LFS are brought as pointers: .gitattributes" in large


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ref": "mastre"}, r"mastre names no commit \(.*/clone\)\. The nearest are: master"),
        ({"ref": "--all"}, "--all names no commit"),
        ({"ref": "HEAD:README.md"}, "HEAD:README.md names no commit"),
        ({"ref": "master~1", "uncommitted": True}, "uncommitted work is on top of HEAD.*Leave out ref or uncommitted"),
    ],
)
def test_an_invalid_ref_is_refused(warm, options, message):
    before = state(warm.clone, warm.builder)
    with pytest.raises(PipelineError, match=message):
        warm.resolve(**options)
    assert state(warm.clone, warm.builder) == before


def test_a_tag_and_a_branch_of_one_name_are_ambiguous(warm):
    git("tag", "fix", "master~1", repository=warm.clone)
    git("branch", "fix/1", "master", repository=warm.clone)
    assert warm.resolve(ref="fix").source.ref == "fix"
    git("branch", "--move", "fix/1", "fix", repository=warm.clone)
    with pytest.raises(PipelineError, match="fix is a tag of commit .*, and a branch at .* to refs/heads/fix or refs/"):
        warm.resolve(ref="fix")
    branch, tag = (warm.resolve(ref=f"refs/{kind}/fix").source.commit for kind in ("heads", "tags"))
    assert [branch, tag] == git("rev-parse", "master", "master~1", repository=warm.clone).split()


@pytest.mark.parametrize("below", [".", "none", "clone/mistralrs-core"])
def test_a_source_that_is_not_the_top_of_a_repository_is_refused(warm, below):
    """A folder below a checkout is ambiguous."""
    with pytest.raises(PipelineError, match=r"source is no readable git repository.*Name the top folder of a checkout"):
        warm.resolve(warm.folder / below)
    assert not (warm.folder / "packs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "/x", "commit": "abcdef1"}, "both source and commit were given.*Nothing was built"),
        ({}, "neither source nor commit was given"),
        ({"commit": "abcdef1", "uncommitted": True}, "uncommitted was given with commit"),
        ({"commit": "abcdef1", "ref": "x"}, "ref was given with commit"),
        ({"source": "/x", "publish": "stable"}, "cannot be published to stable.*publish=unstable"),
        ({"source": "/x", "publish": "all"}, "cannot be published to all"),
        ({"source": "/x", "publish": "unstable", "incremental": True}, "incremental was given with publish"),
        ({"source": "/x", "channel": "stable"}, "channel=stable was given.*belongs to unstable"),
        ({"source": "/x", "flavour": "all"}, "a development build has one flavour.*one of: ada, cpu"),
        ({"source": "/x", "flavour": "hopper"}, "there is no flavour hopper.*one of: ada, cpu"),
    ],
)
def test_contradictory_options_are_refused_before_any_work(run_module, tmp_path, options, message):
    table = [Flavour(name, "x").to_dict() for name in ("ada", "cpu")]
    folders = {"mirror": f"{tmp_path}/mirror.git", "packs": f"{tmp_path}/packs", "url": "file:///nonexistent"}
    result = run_module("dev_source", {"flavour": "cpu", "flavours": table} | folders | options)
    assert result["failed"]
    assert re.search(message, result["msg"]), result["msg"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("publish", "incremental", "expected"),
    [("", None, True), ("", False, False), ("", True, True), ("unstable", None, False), ("unstable", False, False)],
)
def test_a_build_to_publish_is_never_incremental_and_other_builds_are_by_default(publish, incremental, expected):
    assert DevRequest(source="/x", publish=publish, incremental=incremental).incrementally == expected


def test_a_nightly_run_wants_all_published_flavours_or_the_named_one(run_module, developer, flavours):
    options = {
        "url": developer.url,
        "kind": "branch",
        "mirror": f"{developer.folder}/mirror.git",
        "flavours": [*flavours.values()],
    }
    found = {
        name: [row["name"] for row in run_module("upstream_source", options | {"flavour": name})["wanted"]]
        for name in ("all", "cpu")
    }
    assert found == {"all": ["ampere", "ada", "blackwell"], "cpu": ["cpu"]}
    shutil.rmtree(developer.folder / "mirror.git")
    assert "there is no flavour hopper" in run_module("upstream_source", options | {"flavour": "hopper"})["msg"]
    assert not (developer.folder / "mirror.git").exists()


def test_a_commit_of_upstream_is_found_by_its_id_or_a_prefix(developer):
    commit = git("rev-parse", "v0.9.1~1", repository=developer.upstream).strip()
    mirror = developer.folder / "mirror.git"
    for id_ in (commit, commit[:7]):
        source, branches = resolve_commit(developer.url, mirror, id_)
        assert (source.commit, source.kind, branches) == (commit, "commit", ["master"])
        assert source.rpm_version.startswith("0.9.0^")
    checkout.move(developer.builder, source)
    assert checkout.current_commit(developer.builder) == commit


@pytest.mark.parametrize("by_id", ["true", "false"])
def test_a_commit_of_a_branch_is_fetched_even_if_the_server_serves_no_commit_by_id(developer, by_id):
    """Git's protocol 2 serves any commit; version 0 only those of uploadpack.allow…InWant."""
    git("branch", "topic", "master", repository=developer.upstream)
    for name in ("allowAnySHA1InWant", "allowReachableSHA1InWant", "allowTipSHA1InWant"):
        git("config", f"uploadpack.{name}", by_id, repository=developer.upstream)
    commit = git("rev-parse", "master~1", repository=developer.upstream).strip()
    os.environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.version", "GIT_CONFIG_VALUE_0": "0"}
    try:
        source, branches = resolve_commit(developer.url, developer.folder / "mirror.git", commit)
        checkout.move(developer.builder, source)
    finally:
        for name in ("COUNT", "KEY_0", "VALUE_0"):
            del os.environ[f"GIT_CONFIG_{name}"]
    assert branches == ["master", "topic"]
    assert checkout.current_commit(developer.builder) == commit


def test_a_commit_on_no_branch_requires_its_full_id(developer, stand_in):
    before = git("rev-parse", "master", repository=developer.upstream).strip()
    commit = stand_in.add_commit(developer.upstream, "thrown away", {LIMITS: "// x\n"})
    git("update-ref", "refs/heads/master", before, repository=developer.upstream)
    mirror = developer.folder / "mirror.git"
    with pytest.raises(PipelineError, match=f"upstream has no commit {commit[:9]}.*needs all 40 digits"):
        resolve_commit(developer.url, mirror, commit[:9])
    source, branches = resolve_commit(developer.url, mirror, commit)
    assert (source.commit, branches) == (commit, [])
    with pytest.raises(PipelineError, match=f"upstream has no commit {'1' * 40}.*Check the id"):
        resolve_commit(developer.url, mirror, "1" * 40)
    with pytest.raises(PipelineError, match="'v0.9.2' is no commit's id"):
        resolve_commit(developer.url, mirror, "v0.9.2")


def test_a_damaged_or_incomplete_pack_changes_nothing(warm):
    found = warm.resolve()
    before = checkout.current_commit(warm.builder), checkout.known(warm.builder, warm.folder / "lock")
    whole = found.pack.read_bytes()
    found.pack.write_bytes(whole[:-30])
    with pytest.raises(PipelineError, match="cannot be read"):
        checkout.receive(warm.builder, found.source.commit, found.pack)
    found.pack.write_bytes(whole)
    shutil.rmtree(warm.folder / "builder")
    with pytest.raises(PipelineError, match="does not complete commit"):
        checkout.receive(warm.builder, found.source.commit, found.pack)
    assert checkout.current_commit(warm.builder) == ""
    assert before[0]


def test_variables_of_a_git_hook_are_ignored(warm, monkeypatch):
    """Git sets them for its hooks; they would redirect the builder's git to the developer's repository."""
    found = warm.resolve()
    before = state(warm.clone)
    monkeypatch.setenv("GIT_DIR", str(warm.clone / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(warm.clone))
    monkeypatch.setenv("GIT_INDEX_FILE", str(warm.clone / ".git/index"))
    assert warm.build(found).joinpath(LIMITS).read_text().endswith("// mine\n")
    assert state(warm.clone) == before
