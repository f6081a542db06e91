"""Clocks: by how much they differ at least, and what a difference stops."""

from __future__ import annotations

import re

import pytest
from pipeline.base.errors import PipelineError
from pipeline.sign.clocks import TOLERANCE, ahead, check, require_present


@pytest.mark.parametrize(
    ("asked", "there", "answered", "difference"),
    [
        (100, 100.2, 100.4, 0),
        (100, 110, 130, 0),  # a slow line is no difference
        (580, 100, 581, 480),
        (100, 580, 101, -479),
        (161, 100, 200, 61),
    ],
)
def test_the_difference_is_the_least_one(asked: float, there: float, answered: float, difference: float) -> None:
    assert ahead(asked, there, answered) == difference


@pytest.mark.parametrize("seconds", [0.0, TOLERANCE, -480.0])
def test_signatures_that_clients_accept_are_made(seconds: float) -> None:
    require_present(seconds, "/srv")


def test_the_message_shows_both_clocks() -> None:
    with pytest.raises(
        PipelineError, match="480 s ahead of the repo host's: .* UTC here, .* UTC there.*future"
    ) as error:
        require_present(480, "/srv")
    here, there = re.findall(r"\d\d:\d\d:\d\d", error.value.what)
    assert here != there
    assert "timedatectl" in error.value.remedy


def test_the_status_finds_both_directions() -> None:
    assert check(5).fits
    assert "480 s ahead of" in check(480).found
    assert "480 s behind" in check(-480).found
    assert not check(-480).fits
