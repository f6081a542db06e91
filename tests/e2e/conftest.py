"""One machine for all tests of this folder, in the order of their files."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from machine import Pipeline, new_machine


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory, project: Path, stand_in: ModuleType) -> Pipeline:
    """A machine on which nothing was released yet."""
    return new_machine(tmp_path_factory.mktemp("machine"), project, stand_in)
