"""One run of ``cargo build``: its output in the log, its progress, and an end that leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from ..base.errors import PipelineError
from .failures import CompileFailed, explain
from .progress import LineReader, Progress


class Cargo:
    """Runs cargo once.

    Output goes to ``stream`` as it arrives, with progress lines for ``flavour`` among it. With a ``lease`` (seconds)
    the run stops when ``alive`` was not touched for that long: its controller is gone. SIGINT, SIGTERM and SIGHUP of
    this process stop it too. Stopping kills cargo and its children.
    """

    def __init__(self, stream: IO[str], flavour: str, alive: Path | None = None, lease: float = 0) -> None:
        self.stream, self.flavour, self.alive, self.lease = stream, flavour, alive, lease
        self.progress: Progress | None = None
        self.stopped = ""

    def run(self, argv: list[str], folder: Path, variables: dict[str, str], began: float) -> list[dict[str, Any]]:
        """cargo's JSON messages. Raises CompileFailed if it fails, PipelineError if it was stopped.

        ``began`` is the build's start on the monotonic clock, which progress lines count from.
        """
        self.stream.write(f"$ {' '.join(argv)}\n")
        with tempfile.TemporaryFile() as stdout:
            process = subprocess.Popen(  # noqa: S603
                argv, cwd=folder, env=variables, stdin=subprocess.DEVNULL,
                stdout=stdout, stderr=subprocess.PIPE, process_group=0,
            )  # fmt: skip
            with _signals_call(lambda name: self.stop(process, f"interrupted by {name}")):
                watch = threading.Thread(target=self._watch, args=(process, began), daemon=True)
                watch.start()
                lines = self._copy(process)
                status = process.wait()
            watch.join()
            stdout.seek(0)
            output = [line.decode(errors="replace").rstrip() for line in stdout]
            messages = [json.loads(line) for line in output if line.startswith("{")]
            # sccache prints there which signal killed a compiler.
            lines += [line for line in output if line and not line.startswith("{")]
        if self.stopped:
            raise PipelineError(
                f"the build was stopped: {self.stopped}", self.stream.name, "Run again: compiled units are kept"
            )
        if status != 0:
            raise CompileFailed(explain(lines), self.stream.name)
        return messages

    def stop(self, process: subprocess.Popen[bytes], why: str) -> None:
        """Kill cargo and all processes of its group."""
        self.stopped = self.stopped or why
        for sign, wait in ((signal.SIGINT, 5.0), (signal.SIGKILL, 0.0)):
            try:
                os.killpg(process.pid, sign)
            except ProcessLookupError:
                return
            end = time.monotonic() + wait
            while time.monotonic() < end and process.poll() is None:
                time.sleep(0.05)

    def _copy(self, process: subprocess.Popen[bytes]) -> list[str]:
        """Copy cargo's lines to the log until it closes its output; returns them without progress."""
        assert process.stderr is not None
        reader, lines = LineReader(), []
        while data := os.read(process.stderr.fileno(), 65536):
            for event in reader.feed(data):
                if isinstance(event, Progress):
                    self.progress = event
                else:
                    lines.append(event)
                    self.stream.write(event + "\n")
        lines += [event for event in reader.close() if isinstance(event, str)]
        return lines

    def _watch(self, process: subprocess.Popen[bytes], began: float) -> None:
        """Log the progress, every 3 s at first and every 15 s later, and enforce the lease."""
        at, moved, done = 1.0, 0.0, -1
        while process.poll() is None:
            time.sleep(0.25)
            seconds = time.monotonic() - began
            if self.progress and self.progress.done != done:
                moved, done = seconds, self.progress.done
            if self.progress and seconds >= at:
                at = seconds + (3 if seconds < 30 else 15)
                self.stream.write(self.progress.line(self.flavour, seconds, seconds - moved) + "\n")
            if self.lease and self.alive and _age(self.alive) > self.lease:
                self.stop(process, f"its controller has been silent for {self.lease:g} s")


@contextmanager
def _signals_call(action: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, SIGINT, SIGTERM and SIGHUP call ``action`` with their name. For the main thread only."""

    def handle(number: int, _frame: FrameType | None) -> None:
        action(signal.Signals(number).name)

    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if main else ()
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
