"""The changes of a scenario's actions are recorded, and the predictions of check mode are compared with them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from records import Records

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def callback():
    file = PROJECT / "molecule/plugins/callback/molecule_records.py"
    spec = importlib.util.spec_from_file_location("molecule_records", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(folder: Path, **actions: dict[str, list[str]]) -> Records:
    for action, changed in actions.items():
        (folder / f"{action}.json").write_text(json.dumps({"changed": changed, "failed": {}}))
    return Records(folder)


@pytest.mark.parametrize(
    ("playbook", "arguments", "action"),
    [
        ("converge", {"check": True}, "check"),
        ("converge", {"check": False, "skip_tags": ("molecule-notest,notest",)}, "converge"),
        ("converge", {"skip_tags": ["notest,molecule-idempotence-notest"]}, "idempotence"),
        ("prepare", {}, "prepare"),
    ],
)
def test_the_action_follows_from_molecules_arguments(callback, playbook, arguments, action):
    assert callback.action_of(playbook, arguments) == action


def test_a_right_prediction_passes(tmp_path):
    written(tmp_path, check={"host": ["a", "b"]}, converge={"host": ["b", "a"]}).assert_predicted()


def test_a_wrong_prediction_names_host_and_task(tmp_path):
    records = written(tmp_path, check={"host": ["a", "vain"]}, converge={"host": ["a", "a", "missed"], "other": ["c"]})
    with pytest.raises(AssertionError) as failure:
        records.assert_predicted(beside=["c"])
    for line in ("host: not predicted: a", "host: not predicted: missed", "host: predicted, but unchanged: vain"):
        assert line in str(failure.value)
    assert "other" not in str(failure.value)


def test_a_second_run_that_changed_something_fails(tmp_path):
    written(tmp_path, idempotence={"host": []}).assert_second_run_changed_nothing()
    with pytest.raises(AssertionError):
        written(tmp_path, idempotence={"host": ["again"]}).assert_second_run_changed_nothing()
