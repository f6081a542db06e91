"""The action of cargo_build shows each progress line of a build's log once, also over a terminal."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from types import ModuleType

import pytest
from support.loading import load


@pytest.fixture
def action(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load(project / "plugins/action/cargo_build.py", "action_cargo_build")
    monkeypatch.setattr(module, "PERIOD", 0.05)
    return module


def through_a_pipe(script: str, executable: str) -> dict[str, str]:
    done = subprocess.run([executable, "-c", script], capture_output=True, check=True)
    return {"stdout": done.stdout.decode()}


def through_a_terminal(script: str, executable: str) -> dict[str, str]:
    """As ssh runs a command with sudo: each line ends by two bytes."""
    terminal, end = os.openpty()
    with subprocess.Popen([executable, "-c", script], stdout=end, stdin=subprocess.DEVNULL) as process:
        os.close(end)
        data = b""
        try:
            while part := os.read(terminal, 65536):
                data += part
        except OSError:  # the terminal's end
            pass
        process.wait()
    os.close(terminal)
    return {"stdout": data.decode()}


def through_a_talkative_shell(script: str, executable: str) -> dict[str, str]:
    return through_a_pipe(f"echo 'Welcome to this host, today is AAAA'; {script}", executable)


@pytest.mark.parametrize("execute", [through_a_pipe, through_a_terminal, through_a_talkative_shell])
def test_each_progress_line_is_shown_once(action, tmp_path, monkeypatch, execute):
    log, shown = tmp_path / "a build's.log", []
    lines = [b"[ada] crates are here\n", b"$ cargo build\nnot \xff UTF-8, \xc3", b"\xa4\r\n"]
    lines += [b"[ada] waiting for a cargo\n", b"[ada] 1/18 caf\xc3\xa9, 0:01\n[ada] 2/18", b" core, 0:02\n"]
    done, read = threading.Event(), threading.Event()

    def low_level(script: str, executable: str) -> dict[str, str]:
        """Each call finds one more piece of the log."""
        with log.open("ab") as stream:
            stream.write(lines.pop(0) if lines else b"")
        if not lines:
            read.set()
        return execute(script, executable)

    watcher = object.__new__(action.ActionModule)
    monkeypatch.setattr(watcher, "_low_level_execute_command", low_level, raising=False)
    monkeypatch.setattr(action.display, "display", shown.append)
    thread = threading.Thread(target=watcher._watch, args=({"log": str(log), "alive": f"{log}.alive"}, "[ada] ", done))
    thread.start()
    assert read.wait(20)
    done.set()
    thread.join(20)
    assert shown == [
        "[ada] crates are here",
        "[ada] waiting for a cargo",
        "[ada] 1/18 café, 0:01",
        "[ada] 2/18 core, 0:02",
    ]
    assert not Path(f"{log}.alive").exists()
