"""A Redis by its address and account, and the two sides of its protocol that the relay and the check require.

The protocol is RESP2 (Redis's specification, "Redis serialization protocol").
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from ..base.errors import PipelineError
from ..base.text import without_account

LINE = 512
"""The longest line of a request or an answer, in bytes."""

_PIECE = 1 << 16


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

    def connect(self, timeout: float) -> Connection:
        """A connection after the login. Raises OSError; PipelineError for a refused login."""
        connection = Connection(self._socket(timeout))
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


def resp(words: Iterable[bytes]) -> bytes:
    """A command in Redis's protocol."""
    parts = list(words)
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Connection:
    """One stream of requests and answers, of a sandbox or of Redis."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        # makefile is typed for all modes.
        self.stream = cast("io.BufferedReader", connection.makefile("rb", _PIECE))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """A line of an answer; ConnectionError at the end."""
        line = self.stream.readline(LINE)
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
