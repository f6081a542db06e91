"""The shared level of the compile cache during a build.

1. sccache 0.16 survives the loss of its shared level, but waits for it at every compile: a minute, half for the read
   and half for the write. A build of 800 crates would take a day, so this module detects the loss.
2. A level that refuses several connections in a row is lost for this build. Its server is killed, not stopped: it
   would wait for the pending requests. The next compiler starts a server for the disk level alone, with the variables
   of its own environment; compilers with a pending request compile directly.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PERIOD, TIMEOUT, TIMES = 5.0, 3.0, 2
"""Seconds between two connections, seconds that each may take, and the number of failures in a row that mean a loss."""

_ENDPOINTS = ("SCCACHE_REDIS_ENDPOINT", "SCCACHE_WEBDAV_ENDPOINT", "SCCACHE_ENDPOINT")
_PORTS = {"redis": 6379, "rediss": 6379, "https": 443}


def address(settings: Mapping[str, str]) -> tuple[str, int] | None:
    """The host and port of the shared level in sccache's settings; None without a shared level or its address."""
    endpoint = next((settings[name] for name in _ENDPOINTS if settings.get(name)), "")
    url = urllib.parse.urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
    if "SCCACHE_MULTILEVEL_CHAIN" not in settings or not url.hostname:
        return None
    return url.hostname, url.port or _PORTS.get(url.scheme, 80)


def answers(where: tuple[str, int]) -> bool:
    try:
        socket.create_connection(where, timeout=TIMEOUT).close()
    except OSError:
        return False
    return True


@contextmanager
def watched(where: tuple[str, int] | None, lost: Callable[[], None]) -> Iterator[None]:
    """Call ``lost``, once, if the shared level at ``where`` is lost while the block runs."""
    done = threading.Event()

    def watch(there: tuple[str, int]) -> None:
        times = 0
        while times < TIMES:
            if done.wait(PERIOD):
                return
            times = 0 if answers(there) else times + 1
        lost()

    thread = threading.Thread(target=watch, args=(where,), daemon=True) if where else None
    if thread:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread:
            thread.join()


def kill_server(path: Path) -> None:
    """Kill the process that listens at a Unix socket, if any, and remove the socket."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        process, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        os.kill(process, signal.SIGKILL)
    path.unlink(missing_ok=True)
