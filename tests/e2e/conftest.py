"""A fresh machine for each file of this folder. Tests of a file run in order; two files share a machine."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from support.machine import Pipeline, new_machine


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory, project: Path, stand_in: ModuleType) -> Pipeline:
    """The machine of test_release, which test_refusals uses afterwards to save releases of its own."""
    return new_machine(tmp_path_factory.mktemp("released"), project, stand_in)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, project: Path, stand_in: ModuleType) -> Pipeline:
    """A machine without a release."""
    return new_machine(tmp_path_factory.mktemp("machine"), project, stand_in)
