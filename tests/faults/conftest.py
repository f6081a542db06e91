"""Fault tests of the channel engine: short by default, thorough with ``FAULTS=long`` (``make faults``)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from support.scenarios import Scenario, make_scenarios
from support.sizes import LONG, SHORT, Sizes


@pytest.fixture(scope="session")
def sizes() -> Sizes:
    return LONG if os.environ.get("FAULTS") == "long" else SHORT


@pytest.fixture(autouse=True, scope="session")
def _root() -> None:
    if os.geteuid():
        pytest.skip("requires root for sshd, mounts and throw-away clients")


@pytest.fixture(scope="session")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scenario]]:
    """A repo host for each command of the agent. Tests use copies."""
    scenarios = make_scenarios(tmp_path_factory.mktemp("scenarios"))
    yield scenarios
    # A killed signer leaves its gpg-agent running.
    home = scenarios["first"].site.signer.home
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
