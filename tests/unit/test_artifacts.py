"""Pruning artifacts and hand-overs of a builder, and packages and copies on the signer."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.package.handover import in_use
from pipeline.package.rpm import alone
from pipeline.package.superseded import GRACE, LEFTOVER, prune


def artifact(
    root: Path, flavour: str, name: str, age: float, *, incremental: bool = False, kind: str = "branch"
) -> Path:
    folder = root / "artifacts" / flavour / name
    folder.mkdir(parents=True)
    (folder / "mistralrs").write_text("binary")
    (folder / "manifest.json").write_text(json.dumps({"incremental": incremental, "source": {"kind": kind}}, indent=1))
    when = time.time() - age
    for path in (folder / "manifest.json", folder):
        os.utime(path, (when, when))
    return folder


def package(root: Path, folder: str, flavour: str, version: str, age: float) -> Path:
    path = root / folder / f"{flavour}{version}" / f"mistralrs-{flavour}-{version}-1.fc43.x86_64.rpm"
    path.parent.mkdir(parents=True)
    path.write_text("rpm")
    path.with_name("manifest.json").write_text("{}")
    when = time.time() - age
    for one in (path, path.parent):
        os.utime(one, (when, when))
    return path


@pytest.fixture
def root(tmp_path):
    for age in (5000, 4000, 3000, 2000):
        artifact(tmp_path, "ada", f"{age}", age)
    artifact(tmp_path, "cpu", "one", 9000)
    return tmp_path


def names(root: Path, flavour: str) -> set[str]:
    return {path.name for path in (root / "artifacts" / flavour).iterdir()}


def test_the_newest_of_each_flavour_stay(root):
    removed = prune(root, 2, check=True)
    assert [path.name for path in removed] == ["4000", "5000"]
    assert len(names(root, "ada")) == 4
    assert prune(root, 2) == removed
    assert (names(root, "ada"), names(root, "cpu")) == ({"2000", "3000"}, {"one"})
    assert prune(root, 2) == []


def test_incremental_artifacts_do_not_count_against_those_like_releases(root):
    for age in (1500, 1400, 1300):
        artifact(root, "ada", f"dev-{age}", age, incremental=True)
    assert [path.name for path in prune(root, 2)] == ["4000", "5000", "dev-1500"]


def test_artifacts_of_releases_do_not_count_against_those_of_commits(root):
    for age in (1500, 1400, 1300):
        artifact(root, "ada", f"tag-{age}", age, kind="tag")
    assert [path.name for path in prune(root, 2)] == ["tag-1500", "4000", "5000"]


def test_an_artifact_that_may_be_packaged_next_stays(root):
    artifact(root, "ada", "new", 1)
    artifact(root, "ada", "newer", 0)
    artifact(root, "ada", "fresh", GRACE - 60)
    prune(root, 1)
    assert names(root, "ada") == {"newer", "new", "fresh"}


def test_no_artifact_of_a_flavour_is_removed_while_it_is_handed_over(root):
    artifact(root, "cpu", "two", 8000)
    with in_use(root, "ada"):
        assert [path.name for path in prune(root, 1)] == ["one"]
    assert len(names(root, "ada")) == 4


def test_leftovers_of_an_interrupted_build_are_removed_after_a_day(root):
    old, new = artifact(root, "ada", ".new-x", LEFTOVER + 60), artifact(root, "ada", ".new-y", 60)
    prune(root, 9)
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(root, keep):
    with pytest.raises(PipelineError, match=f"artifacts_kept is {keep}.*Keep at least 1"):
        prune(root, keep)
    assert len(names(root, "ada")) == 4


def test_an_empty_builder(tmp_path):
    assert prune(tmp_path, 1) == []


@pytest.mark.parametrize("folder", ["packages", "signed"])
def test_the_newest_packages_of_each_name_stay(tmp_path, folder):
    for number in range(1, 6):
        package(tmp_path, folder, "ada", f"0.9.2^2026082{number}.1git9e92262", 9000 - number * 1000)
    package(tmp_path, folder, "ada-hopper", "0.1", 99000)
    fresh = package(tmp_path, folder, "ada", "0.8.0", GRACE - 60)
    removed = prune(tmp_path, 2, check=True)
    assert [path.name[-16:] for path in removed] == [f"2026082{number}.1git9e92262"[-16:] for number in (4, 3, 2, 1)]
    assert len(list((tmp_path / folder).iterdir())) == 7
    assert prune(tmp_path, 2) == removed
    left = {path.name for path in (tmp_path / folder).glob("*/*.rpm")}
    assert left == {
        fresh.name, "mistralrs-ada-0.9.2^20260825.1git9e92262-1.fc43.x86_64.rpm",
        "mistralrs-ada-hopper-0.1-1.fc43.x86_64.rpm",
    }  # fmt: skip
    assert {path.parent.name for path in (tmp_path / folder).glob("*/*")} == {
        path.parent.name for path in (tmp_path / folder).glob("*/*.rpm")
    }
    assert prune(tmp_path, 2) == []


def test_a_package_that_was_requested_again_stays(tmp_path):
    old = package(tmp_path, "packages", "ada", "0.8.0", 9000)
    newer = package(tmp_path, "packages", "ada", "0.9.0", 5000)
    old.touch()
    assert prune(tmp_path, 1) == [newer.parent]


def test_no_package_of_a_flavour_is_removed_while_it_is_packaged(tmp_path):
    for flavour in ("ada", "cpu"):
        for age in (5000, 4000):
            package(tmp_path, "packages", flavour, f"0.{age}", age)
    (tmp_path / "rpmbuild").mkdir()
    with alone(tmp_path / "rpmbuild" / "ada"):
        assert [path.name for path in prune(tmp_path, 1)] == ["cpu0.5000"]


@pytest.mark.parametrize("name", [".old-x", ".x.123", "without-a-package"])
def test_an_unfinished_package_is_removed_after_a_day(tmp_path, name):
    for folder, age in (("packages", LEFTOVER + 60), ("signed", LEFTOVER + 60)):
        path = tmp_path / folder / name
        path.mkdir(parents=True)
        os.utime(path, (time.time() - age,) * 2)
    assert {path.parent.name for path in prune(tmp_path, 9)} == {"packages", "signed"}
    assert not list((tmp_path / "packages").iterdir())


@pytest.mark.parametrize(("folder", "kept"), [("handover", 2), ("incoming/forge", 3)])
def test_the_newest_hand_overs_of_each_flavour_stay(tmp_path, folder, kept):
    def handed(name: str, age: float) -> str:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("tar")
        os.utime(path, (time.time() - age,) * 2)
        return name

    names = [handed(f"ada-0.9.{number}-1.fc43.tar", 9000 - number) for number in range(5)]
    fresh = handed("ada-0.1-1.fc43.tar", GRACE - 60)
    stays = {handed("cpu-0.1-1.fc43.tar", 99000), handed("ada.lock", 99000), handed(".ada-1-1.tar.12", 60), fresh}
    handed(".ada-1-1.tar.13", LEFTOVER + 60)
    handed(".old-ada-1-1.tar", LEFTOVER + 60)  # of a killed pruning
    prune(tmp_path, 3)
    assert {path.name for path in (tmp_path / folder).iterdir()} == {*names[5 - kept + 1 :], *stays}
