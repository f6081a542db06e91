"""One run of a build's sandbox: its output in the log, its progress, and an end that leaves no process behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from ..base.errors import PipelineError
from ..base.sandbox import Running, not_made
from ..base.text import last_words
from .failures import CompileFailed, explain, signalled
from .inside import CARGO_FAILED
from .processes import killed_for_memory
from .progress import Estimate, LineReader, Progress

LARGEST_LOG = 256 << 20
"""The bytes of output after which a build is stopped."""

LOOK = 1.0
"""The most seconds of silence that one look at the lease's file can find."""


class Lease:
    """How long a controller has been silent: it renews its lease by touching ``path``.

    Rules:

    1. Silence is the time that passed between looks without a change of the file. No wall clock takes part: it may
       step, and the file's time may come from another one.
    2. A look counts ``LOOK`` seconds at most. Whoever looks late (a machine that slept, a paused process) knows nothing
       of the time before, and its controller may have slept too: it gets its chance to touch first.
    3. The lease begins with the first touch.
    """

    def __init__(self, path: Path, longest: float) -> None:
        self.path, self.longest = path, longest
        self.silent = 0.0
        self._seen: tuple[int, ...] = ()

    def expired(self, passed: float) -> bool:
        """Look ``passed`` seconds (of the monotonic clock) after the last look."""
        seen = _identity(self.path)
        self.silent = self.silent + min(passed, LOOK) if seen and seen == self._seen else 0.0
        self._seen = seen
        return self.silent > self.longest


class Watch:
    """Watches one build.

    Output goes to ``stream`` as it arrives, with progress lines for ``flavour`` among it, and the ``estimate`` of an
    earlier build. With a ``lease`` (seconds) the build stops when ``alive`` was not touched for that long (Lease): its
    controller is gone. SIGINT, SIGTERM and SIGHUP of this process stop it too. Stopping ends the sandbox.
    """

    def __init__(
        self,
        stream: IO[str],
        flavour: str,
        alive: Path | None = None,
        lease: float = 0,
        estimate: Estimate | None = None,
    ) -> None:
        self.stream, self.flavour, self.estimate = stream, flavour, estimate or Estimate()
        self.lease = Lease(alive, lease) if alive and lease else None
        # What cargo printed and when; one thread adds, another takes.
        self._printed: deque[tuple[Progress, float]] = deque()
        self.stopped = ""

    def follow(self, start: Callable[[], Running], began: float) -> None:
        """Start the sandbox and follow it to its end, after which none of its processes exists.

        Raises CompileFailed if cargo failed, PipelineError for another failure and if the build was stopped. ``began``
        is the build's start on the monotonic clock, which progress lines count from.
        """
        before = killed_for_memory()
        with start() as running, _signals_call(lambda name: self.stop(running, f"interrupted by {name}")):
            watch = threading.Thread(target=self._watch, args=(running, began), daemon=True)
            watch.start()
            lines = self._copy(running)
            status = running.process.wait()
            watch.join()
        if self.stopped:
            raise PipelineError(
                f"the build was stopped: {self.stopped}", self.stream.name, "Run again: compiled units are kept"
            )
        if status == CARGO_FAILED:
            raise CompileFailed(explain(lines, _more(before)), self.stream.name)
        if status and lines and (error := not_made(lines[0], self.stream.name)):
            raise error
        if status:
            raise _ended(status, lines, _more(before), self.stream.name)

    def stop(self, running: Running, why: str) -> None:
        """Kill the sandbox; ``follow`` waits for its end."""
        self.stopped = self.stopped or why
        if running.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)

    def _copy(self, running: Running) -> list[str]:
        """Copy the build's lines to the log until it closes its output; returns them without progress."""
        assert running.process.stdout is not None
        reader, lines, size = LineReader(), [], 0
        while data := os.read(running.process.stdout.fileno(), 65536):
            size += len(data)
            if size > LARGEST_LOG:
                self.stop(running, f"it printed more than {LARGEST_LOG >> 20} MiB")
                break
            for event in reader.feed(data):
                if isinstance(event, Progress):
                    self._printed.append((event, time.monotonic()))
                else:
                    lines.append(event)
                    self.stream.write(event + "\n")
        lines += [event for event in reader.close() if isinstance(event, str)]
        return lines

    def _watch(self, running: Running, began: float) -> None:
        """Log the progress, every 3 s at first and every 15 s later, and enforce the lease."""
        at, looked = 1.0, time.monotonic()
        progress: Progress | None = None
        while running.process.poll() is None:
            time.sleep(0.25)
            now = time.monotonic()
            seconds = now - began
            while self._printed:
                progress, when = self._printed.popleft()
                self.estimate.see(progress, when)
            if progress and seconds >= at:
                at = seconds + (3 if seconds < 30 else 15)
                rest = self.estimate.sentence(progress, now)
                self.stream.write(progress.line(self.flavour, seconds, rest) + "\n")
            if self.lease and self.lease.expired(now - looked):
                self.stop(running, f"its controller has been silent for {self.lease.longest:g} s")
            looked = now


def _more(before: int | None) -> int | None:
    """How many processes the kernel has killed for lack of memory since then."""
    now = killed_for_memory()
    return None if before is None or now is None else now - before


def _ended(status: int, lines: list[str], killed: int | None, log: str) -> PipelineError:
    """The error for a build whose own program in the sandbox failed. bubblewrap ends with 128 + N for signal N."""
    last = last_words("\n".join(lines[-20:]))
    number = -status if status < 0 else max(status - 128, 0)
    if not number:
        return PipelineError(
            f"the build ended with status {status}: {last}",
            log,
            "Read the log; then run again: compiled units are kept",
        )
    cause, remedy = signalled("the build's own program", number, killed)
    return PipelineError(f"the build failed: {cause}: {last}", log, remedy)


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


def _identity(path: Path) -> tuple[int, ...]:
    """What a touch changes; empty without the file."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns
