"""TCP ports of loopback for servers that tests start."""

from __future__ import annotations

import socket

_held: list[socket.socket] = []


def free_port() -> int:
    """A port for a server to listen on; until this process ends it is given to nobody else who asks for any port.

    A socket that is bound and does not listen holds it. A server that says SO_REUSEADDR, as all do, may listen there.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    return int(holder.getsockname()[1])
