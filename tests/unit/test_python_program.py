"""A Python program that may run at any time: how the module python_program installs and upgrades it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pipeline.hosts.python_program import Program

HELP = "import sys\n\ndef main(argv):\n    print(TEXT)\n    return 0\n"


def version(text: str, **more: str) -> dict[str, str]:
    """The modules of a version that prints ``text``, in two modules, the second imported late."""
    command_line = f"from .first import one\nimport time\ntime.sleep(0.02)\nfrom .second import two\n{HELP}"
    return {
        "__init__.py": "",
        "command_line.py": command_line.replace("TEXT", "one + two"),
        "first.py": f"one = {text!r}\n",
        "second.py": f"two = {text!r}\n",
        **{f"{name}.py": content for name, content in more.items()},
    }


@pytest.fixture
def install(run_module, tmp_path, monkeypatch):
    monkeypatch.setattr("ansible.module_utils.pipeline.hosts.python_program.IMPORTS", 0.3)

    def run(files: dict[str, str], *, check: bool = False) -> dict:
        return run_module(
            "python_program", {"path": str(tmp_path / "program"), "package": "shown", "files": files}, check=check
        )

    return run


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def printed(program: Path) -> str:
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout.strip()


def test_a_program_runs_and_a_second_installation_changes_nothing(install, tmp_path):
    assert install(version("a"), check=True)["changed"]
    assert tree(tmp_path) == {}
    assert install(version("a"))["changed"]
    assert printed(tmp_path / "program") == "aa"
    before = tree(tmp_path)
    assert not install(version("a"))["changed"]
    assert not install(version("a"), check=True)["changed"]
    assert tree(tmp_path) == before
    assert len([name for name in before if name.endswith(".pyc")]) == 4
    next(tmp_path.rglob("__pycache__")).joinpath("first.cpython-399.pyc").touch()
    assert not install(version("a"))["changed"], "another Python ran it"


def test_a_module_that_a_later_version_lacks_is_gone(install, tmp_path):
    old = Path(install(version("a", left="x = 1\n"))["folder"])
    done = install(version("b"))
    assert done["changed"]
    assert not old.exists()
    assert [path.name for path in (tmp_path / "program.d").iterdir()] == [Path(done["folder"]).name]
    assert {entry["after_header"] for entry in done["diff"]} == {
        "shown/first.py", "shown/second.py", "shown/left.py", str(tmp_path / "program"),
    }  # fmt: skip
    assert printed(tmp_path / "program") == "bb"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"second": "two = (\n"}, "do not compile"),
        ({"second": "raise ValueError('no')\n"}, "the new version does not start: ValueError: no"),
    ],
)
def test_a_version_that_does_not_start_is_not_installed(install, tmp_path, spoil, message):
    install(version("a"))
    before = tree(tmp_path)
    done = install(version("b", **spoil))
    assert done["failed"]
    assert message in done["msg"]
    assert tree(tmp_path) == before
    assert printed(tmp_path / "program") == "aa"


def test_an_interrupted_installation_is_completed(install, tmp_path):
    """A repetition repairs a version with missing or added files and removes leftovers beside it."""
    folder = Path(install(version("a"))["folder"])
    (tmp_path / "program.d/new-1/shown").mkdir(parents=True)
    assert install(version("a"))["changed"]
    for spoil in (
        (folder / "shown/second.py").unlink,
        (folder / "shown/left.py").touch,
        lambda: next((folder / "shown/__pycache__").iterdir()).unlink(),
        (tmp_path / "program").unlink,
        lambda: (tmp_path / "program").chmod(0o644),
    ):
        spoil()
        assert install(version("a"))["changed"]
        assert not install(version("a"))["changed"]
        assert printed(tmp_path / "program") == "aa"
        assert [path.name for path in (tmp_path / "program.d").iterdir()] == [folder.name]


def test_a_command_in_mid_upgrade_runs_one_version_whole(install, tmp_path):
    install(version("a"))
    ended, heard = threading.Event(), []

    def ask() -> None:
        while not ended.is_set():
            done = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=False)
            heard.append(done.stdout.strip() or done.stderr)

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        for text in "baba":
            install(version(text))
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    assert set(heard) == {"aa", "bb"}


def test_an_account_that_cannot_write_there_gets_the_bytecode(install, tmp_path):
    folder = Path(install(version("a"))["folder"])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert printed(tmp_path / "program") == "aa"
    trace = subprocess.run(
        ["python3", "-I", "-v", tmp_path / "program"], capture_output=True, text=True, check=True
    ).stderr
    assert len([line for line in trace.splitlines() if f"matches {folder}" in line]) == 4
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_installations_at_the_same_time_both_succeed(tmp_path):
    programs = [Program(tmp_path / "program", "shown", version("a"), sys.implementation.cache_tag) for _ in range(4)]
    failed: list[BaseException] = []

    def install_one(program: Program) -> None:
        try:
            program.install()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=install_one, args=(program,)) for program in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert printed(tmp_path / "program") == "aa"
    assert not programs[0].changed()
