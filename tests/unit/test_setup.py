"""Any target of make may be the first command in a checkout: it installs its own requirements and no more."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INPUTS = ("Makefile", "requirements.lock", "requirements-tests.lock", "bindep.txt", ".python-version", "scripts/setup")
STAMPS = (".venv/.ready", ".venv/.ready-tests")
RUNS = ["setup", "release", "doctor", "provision", "serve", "lock"]
TESTS = ["test", "lint", "unit", "molecule", "faults", "bench", "bench-build", "bench-channel"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose stamps are newer than their inputs."""
    folder = tmp_path / "checkout"
    for name in INPUTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
        os.utime(folder / name, (1, 1))
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    for delay, stamp in enumerate(STAMPS, start=60):
        (folder / stamp).write_text(str(folder))
        os.utime(folder / stamp, (time.time() + delay,) * 2)
    return folder


def make(checkout: Path, *words: str) -> list[str]:
    """The commands that make would run."""
    done = subprocess.run(["make", "-n", *words], cwd=checkout, check=True, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if line != ":"]


def test_a_finished_set_up_runs_nothing(checkout: Path) -> None:
    assert make(checkout, "setup") == []


@pytest.mark.parametrize("target", TESTS)
def test_a_finished_set_up_of_tests_runs_nothing(checkout: Path, target: str) -> None:
    assert not [line for line in make(checkout, target) if "setup" in line and "shellcheck" not in line]


@pytest.mark.parametrize("target", RUNS)
def test_targets_that_run_the_pipeline_omit_the_set_up_of_tests(checkout: Path, target: str) -> None:
    for stamp in STAMPS:
        (checkout / stamp).unlink()
    commands = make(checkout, target)
    assert commands[0] == "scripts/setup"
    assert "scripts/setup tests" not in commands


@pytest.mark.parametrize("target", TESTS)
def test_targets_that_test_run_both_set_ups(checkout: Path, target: str) -> None:
    for stamp in STAMPS:
        (checkout / stamp).unlink()
    assert make(checkout, target)[:2] == ["scripts/setup", "scripts/setup tests"]


@pytest.mark.parametrize("target", TESTS)
def test_targets_that_test_run_only_the_missing_set_up(checkout: Path, target: str) -> None:
    (checkout / STAMPS[1]).unlink()
    assert make(checkout, target)[0] == "scripts/setup tests"


@pytest.mark.parametrize("name", ["requirements.lock", "bindep.txt", ".python-version", "scripts/setup"])
def test_a_changed_input_sets_up_again(checkout: Path, name: str) -> None:
    os.utime(checkout / name, (time.time() + 120,) * 2)
    assert make(checkout, "setup") == ["scripts/setup"]
    assert make(checkout, "unit")[:2] == ["scripts/setup", "scripts/setup tests"]


def test_a_changed_lock_of_the_tests_sets_up_the_tests_again(checkout: Path) -> None:
    os.utime(checkout / "requirements-tests.lock", (time.time() + 120,) * 2)
    assert make(checkout, "setup") == []
    assert make(checkout, "unit")[0] == "scripts/setup tests"


def test_a_missing_python_sets_up_again(checkout: Path) -> None:
    python = checkout / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nonexistent/python3")
    assert make(checkout, "setup") == ["scripts/setup"]


def test_a_moved_checkout_is_set_up_again(checkout: Path, tmp_path: Path) -> None:
    assert make(checkout.rename(tmp_path / "moved"), "setup") == ["scripts/setup"]


@pytest.mark.parametrize("target", RUNS)
def test_a_checkout_that_every_account_may_write_is_refused(checkout: Path, target: str) -> None:
    """Ansible ignores its ansible.cfg, and then knows no module of the project."""
    checkout.chmod(0o777)
    done = subprocess.run(["make", target], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"Every account may write to this checkout, and so decide what is signed: {checkout}" in done.stderr
    assert f"chmod -R o-w '{checkout}'" in done.stderr
    assert done.stdout == ""
    checkout.chmod(0o775)
    assert make(checkout, "setup") == []


def test_a_machine_without_a_usable_python_gets_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "scripts/setup", tmp_path / "scripts/setup")
    for program in ("bash", "dirname", "rm"):
        (tmp_path / "bin" / program).symlink_to(Path(shutil.which(program) or program))
    old = tmp_path / "bin/python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "scripts/setup"],
        check=False,
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("setup: no Python 3.12 or later was found")
    assert "make setup PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("words", "message"), [(["tests"], "the environment is not set up"), (["x"], "Usage: ")])
def test_invalid_arguments_change_nothing(checkout: Path, words: list[str], message: str) -> None:
    (checkout / STAMPS[0]).unlink()
    done = subprocess.run([checkout / "scripts/setup", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert (checkout / STAMPS[1]).exists()


def locked(path: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+)==", (ROOT / path).read_text(), re.MULTILINE))


def test_each_package_is_locked_once_and_runs_require_no_tool_of_the_tests() -> None:
    runs, tests = locked("requirements.lock"), locked("requirements-tests.lock")
    assert not runs & tests
    assert {"ansible-core", "bindep", "uv"} <= runs
    assert {"ansible-lint", "molecule", "mypy", "pytest", "ruff", "yamllint"} <= tests


def test_no_lock_and_no_pin_names_a_registry() -> None:
    for path in [*ROOT.glob("requirements*.lock"), *ROOT.glob("roles/*/files/*.txt")]:
        assert "://" not in path.read_text(), path


def test_a_release_requires_no_system_package_of_the_tests() -> None:
    rows = [line for line in (ROOT / "bindep.txt").read_text().splitlines() if line and not line.startswith("#")]
    for_runs = {row.split()[0] for row in rows if "test" not in row}
    assert {"git", "rsync", "nginx"} <= for_runs
    assert not for_runs & {"nmap", "pebble", "openssh-server", "redis-server", "valkey", "strace"}
