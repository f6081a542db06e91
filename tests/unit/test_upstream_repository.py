"""The stand-in upstream: the same repository on every machine, with a history that tests can extend."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "fixtures" / "upstream_repository.py"


def load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"upstream_repository_{abs(hash(script))}", script)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


upstream = load(SCRIPT)


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def refs(repository: Path) -> str:
    return git(repository, "for-each-ref", "--format=%(refname) %(objectname)")


def version_at(repository: Path, commit: str) -> str:
    text = git(repository, "show", f"{commit}:Cargo.toml")
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("version = "))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    dest = tmp_path / "upstream.git"
    assert upstream.create(dest)
    return dest


@pytest.fixture
def own_fixture(tmp_path: Path) -> ModuleType:
    """A copy of the fixture that a test may change."""
    shutil.copy(SCRIPT, tmp_path)
    shutil.copytree(
        upstream.WORKSPACE,
        tmp_path / "upstream",
        ignore=shutil.ignore_patterns("target"),
    )
    return load(tmp_path / SCRIPT.name)


def test_the_ids_do_not_depend_on_the_machine(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gitconfig").write_text(
        "[user]\nname = Somebody\n[core]\nautocrlf = true\n[init]\ndefaultBranch = main\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    other = tmp_path / "other.git"
    old_mask = os.umask(0o077)
    try:
        upstream.create(other)
        upstream.release(other, "0.9.3", rc=1)
        upstream.tag(other, "again", annotated=True)
        monkeypatch.undo()
        upstream.release(repository, "0.9.3", rc=1)
        upstream.tag(repository, "again", annotated=True)
    finally:
        os.umask(old_mask)
    assert refs(other) == refs(repository)
    assert git(other, "log", "--format=%an %ae %at / %cn %ce %ct", "-1") == (
        "Upstream Maintainer maintainer@upstream.example 1787413080 / "
        "Upstream Maintainer maintainer@upstream.example 1787413080"
    )


def test_the_repository_serves_shallow_and_partial_clones(repository: Path, tmp_path: Path) -> None:
    assert git(repository, "symbolic-ref", "HEAD") == "refs/heads/master"
    assert git(repository, "fsck", "--strict") == ""
    older = git(repository, "rev-parse", "master~2")
    clone = tmp_path / "clone"
    git(
        tmp_path,
        "clone",
        "--quiet",
        "--filter=blob:none",
        "--depth=1",
        repository.as_uri(),
        str(clone),
    )
    git(clone, "fetch", "--quiet", "--depth=1", "origin", older)
    git(clone, "checkout", "--quiet", older)
    assert (clone / "Cargo.lock").is_file()


def test_the_newest_stable_tag_is_the_workspace_on_disk(repository: Path, tmp_path: Path) -> None:
    git(
        repository,
        f"--work-tree={tmp_path}",
        "checkout",
        "--quiet",
        upstream.NEWEST,
        "--",
        ":/",
    )
    committed = {
        path: (tmp_path / path).read_text()
        for path in git(repository, "ls-tree", "-r", "--name-only", upstream.NEWEST).split()
    }
    assert committed == upstream.read_workspace()


def test_each_tag_has_its_version_and_a_candidate_that_of_its_release(
    repository: Path,
) -> None:
    tags = git(repository, "tag", "--list").split()
    assert {tag: version_at(repository, tag) for tag in tags} == {
        "v0.8.0": "0.8.0",
        "v0.8.3": "0.8.3",
        "v0.9.0": "0.9.0",
        "v0.9.0-rc1": "0.9.0",
        "v0.9.1": "0.9.1",
        "v0.9.2": "0.9.2",
    }
    kinds = {tag: git(repository, "cat-file", "-t", tag) for tag in tags}
    assert [tag for tag, kind in kinds.items() if kind == "tag"] == ["v0.9.0"]


def test_the_lock_file_follows_the_version(repository: Path) -> None:
    for tag in git(repository, "tag", "--list").split():
        lock = git(repository, "show", f"{tag}:Cargo.lock").splitlines()
        versions = {line for line in lock if line.startswith('version = "')}
        assert versions == {f'version = "{version_at(repository, tag)}"'}


def test_after_the_newest_tag_one_commit_touches_one_kind_of_file(
    repository: Path,
) -> None:
    touched = git(
        repository,
        "log",
        "--reverse",
        "--format=",
        "--name-only",
        f"{upstream.NEWEST}..master",
    ).split()
    assert touched == [
        "mistralrs-core/src/limits.rs",
        "mistralrs-core/src/cuda/sort.cu",
        "chat_templates/default.json",
    ]


def test_a_second_call_changes_nothing(repository: Path) -> None:
    upstream.release(repository, "0.9.3")
    before = refs(repository)
    assert not upstream.create(repository)
    assert refs(repository) == before
    assert [path.name for path in repository.parent.iterdir()] == [repository.name]


def test_concurrent_calls_create_one_repository(tmp_path: Path) -> None:
    dest = tmp_path / "deep" / "upstream.git"
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(upstream.create, [dest] * 4))
    assert sorted(made) == [False, False, False, True]
    assert [path.name for path in dest.parent.iterdir()] == [dest.name]


def test_a_changed_workspace_replaces_the_repository(own_fixture: ModuleType, tmp_path: Path) -> None:
    dest = tmp_path / "upstream.git"
    assert own_fixture.create(dest)
    before = git(dest, "rev-parse", "master")
    (tmp_path / "upstream" / "NEW").write_text("new\n")
    (tmp_path / "upstream" / "target").mkdir()
    (tmp_path / "upstream" / "target" / "junk").write_bytes(b"\xff")
    (tmp_path / "upstream" / "script.pyc").write_bytes(b"\xff")
    assert own_fixture.create(dest)
    assert git(dest, "rev-parse", "master") != before
    assert git(dest, "show", "master:NEW") == "new"
    assert git(dest, "ls-tree", "-r", "--name-only", "master", "target", "script.pyc") == ""


def test_an_edit_that_no_longer_fits_is_named_and_nothing_changes(own_fixture: ModuleType, tmp_path: Path) -> None:
    dest = tmp_path / "upstream.git"
    own_fixture.create(dest)
    before = refs(dest)
    (tmp_path / "upstream" / own_fixture.LIMITS).write_text("// nothing\n")
    with pytest.raises(
        own_fixture.RepositoryError,
        match=r"limits\.rs has to contain .* once, not 0 times",
    ):
        own_fixture.create(dest)
    assert refs(dest) == before


def test_a_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(upstream.RepositoryError, match="is not a repository of this fixture"):
        upstream.create(tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_commit_can_change_the_current_text(repository: Path) -> None:
    parent = git(repository, "rev-parse", "master")
    commit = upstream.add_commit(
        repository,
        "docs: more",
        {"README.md": lambda text: text + "More.\n", "docs/new.md": "New.\n"},
    )
    assert git(repository, "rev-parse", "master", "master^") == f"{commit}\n{parent}"
    assert git(repository, "diff", "--stat=200", parent, commit).endswith("2 files changed, 2 insertions(+)")
    dates = git(repository, "show", "-s", "--format=%ct", commit, parent).split()
    assert int(dates[0]) - int(dates[1]) == upstream.HOUR


def test_a_candidate_is_followed_by_its_release(repository: Path) -> None:
    candidate = upstream.release(repository, "0.9.3", rc=1)
    final = upstream.release(repository, "0.9.3")
    assert git(repository, "rev-parse", "v0.9.3-rc1", "v0.9.3") == f"{candidate}\n{final}"
    assert version_at(repository, candidate) == version_at(repository, final) == "0.9.3"
    assert git(repository, "show", "--format=", "--name-only", candidate).split() == [
        "Cargo.lock",
        "Cargo.toml",
        "README.md",
    ]
    assert git(repository, "show", "--format=", "--name-only", final) == "README.md"


def test_a_tag_can_move_but_not_be_created_twice(repository: Path) -> None:
    with pytest.raises(upstream.RepositoryError, match="already exists"):
        upstream.tag(repository, "v0.9.1", "v0.9.2")
    upstream.move_tag(repository, "v0.9.1", "master")
    assert git(repository, "rev-parse", "v0.9.1") == git(repository, "rev-parse", "master")
    with pytest.raises(upstream.RepositoryError, match=r"v9\.9\.9"):
        upstream.move_tag(repository, "v9.9.9", "master")


def test_the_command_prints_its_result(tmp_path: Path) -> None:
    def run(dest: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, SCRIPT, dest], capture_output=True, text=True, check=False)

    assert run(tmp_path / "a.git").stdout == "created\n"
    assert run(tmp_path / "a.git").stdout == "unchanged\n"
    refused = run(tmp_path)
    assert refused.returncode == 1
    assert "is not a repository of this fixture" in refused.stderr
    assert "Traceback" not in refused.stderr
