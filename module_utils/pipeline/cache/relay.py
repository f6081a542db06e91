"""The shared level of the compile cache, a Redis, from within a build's sandbox: a relay that alone knows the password.

    sccache (sandbox) --unix socket--> Relay (this process) --TCP or TLS, AUTH--> Redis

Rules:

1. Only a build of trust ``release`` uses the shared level: what another one stored, a release would take up.
2. The relay logs in with the settings' account. The sandbox gets the path of a unix socket and nothing else.
3. A build can read an entry and add one, by the names that sccache gives to entries. The relay refuses every other
   command and name. An entry never changes: a name that is taken keeps its bytes (``NX``), so no build can replace what
   another one stored.
4. A name has at most 256 bytes, an entry at most ``LARGEST``; at most ``CONNECTIONS`` are open. Entries pass in pieces.
5. A Redis that hangs, or that does not take a new connection, is lost for this build. From then on the relay itself
   answers, at once: nothing is found, everything is stored. sccache 0.16 would wait a minute at each compile.
6. Errors of Redis reach sccache: for an account that may not write it then only reads.

The protocol is Redis's RESP2 (its specification, "Redis serialization protocol"); sccache 0.16 sends PING, GET, SET,
with a time to live SETEX, and CLIENT SETINFO.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..base.errors import PipelineError
from .redis import LINE, Connection, Redis, reason_of, resp

TIMEOUT = 5.0
"""Seconds without any answer of Redis after which it is lost."""

LARGEST = 256 << 20
CONNECTIONS = 64
"""sccache opens ten."""

_NAME = re.compile(rb"([\w.-]{1,100}/){0,3}([0-9a-f]/[0-9a-f]/[0-9a-f]/[0-9a-f]{64}|\.sccache_check)")
_SECONDS = re.compile(rb"[1-9]\d{0,9}")
_NONE, _OK = b"$-1\r\n", b"+OK\r\n"


# ---------------------------------------------------------------- requests


class _Refused(Exception):
    """A request that the relay does not pass on; the text is its answer."""


@dataclass(frozen=True)
class _Request:
    """A command: its words without the entry, and the entry's ``size`` in bytes, which follows in the stream."""

    words: tuple[bytes, ...]
    size: int = -1

    @property
    def name(self) -> bytes:
        return self.words[0]

    @property
    def extra(self) -> tuple[bytes, ...]:
        """The words of a SET after the entry."""
        return (b"EX", self.words[2], b"NX") if self.name == b"SETEX" else (b"NX",)


def read_request(stream: BinaryIO) -> _Request | None:
    """The next request; None at the end. Raises ValueError for bytes that are none, _Refused for a refused one.

    After _Refused the connection must be closed: the rest of the request is not read.
    """
    start = stream.readline(LINE)
    if not start:
        return None
    count = _number(start, b"*", 1, 8)
    words = [_word(stream, 20).upper()]
    name = words[0]
    if name == b"CLIENT" and count == 4:
        words += [_word(stream, 100) for _ in range(3)]
        if words[1].upper() == b"SETINFO":
            return _Request(tuple(words))
    elif name == b"PING" and count == 1:
        return _Request((name,))
    elif (name, count) in ((b"GET", 2), (b"SET", 3), (b"SETEX", 4)):
        words.append(_word(stream, 256))
        if not _NAME.fullmatch(words[1]):
            raise _Refused("no name of an entry")
        if name == b"GET":
            return _Request(tuple(words))
        if name == b"SETEX":
            words.append(_word(stream, 20))
            if not _SECONDS.fullmatch(words[2]):
                raise _Refused("no time to live")
        return _Request(tuple(words), _number(stream.readline(LINE), b"$", 0, LARGEST))
    raise _Refused(f"{_printable(name)} is not for builds")


def _number(line: bytes, kind: bytes, lowest: int, highest: int) -> int:
    """The number in a line such as ``$12``."""
    if not re.fullmatch(re.escape(kind) + rb"\d{1,10}\r\n", line):
        raise ValueError("no request")
    number = int(line[1:])
    if not lowest <= number <= highest:
        raise _Refused(f"{number} is more than {highest}")
    return number


def _word(stream: BinaryIO, longest: int) -> bytes:
    size = _number(stream.readline(LINE), b"$", 0, longest)
    word = stream.read(size + 2)
    if len(word) != size + 2 or not word.endswith(b"\r\n"):
        raise ValueError("no request")
    return word[:-2]


def _printable(name: bytes) -> str:
    return re.sub(r"[^A-Z]", "", name.decode(errors="replace"))[:20] or "this command"


