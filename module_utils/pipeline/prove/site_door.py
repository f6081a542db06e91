"""The one way out of a throw-away client: the port of the site's URL on the client's own loopback.

Rules:

1. A client has no network but its loopback. There this process listens on the site's port; it accepts in the client
   and connects on the host, to the site and to nothing else. Bytes pass unchanged: TLS is the client's and the site's.
2. If the environment names a proxy for the site, the connection is a CONNECT through it. A site on this machine is
   always reached directly: to a proxy 127.0.0.1 is another host.
3. A client holds at most ``MOST`` connections at a time.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import ipaddress
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from ..base.environment import Proxy, proxy_of
from ..base.errors import PipelineError

MOST = 32
SECONDS = 30.0
"""Of patience for a connection, and for a proxy's answer."""

CLONE_NEWNET = 0x40000000
SIOCSIFADDR = 0x8916


@dataclass(frozen=True)
class Route:
    """The way to a site: its own address, and that of the proxy if there is one. ``login`` is user:password.

    ``at`` is where this host reaches the site, if not at its own address.
    """

    host: str
    port: int
    proxy: tuple[str, int] | None = None
    login: str = ""
    at: tuple[str, int] | None = None

    def leading(self, url: str) -> Route:
        """The same site, reached at another address of this host: no proxy knows the way."""
        here = urlsplit(url)
        return replace(self, proxy=None, at=(str(here.hostname), here.port or 80))

    @property
    def inside(self) -> str:
        """The address in the client that stands for the site: its own if the URL has one, so that the URL holds."""
        return self.host if _is_address(self.host) else "127.0.0.1"


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.IPv4Address(host))
    return False


def route_of(url: str, caller: Mapping[str, str] | None = None) -> Route:
    """The way to the site of ``url``, through the proxy that the variables of ``caller`` name for it."""
    site = urlsplit(url)
    host, port = site.hostname or "", site.port or {"http": 80, "https": 443}.get(site.scheme, 0)
    if not host or not port:
        raise PipelineError("this is not the URL of a site", url, "Give channel_url as http:// or https://")
    if ":" in host:
        raise PipelineError("a client has no IPv6", url, "Give the site a name or an IPv4 address in channel_url")
    if not (named := proxy_of(url, caller)):
        return Route(host, port)
    proxy = Proxy.parse(named, url)
    return Route(host, port, (proxy.host, proxy.port), proxy.login)


class SiteDoor:
    """Serves a client's port until ``close``. ``report`` gets one line for each connection that failed."""

    def __init__(self, route: Route, namespace: str, report: Callable[[str], object]) -> None:
        """Listen in the network namespace that the file ``namespace`` names."""
        self._route = route
        self._report = report
        self._room = threading.BoundedSemaphore(MOST)
        self._listener = _listener_in(namespace, route.inside, route.port)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # shutdown wakes accept; the connections end with the client's side of them.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            self._room.acquire()
            try:
                inside, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(inside,), daemon=True).start()

    def _serve(self, inside: socket.socket) -> None:
        with inside:
            try:
                with connected(self._route) as outside:
                    _exchange(inside, outside)
            except OSError as error:
                self._report(f"the site at {self._route.host}:{self._route.port} was not reached: {error}\n")
            finally:
                self._room.release()


def connected(route: Route) -> socket.socket:
    """A connection to the site. OSError with the reason."""
    link = socket.create_connection(route.at or route.proxy or (route.host, route.port), SECONDS)
    try:
        if route.proxy:
            _connect_through(link, route)
        link.settimeout(None)
    except BaseException:
        link.close()
        raise
    return link


def _connect_through(link: socket.socket, route: Route) -> None:
    target = f"{route.host}:{route.port}"
    login = base64.b64encode(route.login.encode()).decode()
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    lines += [f"Proxy-Authorization: Basic {login}"] if route.login else []
    link.sendall("\r\n".join((*lines, "", "")).encode())
    answer = b""
    # By bytes: what follows the empty line is the site's.
    while not answer.endswith(b"\r\n\r\n"):
        if not (byte := link.recv(1)) or len(answer) > 16384:
            raise OSError("the proxy does not answer like one")
        answer += byte
    status = answer.split(b"\r\n", 1)[0].decode(errors="replace")
    if status.split(" ")[1:2] != ["200"]:
        raise OSError(f"the proxy answers {status!r} to CONNECT {target}")


def _exchange(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes both ways until both sides have ended, or one is gone."""
    peers = {one: other, other: one}
    while peers:
        for ready in select.select(list(peers), [], [])[0]:
            data = ready.recv(262144)
            if data:
                peers[ready].sendall(data)
            else:
                with suppress(OSError):
                    peers.pop(ready).shutdown(socket.SHUT_WR)


def _listener_in(namespace: str, address: str, port: int) -> socket.socket:
    """A socket that listens in another network namespace, whose loopback interface gets the address.

    A socket stays in the namespace of the thread that made it, so a thread of its own enters.
    """
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            file = os.open(namespace, os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(file, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(file)
            if not address.startswith("127."):
                _add_to_loopback(address)
            made.append(socket.create_server((address, port), backlog=MOST))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (result,) = made
    if isinstance(result, OSError):
        raise PipelineError(
            f"nothing can listen in the throw-away client: {result.strerror}",
            f"{address}:{port}",
            "Prove on a host where root may enter network namespaces",
        ) from result
    return result


def _add_to_loopback(address: str) -> None:
    request = struct.pack("16sH2s4s8s", b"lo:1", socket.AF_INET, b"", socket.inet_aton(address), b"")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFADDR, request)
