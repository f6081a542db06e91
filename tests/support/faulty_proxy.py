"""A TCP proxy on loopback that delays requests or cuts the connection.

Rules:

1. ``delay``: seconds before each request is forwarded. A request ends with an empty line and has no body, like
   a web client's GET; keep-alive connections are supported.
2. ``cut``: after this many bytes from clients the proxy aborts the client's connection; the server reads the
   forwarded bytes and then an end of file.
3. ``sent`` counts the bytes that were forwarded from clients, over all connections.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class FaultyProxy:
    """Forwards connections on ``port`` to the port ``target`` while the context lasts."""

    def __init__(self, target: int, *, delay: float = 0, cut: int | None = None) -> None:
        self.target, self.delay, self.cut = target, delay, cut
        self.port = self.sent = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def _close(self) -> None:
        self._server.close()
        await asyncio.sleep(0)  # lets the task of a connection just accepted start
        while running := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection("127.0.0.1", self.target)
        back = asyncio.create_task(_pass_on(answers, writer))
        try:
            with suppress(OSError):
                await (self._requests(reader, server) if self.delay else self._bytes(reader, server))
            if self.sent == self.cut:
                writer.transport.abort()
            with suppress(OSError):
                server.write_eof()
            await back
        finally:
            for end in (writer, server):
                end.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(self.delay)
                server.write(request)
                self.sent += len(request)

    async def _bytes(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self.cut is not None:
                data = data[: self.cut - self.sent]
            self.sent += len(data)
            server.write(data)
            await server.drain()
            if self.sent == self.cut:
                return


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read to the end even after the client has gone: an unread answer would reset the server's connection early."""
    while data := await reader.read(1 << 16):
        with suppress(OSError):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.write_eof()
