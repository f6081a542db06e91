"""Fixtures of all tests: the project's paths, upstream's stand-in, modules run in-process. Order and times of tests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import ansible.module_utils
import pytest
import yaml
from _pytest.terminal import TerminalReporter
from support.loading import load
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

PROJECT = Path(__file__).resolve().parents[1]
# Modules import ansible.module_utils.pipeline, as on a managed host; tests of the logic import pipeline.
ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

# Prefixes of paths, slowest files first: small files last balance the processes.
ORDER = ("tests/e2e/test_release", "tests/e2e/test_refusals", "tests/e2e/", "tests/faults/", "tests/integration/")
# Prefixes of paths whose files share one process: their tests share expensive session fixtures.
TOGETHER = ("tests/e2e/test_re", "tests/faults/")


# PARTS=files: one row of the table of times for each file.
DETAILS = os.environ.get("PARTS") == "files"


def pytest_configure(config: pytest.Config) -> None:
    # pytest-xdist's worker has a thread that waits for work; forked children do not use it.
    config.addinivalue_line(
        "filterwarnings", "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((rank for rank, path in enumerate(ORDER) if item.nodeid.startswith(path)), len(ORDER))

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Record the processor time before a test, of this process and of its terminated children."""
    before = os.times()
    item.user_properties.append(("processor", before))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "teardown":
        before, now = dict(item.user_properties)["processor"], os.times()
        report.user_properties = [("processor", sum(now[:4]) - sum(before[:4]))]
    else:
        report.user_properties = []
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Distribute whole files, in ORDER, among several processes (``-n 2``)."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


class ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((name for name in TOGETHER if file.startswith(name)), file)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print for each part its tests, the wall time summed over all processes, and their processor time."""
    parts: dict[str, list[float]] = {}
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if isinstance(report, pytest.TestReport):
            row = parts.setdefault(report.nodeid.partition("::")[0] if DETAILS else part_of(report.nodeid), [0, 0, 0])
            row[0] += report.when == "teardown"
            row[1] += report.duration
            row[2] += dict(report.user_properties).get("processor", 0)
    terminalreporter.write_line(f"{'part':40} {'tests':>6} {'time':>8} {'processor':>10}")
    for name, (tests, time, processor) in sorted(parts.items(), key=lambda row: -row[1][2]):
        terminalreporter.write_line(f"{name:40} {tests:6.0f} {time:6.0f} s {processor:8.0f} s")


def part_of(nodeid: str) -> str:
    """The folder of a test: tests/unit, tests/e2e, …"""
    return "/".join(nodeid.split("/")[:2])


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's folder."""
    return PROJECT


@pytest.fixture(scope="session")
def flavours() -> dict[str, dict[str, object]]:
    """The project's flavour table, by name."""
    data = yaml.safe_load((PROJECT / "inventory/group_vars/all/flavours.yml").read_text())
    return {row["name"]: row for row in data["flavours"]}


@pytest.fixture(scope="session")
def stand_in() -> ModuleType:
    """tests/fixtures/upstream_repository.py."""
    return load(PROJECT / "tests/fixtures/upstream_repository.py", "upstream_repository")


@pytest.fixture
def upstream(tmp_path: Path, stand_in: ModuleType) -> Path:
    """A fresh git repository of upstream's stand-in, which a test may change."""
    repository = tmp_path / "upstream.git"
    stand_in.create(repository)
    return repository


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A function that runs a module's main() with arguments and returns its JSON result."""
    # As on a managed host, even if another test imported the controller's part of Ansible.
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)

    def run(name: str, arguments: dict[str, object], *, check: bool = False) -> dict[str, object]:
        from ansible.module_utils.testing import patch_module_args

        module = load(PROJECT / f"library/{name}.py", f"library_{name}")
        with patch_module_args(arguments | {"_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return run
