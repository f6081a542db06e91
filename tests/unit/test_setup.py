"""The first command that someone types in a checkout may be any target of make."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INPUTS = ("Makefile", "requirements.lock", "bindep.txt", ".python-version", "scripts/setup")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that looks as if it was set up, with a set-up that only leaves its stamp."""
    folder = tmp_path / "checkout"
    for name in INPUTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
        os.utime(folder / name, (1, 1))
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    (folder / ".venv/.ready").write_text(str(folder))
    os.utime(folder / ".venv/.ready", (time.time() + 60,) * 2)
    return folder


def make(checkout: Path, *words: str) -> list[str]:
    """The commands that make would run."""
    done = subprocess.run(["make", "-n", *words], cwd=checkout, check=True, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if line != ":"]


def test_a_finished_set_up_runs_nothing(checkout: Path) -> None:
    assert make(checkout, "setup") == []


@pytest.mark.parametrize("target", ["setup", "release", "doctor", "lint", "unit", "serve", "lock"])
def test_every_target_sets_up_first(checkout: Path, target: str) -> None:
    (checkout / ".venv/.ready").unlink()
    assert make(checkout, target)[0] == "scripts/setup"


@pytest.mark.parametrize("name", [name for name in INPUTS if name != "Makefile"])
def test_a_changed_input_sets_up_again(checkout: Path, name: str) -> None:
    os.utime(checkout / name, (time.time() + 120,) * 2)
    assert make(checkout, "setup") == ["scripts/setup"]


def test_a_python_that_has_gone_sets_up_again(checkout: Path) -> None:
    python = checkout / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nonexistent/python3")
    assert make(checkout, "setup") == ["scripts/setup"]


def test_a_checkout_that_was_moved_is_set_up_again(checkout: Path, tmp_path: Path) -> None:
    assert make(checkout.rename(tmp_path / "moved"), "setup") == ["scripts/setup"]


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        ([], {"flavour": "ada", "local_port": "8643"}),
        (
            ["FLAVOUR=all", "VERSION=0.10", "CHANNEL=unstable"],
            {"flavour": "all", "version": "0.10", "channel": "unstable", "local_port": "8643"},
        ),
        (
            ["UPSTREAM=https://host/a.git?b=c&d", "PORT=99"],
            {"flavour": "ada", "upstream_url": "https://host/a.git?b=c&d", "local_port": "99"},
        ),
    ],
)
def test_variables_reach_ansible_as_they_were_typed(
    checkout: Path, words: list[str], variables: dict[str, str]
) -> None:
    (command,) = make(checkout, "release", *words)
    program, playbook, *rest = shlex.split(command)
    assert (program, playbook) == ("ansible-playbook", "playbooks/release.yml")
    given: dict[str, str] = {}
    for option, value in zip(rest[::2], rest[1::2], strict=True):
        assert option == "-e"
        given |= [value.split("=", 1)]
    assert given == variables


def test_a_machine_without_a_fit_python_is_told_what_to_do(tmp_path: Path) -> None:
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
    assert done.stderr.startswith("setup: no Python from 3.12 on was found")
    assert "make setup PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()
