"""Which artifacts of a builder go."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from pipeline.artifacts import GRACE, LEFTOVER, prune
from pipeline.errors import PipelineError
from pipeline.packaging import alone


def artifact(root: Path, flavour: str, name: str, age: float) -> Path:
    folder = root / "artifacts" / flavour / name
    folder.mkdir(parents=True)
    (folder / "mistralrs").write_text("binary")
    (folder / "manifest.json").write_text("{}")
    when = time.time() - age
    for path in (folder / "manifest.json", folder):
        os.utime(path, (when, when))
    return folder


@pytest.fixture
def root(tmp_path):
    for age in (5000, 4000, 3000, 2000):
        artifact(tmp_path, "ada", f"{age}", age)
    artifact(tmp_path, "cpu", "one", 9000)
    return tmp_path


def names(root: Path, flavour: str) -> set[str]:
    return {path.name for path in (root / "artifacts" / flavour).iterdir()}


def test_the_newest_of_each_flavour_stay(root):
    told = prune(root, 2, check=True)
    assert [path.name for path in told] == ["4000", "5000"]
    assert len(names(root, "ada")) == 4
    assert prune(root, 2) == told
    assert (names(root, "ada"), names(root, "cpu")) == ({"2000", "3000"}, {"one"})
    assert prune(root, 2) == []


def test_one_that_may_be_on_its_way_to_a_package_stays(root):
    artifact(root, "ada", "new", 1)
    artifact(root, "ada", "newer", 0)
    artifact(root, "ada", "fresh", GRACE - 60)
    prune(root, 1)
    assert names(root, "ada") == {"newer", "new", "fresh"}


def test_nothing_goes_of_a_flavour_that_is_packaged_just_now(root):
    artifact(root, "cpu", "two", 8000)
    (root / "rpmbuild").mkdir()
    with alone(root / "rpmbuild" / "ada"):
        assert [path.name for path in prune(root, 1)] == ["one"]
    assert len(names(root, "ada")) == 4


def test_what_an_interrupted_build_left_goes_after_a_day(root):
    old, new = artifact(root, "ada", ".new-x", LEFTOVER + 60), artifact(root, "ada", ".new-y", 60)
    prune(root, 9)
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(root, keep):
    with pytest.raises(PipelineError, match=f"artifacts_kept is {keep}.*Keep 1"):
        prune(root, keep)
    assert len(names(root, "ada")) == 4


def test_a_builder_that_has_built_nothing(tmp_path):
    assert prune(tmp_path, 1) == []
