"""Fixtures of the publisher agent's tests: keys, packages, and a host whose channel stable holds 1.0."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline.base.records import Snapshot, Transaction

from .channel_maker import Key, Maker, make_package
from .publisher_host import Host, copy_of, unprivileged


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return {
        "trusted": Key.make(folder / "trusted"),
        "other": Key.make(folder / "other"),
        "expired": Key.make(folder / "expired", clock="20200101T000000!", expire="1d"),
    }


@pytest.fixture(scope="session")
def rpms(keys: dict[str, Key], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rpms")
    trusted = keys["trusted"]
    return {
        "1.0": make_package(folder, "1.0", arch="x86_64", key=trusted),
        "1.1": make_package(folder, "1.1", key=trusted),
        "1.2": make_package(folder, "1.2", key=trusted),
        "1.0 again": make_package(folder / "again", "1.0", arch="x86_64", text="other bytes", key=trusted),
        "unsigned": make_package(folder / "unsigned", "1.1"),
        "other key": make_package(folder / "other", "1.1", key=keys["other"]),
    }


@pytest.fixture(scope="session")
def published(
    keys: dict[str, Key], rpms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Host, Snapshot]:
    """A host whose channel stable holds 1.0. Tests work on copies."""
    folder = tmp_path_factory.mktemp("published")
    host = Host(folder / "host", keys["trusted"].public)
    return host, host.publish(Maker(folder / "uploads", keys["trusted"]).compose([rpms["1.0"]]))


@pytest.fixture
def host(published: tuple[Host, Snapshot], tmp_path: Path) -> Host:
    return copy_of(published[0], tmp_path / "host")


@pytest.fixture
def first(published: tuple[Host, Snapshot]) -> Snapshot:
    return published[1]


@pytest.fixture
def maker(keys: dict[str, Key], tmp_path: Path) -> Maker:
    return Maker(tmp_path / "uploads", keys["trusted"])


@pytest.fixture
def second(maker: Maker, rpms: dict[str, Path], first: Snapshot) -> Transaction:
    """A transaction that adds 1.1 to 1.0."""
    return maker.compose([rpms["1.0"], rpms["1.1"]], parent=first, before=[rpms["1.0"]])


@pytest.fixture
def account_host(published: tuple[Host, Snapshot]) -> Iterator[Host]:
    """A host whose agent runs as its own account, as in production; without root, as this one."""
    if os.geteuid():
        pytest.skip("requires root to run the agent as another account")
    with unprivileged(published[0]) as host:
        yield host
