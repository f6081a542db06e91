"""Trials that attack the channel engine. They are short; ``FAULTS=long`` makes them thorough (``make faults``)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from support.plots import Plot, make_plots
from support.sizes import LONG, SHORT, Sizes


@pytest.fixture(scope="session")
def sizes() -> Sizes:
    return LONG if os.environ.get("FAULTS") == "long" else SHORT


@pytest.fixture(autouse=True, scope="session")
def _root() -> None:
    if os.geteuid():
        pytest.skip("needs root: for sshd, mounts and throw-away clients")


@pytest.fixture(scope="session")
def plots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Plot]]:
    """Repo hosts on the brink of each call of the agent. Trials spoil twins of them."""
    made = make_plots(tmp_path_factory.mktemp("plots"))
    yield made
    # A signer that was killed could not end its gpg-agent.
    home = made["first"].site.signer.home
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