class Relay:
    """Serves the unix socket at ``path``.

    ``lost`` is why Redis was lost, or ""; ``refused`` counts refused requests by their reason.
    """

    def __init__(self, redis: Redis, path: Path) -> None:
        self.redis, self.path = redis, path
        self.lost = ""
        self.refused: dict[str, int] = {}
        self._open: set[Connection] = set()
        self._ended = False
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Log in once, and listen. Raises OSError or PipelineError for a Redis that does not serve."""
        self.redis.connect(TIMEOUT).close()
        # The path of a socket has at most 107 bytes; that of its folder may be longer.
        folder = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._listener.bind(f"/proc/self/fd/{folder}/{self.path.name}")
        finally:
            os.close(folder)
        self._listener.listen(CONNECTIONS)
        self._begin(threading.Thread(target=self._accept, daemon=True))

    def stop(self) -> None:
        """Close everything. Threads end at once, or within ``TIMEOUT`` where they wait for Redis."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            self._ended = True
            connections = list(self._open)
        for connection in connections:
            connection.close()
        for thread in self._threads:
            thread.join(TIMEOUT)

    def lose(self, reason: str) -> None:
        self.lost = self.lost or reason

    def count_refused(self, reason: str) -> None:
        with self._lock:
            if reason in self.refused or len(self.refused) < 5:
                self.refused[reason] = self.refused.get(reason, 0) + 1

    def opened(self, connection: Connection) -> bool:
        """Whether one more connection may be served."""
        with self._lock:
            if self._ended or len(self._open) >= 2 * CONNECTIONS:
                return False
            self._open.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def _begin(self, thread: threading.Thread) -> None:
        self._threads = [*(old for old in self._threads if old.is_alive()), thread]
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            client = Connection(accepted)
            if self.opened(client):
                self._begin(threading.Thread(target=_Client(self, client).serve, daemon=True))
            else:
                client.close()


class _Client:
    """Serves one connection of a sandbox, with a connection to Redis of its own."""

    def __init__(self, relay: Relay, client: Connection) -> None:
        self.relay, self.client = relay, client
        self.redis: Connection | None = None

    def serve(self) -> None:
        try:
            while request := read_request(self.client.stream):
                self._answer(request)
        except _Refused as refused:
            self.relay.count_refused(str(refused))
            with contextlib.suppress(OSError):
                self.client.send(f"-ERR refused by the relay of the sandbox: {refused}\r\n".encode())
        except (OSError, ValueError):
            pass
        finally:
            self.relay.closed(self.client)
            self._disconnect()

    def _answer(self, request: _Request) -> None:
        if request.name == b"CLIENT":
            self.client.send(_OK)
        elif request.name == b"PING":
            self._ping()
            self.client.send(b"+PONG\r\n")
        elif request.name == b"GET":
            self._get(request)
        else:
            self._set(request)

    def _ping(self) -> None:
        """Find out whether the connection still serves, before the command that follows: sccache pings before each."""
        if redis := self._connected():
            try:
                redis.send(resp([b"PING"]))
                redis.line()
            except OSError as error:
                self._failed(error)

    def _get(self, request: _Request) -> None:
        redis = self._connected()
        if not redis:
            self.client.send(_NONE)
            return
        try:
            redis.send(resp(request.words))
            line = redis.line()
            size = _number(line, b"$", 0, LARGEST) if re.match(rb"\$\d", line) else -1
            # The two bytes after an entry are its line's end.
            pieces = redis.pieces(size + 2) if size >= 0 else iter(())
            first = next(pieces, b"")
        except (OSError, ValueError, _Refused) as error:
            self._failed(error)
            self.client.send(_NONE)
            return
        self.client.send(line + first)
        while True:
            try:
                piece = next(pieces, b"")
            except OSError as error:
                # Half of an entry is sent: only the end of the connection can take it back.
                self._failed(error)
                raise
            if not piece:
                return
            self.client.send(piece)

    def _set(self, request: _Request) -> None:
        redis, answer = self._connected(), _OK
        self._to_redis(resp_start(request), redis)
        for piece in self.client.pieces(request.size):
            self._to_redis(piece, redis)
        if self.client.stream.read(2) != b"\r\n":
            self._disconnect()
            raise ValueError("no request")
        self._to_redis(resp_end(request), redis)
        if self.redis is redis and redis:
            try:
                answer = redis.line()
            except OSError as error:
                self._failed(error)
        # Without an entry's place it is not stored, which is no error: the name is taken.
        self.client.send(answer if answer.startswith(b"-") else _OK)

    def _to_redis(self, data: bytes, redis: Connection | None) -> None:
        """Send to the connection on which the request began, unless that failed meanwhile."""
        if redis and self.redis is redis:
            try:
                redis.send(data)
            except OSError as error:
                self._failed(error)

    def _connected(self) -> Connection | None:
        """The connection to Redis; None if it is lost."""
        if self.relay.lost or self.redis:
            return None if self.relay.lost else self.redis
        try:
            connection = self.relay.redis.connect(TIMEOUT)
        except (OSError, PipelineError) as error:
            self.relay.lose(reason_of(error))
            return None
        if not self.relay.opened(connection):
            connection.close()
            return None
        self.redis = connection
        return connection

    def _disconnect(self) -> None:
        if self.redis:
            self.relay.closed(self.redis)
            self.redis = None

    def _failed(self, error: Exception) -> None:
        """Redis failed: it is lost if it hangs or takes no new connection; an idle connection may just have ended."""
        self._disconnect()
        if isinstance(error, TimeoutError):
            self.relay.lose(f"no answer within {TIMEOUT:g} s")
        else:
            self._connected()


def resp_start(request: _Request) -> bytes:
    """The SET of a request up to its entry."""
    words = (b"SET", request.words[1])
    head = resp(words).partition(b"\r\n")[2]
    return b"*%d\r\n%s$%d\r\n" % (len(words) + 1 + len(request.extra), head, request.size)


def resp_end(request: _Request) -> bytes:
    """The SET of a request after its entry."""
    return b"\r\n" + resp(request.extra).partition(b"\r\n")[2]
