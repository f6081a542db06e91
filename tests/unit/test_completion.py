"""The completion of make's words, by TAB in a real interactive bash."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PROJECT

Complete = Callable[[str], str]
PROMPT = "ready% "


class Shell:
    """An interactive bash on a terminal, without anybody's configuration."""

    def __init__(self, folder: Path) -> None:
        self.terminal, other = pty.openpty()
        environment = {
            "PATH": os.environ["PATH"], "PS1": PROMPT, "TERM": "dumb", "INPUTRC": "/dev/null", "HOME": "/nonexistent",
            "HISTFILE": "", "COLUMNS": "500",
        }  # fmt: skip
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"], cwd=folder, env=environment, stdin=other, stdout=other,
            stderr=other, start_new_session=True,
        )  # fmt: skip
        os.close(other)
        self.until(PROMPT)

    def until(self, end: str) -> str:
        """The output up to ``end``."""
        text, limit = "", time.monotonic() + 60
        while not text.endswith(end):
            assert time.monotonic() < limit, text
            if select.select([self.terminal], [], [], 1)[0]:
                text += os.read(self.terminal, 65536).decode(errors="replace")
        return text

    def send(self, line: str) -> None:
        """Run a line to its end. A prompt alone is no end: readline writes it again while it draws."""
        os.write(self.terminal, f"{line}; echo e''nd\n".encode())
        self.until(f"end\r\n{PROMPT}")

    def complete(self, line: str) -> str:
        """What TAB makes of a line: its words are printed instead of being run."""
        # Ctrl-A goes to the beginning of the line, Ctrl-E to its end.
        os.write(self.terminal, f"{line}\t\x01printf '<%s>' \x05; echo e''nd\n".encode())
        return re.findall(r"(?:<[^<>]*>)+", self.until(f"end\r\n{PROMPT}"))[-1]

    def listed(self, line: str) -> set[str]:
        """What a second TAB lists; the line is deleted then."""
        os.write(self.terminal, f"{line}\t\t".encode())
        output = self.until(PROMPT + line)
        os.write(self.terminal, b"\x15echo e''nd\n")
        self.until(f"end\r\n{PROMPT}")
        return set(output.split())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    shell = Shell(PROJECT)
    shell.send("bind 'set completion-query-items 0'; bind 'set page-completions off'; source scripts/completion.bash")
    yield shell
    shell.end()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("make relea", "<make><release>"),
        ("make rotate-", "<make><rotate-key>"),
        ("make release FLAV", "<make><release><FLAVOUR=>"),
        ("make release FLAVOUR=am", "<make><release><FLAVOUR=ampere>"),
        ("make release VERSION=1 CHANNEL=unst", "<make><release><VERSION=1><CHANNEL=unstable>"),
        ("make dev UNCOMMITTED=", "<make><dev><UNCOMMITTED=true>"),
        ("make dev SOURCE=scripts/comp", "<make><dev><SOURCE=scripts/completion.bash>"),
        ("make status CHAN", "<make><status><CHAN>"),
        ("make -C . relea", "<make><-C><.><release>"),
        ("make -C /nonexistent relea", "<make><-C></nonexistent><relea>"),
    ],
)
def test_tab_completes_targets_variables_and_values(shell: Shell, line: str, words: str) -> None:
    assert shell.complete(line) == words


def test_two_tabs_list_what_fits(shell: Shell) -> None:
    assert {"ampere", "ada", "blackwell", "cpu", "all"} <= shell.listed("make release FLAVOUR=")
    assert {"bench", "bench-build", "bench-channel"} <= shell.listed("make bench")
    assert {"NAMES=", "REASON=", "CHANNEL="} <= shell.listed("make yank ")


def test_elsewhere_make_completes_as_before(tmp_path: Path) -> None:
    (tmp_path / "some-file").touch()
    shell = Shell(tmp_path)
    try:
        shell.send(f"source {PROJECT}/scripts/completion.bash")
        assert shell.complete("make some-f") == "<make><some-file>"
    finally:
        shell.end()
