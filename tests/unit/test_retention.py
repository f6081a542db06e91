"""Retention: which packages of the head are superseded."""

from __future__ import annotations

import pytest
from pipeline.base.errors import PipelineError
from pipeline.channel.metadata import Identity
from pipeline.channel.retention import Retention, superseded


def package(text: str, name: str = "ada", arch: str = "x86_64") -> Identity:
    version, release = text.split("-")
    return Identity("0" * 64, f"mistralrs-{name}", arch, version, release)


BUILDS = ["0.9.1-1", "0.9.2~rc4-1", "0.9.2~rc10-1", "0.9.2-1", "0.9.2-2", "0.9.2-10", "0.10.0-1", "0.10.0^20260822-1"]


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(), BUILDS),
        (Retention(versions=1), ["0.10.0^20260822-1"]),
        (Retention(versions=3), ["0.9.2-1", "0.9.2-2", "0.9.2-10", "0.10.0-1", "0.10.0^20260822-1"]),
        (Retention(versions=5), BUILDS[2:] + BUILDS[1:2]),
        (Retention(versions=99), BUILDS),
        (Retention(builds=1), ["0.10.0^20260822-1"]),
        (Retention(builds=3), ["0.9.2-10", "0.10.0-1", "0.10.0^20260822-1"]),
        (Retention(versions=3, builds=4), ["0.9.2-2", "0.9.2-10", "0.10.0-1", "0.10.0^20260822-1"]),
        (Retention(versions=2, builds=4), ["0.10.0-1", "0.10.0^20260822-1"]),
    ],
)
def test_the_highest_by_rpms_order_stay(retention: Retention, kept: list[str]) -> None:
    packages = [package(text) for text in sorted(BUILDS)]
    gone = superseded(packages, retention)
    assert {p for p in packages if p not in gone} == {package(text) for text in kept}
    assert gone == [p for p in packages if p in gone], "in the order given"


def test_each_name_is_counted_by_itself_and_keeps_its_last() -> None:
    packages = [package("0.9.1-1"), package("0.9.2-1"), package("0.1-1", "cpu"), package("1-1", "release", "noarch")]
    assert superseded(packages, Retention(versions=1, builds=1)) == packages[:1]


def test_one_build_for_two_architectures_is_one() -> None:
    packages = [package("1-1", arch=arch) for arch in ("noarch", "x86_64")]
    assert superseded([*packages, package("0.9-1")], Retention(builds=1)) == [package("0.9-1")]


def test_an_empty_head_has_no_superseded_packages() -> None:
    assert superseded([], Retention(versions=1)) == []


@pytest.mark.parametrize("numbers", [{"versions": -1}, {"builds": -2}])
def test_a_retention_below_zero_is_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(PipelineError, match="keeps nothing"):
        Retention(**numbers)
