"""Secrets come from a private file, else from the environment; the error of a missing one names both."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleLookupError

PROJECT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("secret", PROJECT / "plugins/lookup/secret.py")
assert _spec
assert _spec.loader
secret = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(secret)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MISTRALRS_RPM_TOKEN", "of the environment")
    return tmp_path


def put(folder, text, mode=0o600):
    file = folder / "token"
    file.write_text(text)
    file.chmod(mode)


def test_the_file_overrides_the_environment(folder):
    put(folder, "of the file\n")
    assert secret.find("token", folder, None) == "of the file"


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_the_environment_without_a_file(folder, text):
    if text is not None:
        # An empty file is the operator's choice of an empty secret: the environment does not count.
        put(folder, text)
        assert secret.find("token", folder, "") == ""
    else:
        assert secret.find("token", folder, None) == "of the environment"


def test_a_file_open_to_other_accounts_is_refused_with_its_remedy(folder):
    put(folder, "seen by all", 0o640)
    with pytest.raises(AnsibleLookupError) as caught:
        secret.find("token", folder, None)
    assert f"chmod 0600 {folder / 'token'}" in str(caught.value)
    assert "seen by all" not in str(caught.value)


def test_the_error_of_a_missing_secret_names_both_places(folder):
    with pytest.raises(AnsibleLookupError) as caught:
        secret.find("other", folder, None)
    assert str(folder / "other") in str(caught.value)
    assert "MISTRALRS_RPM_OTHER" in str(caught.value)
    assert secret.find("other", folder, "") == ""


def test_the_handbook_names_every_secret():
    table = yaml.safe_load((PROJECT / "inventory/group_vars/all/secrets.yml").read_text())
    handbook = (PROJECT / "docs/variables.md").read_text()
    for variable in table:
        name = variable.removeprefix("secret_")
        assert f"| `{name}` | `MISTRALRS_RPM_{name.upper()}` | `{variable}` |" in handbook
