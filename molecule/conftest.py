"""Fixtures for the tests of every scenario."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from records import Records

STATE = Path(__file__).resolve().parents[1] / ".local/molecule"


@pytest.fixture(scope="session")
def state() -> Path:
    """The folder with keys, certificates and logs of the test hosts."""
    return STATE


@pytest.fixture(scope="session")
def records() -> Records:
    """The changes of this scenario's actions."""
    return Records(STATE / "records" / os.environ["MOLECULE_SCENARIO_NAME"])
