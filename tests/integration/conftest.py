"""Fixtures: the publisher agent's (see support/publisher_fixtures), and NVIDIA's compiler."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pipeline.toolchain.cuda import Toolkit, Wheels
from support.publisher_fixtures import first, host, keys, maker, published, rpms, second

__all__ = ["first", "host", "keys", "maker", "published", "rpms", "second"]


@pytest.fixture(scope="session")
def compiler(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Toolkit:
    """NVIDIA's compiler from its wheels, installed as on a builder."""
    pins = (project / "roles/cuda_toolkit/files/cuda-13.0.txt").read_text()
    return Wheels("13.0", tmp_path_factory.mktemp("cuda"), pins, sys.executable).install()
