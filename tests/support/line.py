"""A line to a server on loopback that is slow, or breaks.

Rules:

1. ``delay`` seconds pass before each request goes on. A request ends with an empty line and has no body, as
   a web client's GET; connections that are kept alive are.
2. After ``cut`` bytes from the client the line is dead: the client is cut off, and the server comes to the end
   of what got through.
3. ``sent`` counts the bytes that clients got through, over all connections.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Line:
    """It lasts as long as the context; clients connect to ``port``."""

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
        await asyncio.sleep(0)  # a connection that was just accepted gets its task
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
    """To the end, also when nobody listens any more: an answer that is not read would end the server's side early."""
    while data := await reader.read(1 << 16):
        with suppress(OSError):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.write_eof()
