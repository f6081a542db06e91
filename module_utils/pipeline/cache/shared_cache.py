"""The shared level of the compile cache, while a build goes on.

1. sccache 0.16 goes on when its shared level is lost, but waits for it at every compile: a minute, half for the entry
   and half before it writes. A build of 800 crates would take a day, so the loss is noticed here.
2. A level that cannot be connected to several times in a row is lost, for this build. The server that knows it is
   ended at once, not asked to end: it would wait for what hangs. The next compiler starts one for the disk alone, by
   the variables of its own environment; those that were being answered compile by themselves.
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
"""Seconds between two looks, seconds that each may take, and how many that fail make it lost."""

_ENDPOINTS = ("SCCACHE_REDIS_ENDPOINT", "SCCACHE_WEBDAV_ENDPOINT", "SCCACHE_ENDPOINT")
_PORTS = {"redis": 6379, "rediss": 6379, "https": 443}


def address(settings: Mapping[str, str]) -> tuple[str, int] | None:
    """The host and port of the shared level in sccache's settings; None where there is none, or no address of it."""
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
    """While it lasts, ``lost`` is called once if the shared level at ``where`` is lost."""
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


def end_server(path: Path) -> None:
    """Kill the process that listens at a Unix socket, and take the socket away; it may be gone already."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        process, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        os.kill(process, signal.SIGKILL)
    path.unlink(missing_ok=True)
