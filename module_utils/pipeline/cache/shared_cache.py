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
import io
import os
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, cast

from ..base.errors import PipelineError
from ..base.text import without_account

TIMEOUT = 5.0
"""Seconds without any answer of Redis after which it is lost."""

LARGEST = 256 << 20
CONNECTIONS = 64
"""sccache opens ten."""

_NAME = re.compile(rb"([\w.-]{1,100}/){0,3}([0-9a-f]/[0-9a-f]/[0-9a-f]/[0-9a-f]{64}|\.sccache_check)")
_SECONDS = re.compile(rb"[1-9]\d{0,9}")
_PIECE = 1 << 16
_LINE = 512
_DISK = ("SCCACHE_DIR", "SCCACHE_CACHE_SIZE", "SCCACHE_CACHE_ZSTD_LEVEL", "SCCACHE_DIRECT", "SCCACHE_BASEDIRS")
_NAMES = ("SCCACHE_REDIS_KEY_PREFIX", "SCCACHE_REDIS_TTL", "SCCACHE_REDIS_EXPIRATION")
"""The settings that a sandbox may read: those of the disk level, and of the entries' names."""

_ALONE = "going on with the disk alone"
_NONE, _OK = b"$-1\r\n", b"+OK\r\n"
_OTHERS = {"s3": "SCCACHE_BUCKET", "webdav": "SCCACHE_WEBDAV_ENDPOINT"}


