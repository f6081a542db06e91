"""What all tests share: the project's paths, and upstream's stand-in as a git repository."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import ansible.module_utils
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
# The modules import ansible.module_utils.pipeline, as on a managed host; tests of the logic import pipeline.
ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))
sys.path.insert(0, str(PROJECT / "module_utils"))


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's folder."""
    return PROJECT


@pytest.fixture(scope="session")
def flavours() -> dict[str, dict[str, object]]:
    """The project's own flavour table, by name."""
    data = yaml.safe_load((PROJECT / "inventory/group_vars/all/flavours.yml").read_text())
    return {row["name"]: row for row in data["flavours"]}


def load(path: Path, name: str) -> ModuleType:
    """A Python file that is not on the path, as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def stand_in() -> ModuleType:
    """tests/fixtures/upstream_repository.py."""
    return load(PROJECT / "tests/fixtures/upstream_repository.py", "upstream_repository")


@pytest.fixture
def upstream(tmp_path: Path, stand_in: ModuleType) -> Path:
    """A fresh git repository of upstream's stand-in, for one test to change."""
    repository = tmp_path / "upstream.git"
    stand_in.create(repository)
    return repository


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]):
    """Runs a module's main() with arguments and returns the JSON it ends with."""

    def run(name: str, arguments: dict[str, object], *, check: bool = False) -> dict[str, object]:
        from ansible.module_utils.testing import patch_module_args

        module = load(PROJECT / f"library/{name}.py", f"library_{name}")
        with patch_module_args(arguments | {"_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return run
