"""TCP ports of loopback for servers that tests start."""

from __future__ import annotations

import socket

_held: list[socket.socket] = []


def free_port() -> int:
    """A port for a server, reserved until this process ends.

    A bound socket that does not listen reserves it: the kernel gives the port to no other process that asks for any
    port, but a server with SO_REUSEADDR can listen on it.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    return int(holder.getsockname()[1])