@dataclass(frozen=True)
class Redis:
    """The address and the account of a Redis. ``authority`` is the file of the certificate authority for TLS."""

    host: str
    port: int = 6379
    tls: bool = False
    authority: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    database: str = "0"

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Redis | None:
        """The Redis in sccache's settings; None if they name none. PipelineError for an address that is no URL."""
        endpoint = settings.get("SCCACHE_REDIS_ENDPOINT", "")
        if not endpoint:
            return None
        try:
            url = urllib.parse.urlsplit(endpoint)
            port = url.port or 6379
        except ValueError as error:
            raise PipelineError("SCCACHE_REDIS_ENDPOINT is no URL", without_account(endpoint)) from error
        if not url.hostname:
            raise PipelineError("SCCACHE_REDIS_ENDPOINT names no host", without_account(endpoint))
        return cls(
            url.hostname,
            port,
            tls=url.scheme == "rediss",
            authority=settings.get("SSL_CERT_FILE", ""),
            user=settings.get("SCCACHE_REDIS_USERNAME") or urllib.parse.unquote(url.username or ""),
            password=settings.get("SCCACHE_REDIS_PASSWORD") or urllib.parse.unquote(url.password or ""),
            database=settings.get("SCCACHE_REDIS_DB") or "0",
        )

    def connect(self, timeout: float) -> _Connection:
        """A connection after the login. Raises OSError; PipelineError for a refused login."""
        connection = _Connection(self._socket(timeout))
        try:
            login = [b"AUTH", *([self.user.encode()] if self.user else []), self.password.encode()]
            select = [b"SELECT", self.database.encode()]
            commands = [login if self.password else [], select if self.database != "0" else [], [b"PING"]]
            for command in filter(None, commands):
                connection.send(resp(command))
                answer = connection.line()
                if not answer.startswith(b"+"):
                    reason = answer.decode(errors="replace").strip().lstrip("-") or "no answer"
                    raise PipelineError(reason, f"{self.host}:{self.port}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _socket(self, timeout: float) -> socket.socket:
        plain = socket.create_connection((self.host, self.port), timeout=timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.tls:
            return plain
        context = ssl.create_default_context(cafile=self.authority or None)
        # A private authority may lack extensions that the strict rules of Python 3.13 require.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        try:
            return context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


def reason_of(error: Exception) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, PipelineError):
        return error.what
    return str(error) if isinstance(error, ssl.SSLError) else str(getattr(error, "strerror", None) or error)


def other_level(settings: Mapping[str, str]) -> str:
    """The shared level in the settings that is no Redis, "s3" or "webdav"; "" if there is none.

    No sandbox reaches it: its requests carry signatures or headers that only the holder of the password can make.
    """
    return next((level for level, name in _OTHERS.items() if settings.get(name)), "")


def resp(words: Iterable[bytes]) -> bytes:
    """A command in Redis's protocol."""
    parts = list(words)
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


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
    start = stream.readline(_LINE)
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
        return _Request(tuple(words), _number(stream.readline(_LINE), b"$", 0, LARGEST))
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
    size = _number(stream.readline(_LINE), b"$", 0, longest)
    word = stream.read(size + 2)
    if len(word) != size + 2 or not word.endswith(b"\r\n"):
        raise ValueError("no request")
    return word[:-2]


def _printable(name: bytes) -> str:
    return re.sub(r"[^A-Z]", "", name.decode(errors="replace"))[:20] or "this command"


# ---------------------------------------------------------------- connections


class _Connection:
    """One stream of requests and answers, of a sandbox or of Redis."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        # makefile is typed for all modes.
        self.stream = cast("io.BufferedReader", connection.makefile("rb", _PIECE))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """A line of an answer; ConnectionError at the end."""
        line = self.stream.readline(_LINE)
        if not line.endswith(b"\r\n"):
            raise ConnectionError("it closed the connection")
        return line

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next ``size`` bytes; ConnectionError if the stream ends before."""
        while size:
            piece = self.stream.read1(min(size, _PIECE))
            if not piece:
                raise ConnectionError("it closed the connection")
            size -= len(piece)
            yield piece

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.stream.close()
        self.socket.close()


class Relay:
    """Serves the unix socket at ``path``.

    ``lost`` is why Redis was lost, or ""; ``refused`` counts refused requests by their reason.
    """

    def __init__(self, redis: Redis, path: Path) -> None:
        self.redis, self.path = redis, path
        self.lost = ""
        self.refused: dict[str, int] = {}
        self._open: set[_Connection] = set()
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

    def opened(self, connection: _Connection) -> bool:
        """Whether one more connection may be served."""
        with self._lock:
            if self._ended or len(self._open) >= 2 * CONNECTIONS:
                return False
            self._open.add(connection)
        return True

    def closed(self, connection: _Connection) -> None:
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
            client = _Connection(accepted)
            if self.opened(client):
                self._begin(threading.Thread(target=_Client(self, client).serve, daemon=True))
            else:
                client.close()


class _Client:
    """Serves one connection of a sandbox, with a connection to Redis of its own."""

    def __init__(self, relay: Relay, client: _Connection) -> None:
        self.relay, self.client = relay, client
        self.redis: _Connection | None = None

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

    def _to_redis(self, data: bytes, redis: _Connection | None) -> None:
        """Send to the connection on which the request began, unless that failed meanwhile."""
        if redis and self.redis is redis:
            try:
                redis.send(data)
            except OSError as error:
                self._failed(error)

    def _connected(self) -> _Connection | None:
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


# ---------------------------------------------------------------- a build's shared level


@dataclass
class Reached:
    """The compile cache as a build reaches it: its ``settings``, None without a cache.

    After the build ``warnings`` and ``down`` report a shared level that did not work, or not wholly.
    """

    settings: dict[str, str] | None
    warnings: list[str] = field(default_factory=list)
    down: bool = False

    def warn(self, log: IO[str], text: str) -> None:
        self.warnings.append(f"compile cache: {text}")
        log.write(f"compile cache: {text}\n")


@contextmanager
def reached(
    settings: Mapping[str, str] | None, place: Path, inside: Path, log: IO[str], *, release: bool, protected: bool
) -> Iterator[Reached]:
    """Provide the settings' shared level while a build runs: a Redis by a relay, others without a sandbox only.

    The relay's socket is at ``place``, which the build sees at ``inside``. Only a ``release`` has a shared level;
    ``protected``: it runs in a sandbox.
    """
    found = Reached(None if settings is None else {name: settings[name] for name in _DISK if name in settings})
    if settings is None or found.settings is None or not release:
        yield found
        return
    level = other_level(settings)
    if level and not protected:
        found.settings = dict(settings)
    elif level:
        found.down = True
        found.warn(log, f"its shared level, {level}, cannot be reached from a sandbox; {_ALONE}")
    relay = _relay(settings, place, found, log)
    if relay:
        found.settings |= {
            "SCCACHE_MULTILEVEL_CHAIN": "disk,redis",
            # sccache takes the path of such a URL, and requires a host in it.
            "SCCACHE_REDIS_ENDPOINT": f"unix://localhost{inside}",
            **{name: settings[name] for name in _NAMES if name in settings},
        }
    try:
        yield found
    finally:
        if relay:
            relay.stop()
            _report(relay, found, log)


def _relay(settings: Mapping[str, str], place: Path, found: Reached, log: IO[str]) -> Relay | None:
    """A relay that serves the settings' Redis; None without one, or with a warning where it cannot be used."""
    try:
        redis = Redis.of(settings)
        if redis is None:
            return None
        relay = Relay(redis, place)
        relay.start()
    except (OSError, PipelineError) as error:
        found.down = True
        found.warn(log, f"its shared level cannot be used ({reason_of(error)}); {_ALONE}")
        return None
    return relay


def _report(relay: Relay, found: Reached, log: IO[str]) -> None:
    if relay.lost:
        found.down = True
        found.warn(log, f"its shared level was lost during the build ({relay.lost}); {_ALONE}")
    if relay.refused:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(relay.refused.items()))
        found.warn(log, f"the build sent requests to its shared level that sccache does not send: {reasons}")
