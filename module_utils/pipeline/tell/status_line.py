"""The last line of a terminal: what runs now, replaced in place.

Everything that Ansible displays passes through here, in the controller's process: the line is erased before other
output and drawn again after it. Without a terminal the line does not exist, and progress is printed as whole lines.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from .screen import ERASE, fitted, is_progress


class StatusLine:
    """``printed`` counts the lines on the screen. Output of workers, which are forked, passes their own queue."""

    def __init__(self, stream: TextIO, *, redraws: bool) -> None:
        self.stream, self.redraws = stream, redraws
        self.printed, self.columns = 0, 80
        self.installed, self.closed = False, False
        self._text, self._pid = "", os.getpid()
        self._lock = threading.RLock()

    def install(self, display: Any) -> None:
        """Let all output of Ansible's ``display`` pass through here, and be written at once also into a pipe."""
        original = display.display
        self.installed, self.columns = True, display.columns or self.columns
        reconfigure = getattr(self.stream, "reconfigure", None)
        if reconfigure:
            reconfigure(line_buffering=True)

        def displayed(msg: str, *words: Any, **options: Any) -> None:
            if os.getpid() != self._pid:
                original(msg, *words, **options)
                return
            with self._lock, self._unread():
                if self.redraws and not self.closed and is_progress(msg):
                    self.show(msg, self.columns)
                    return
                self.erase()
                original(msg, *words, **options)
                self.printed += msg.count("\n") + 1
                self._draw()

        display.display = displayed

    def show(self, text: str, columns: int) -> None:
        """Replace the line."""
        if self.redraws and not self.closed:
            with self._lock, self._unread():
                self._text = fitted(text, columns)
                self.erase()
                self._draw()

    def close(self) -> None:
        """Erase the line for good, also while this thread is interrupted in a write."""
        with suppress(OSError, RuntimeError, ValueError):
            self.erase()
            self.stream.flush()
        self.closed = True

    def erase(self) -> None:
        if self.redraws and not self.closed:
            self.stream.write(ERASE)

    @contextmanager
    def _unread(self) -> Iterator[None]:
        """Let the run go on without output if nobody reads it any more, as after ``| head``.

        The error would end Ansible's thread of results, and the run would wait for it for ever.
        """
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def _draw(self) -> None:
        if self.redraws and not self.closed and self._text:
            self.stream.write(self._text)
            self.stream.flush()
