"""What a proof's client gets of its system, and its way to the site."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.prove.client_tree import copy, folders_of, is_hidden
from pipeline.prove.sandbox import CAPABILITIES, DROPPED, IDS, free_ids, nspawn
from pipeline.prove.site_door import Route, connected, route_of

PROXY = {"https_proxy": "http://me:p%40ss@proxy.lan:3128"}


@pytest.mark.parametrize(
    ("url", "caller", "route"),
    [
        ("https://rpm.lair.cafe", {}, Route("rpm.lair.cafe", 443)),
        ("https://rpm.lair.cafe:8443/x", {}, Route("rpm.lair.cafe", 8443)),
        ("http://127.0.0.1:8600", {"http_proxy": "http://proxy.lan"}, Route("127.0.0.1", 8600)),
        ("http://localhost:8600", {"all_proxy": "http://proxy.lan"}, Route("localhost", 8600)),
        ("https://rpm.lair.cafe", PROXY, Route("rpm.lair.cafe", 443, ("proxy.lan", 3128), "me:p@ss")),
        ("https://rpm.lair.cafe", {**PROXY, "NO_PROXY": "other, .lair.cafe"}, Route("rpm.lair.cafe", 443)),
        ("http://rpm.lair.cafe", PROXY, Route("rpm.lair.cafe", 80)),
        ("http://rpm.lair.cafe", {"ALL_PROXY": "proxy.lan:1"}, Route("rpm.lair.cafe", 80, ("proxy.lan", 1))),
    ],
)
def test_the_way_to_a_site(url: str, caller: dict[str, str], route: Route) -> None:
    assert route_of(url, caller) == route


def test_a_site_that_this_host_reaches_elsewhere_keeps_its_address_in_the_client() -> None:
    route = route_of("http://rpm.lair.cafe:8600", {"http_proxy": "http://proxy.lan"})
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        moved = route.leading(f"http://127.0.0.1:{port}")
        with connected(moved) as link:
            assert link.getpeername()[1] == port
    assert (moved.host, moved.port, moved.inside) == ("rpm.lair.cafe", 8600, "127.0.0.1")


@pytest.mark.parametrize(
    ("url", "caller", "message"),
    [
        ("ftp://rpm.lair.cafe", {}, "not the URL of a site"),
        ("https:///x", {}, "not the URL of a site"),
        ("http://[::1]:80", {}, "no IPv6"),
        ("https://rpm.lair.cafe", {"https_proxy": "socks5://proxy.lan"}, "a proxy of the kind socks5"),
    ],
)
def test_a_way_that_a_client_cannot_take_is_refused(url: str, caller: dict[str, str], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        route_of(url, caller)


def test_an_address_stays_the_clients_name_of_the_site() -> None:
    assert Route("192.0.2.7", 80).inside == "192.0.2.7"
    assert Route("rpm.lair.cafe", 80).inside == "127.0.0.1"


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\nfrom the site", ""),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the proxy answers 'HTTP/1.1 403 Forbidden' to CONNECT rpm.lair.cafe:443"),
        (b"nonsense", "the proxy does not answer like one"),
    ],
)
def test_a_proxy_is_asked_to_connect(answer: bytes, fault: str) -> None:
    asked = bytearray()

    def serve(listener: socket.socket) -> None:
        link, _ = listener.accept()
        with link:
            while not asked.endswith(b"\r\n\r\n"):
                asked.extend(link.recv(1024))
            link.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        route = Route("rpm.lair.cafe", 443, listener.getsockname(), "me:p@ss")
        if fault:
            with pytest.raises(OSError, match=fault):
                connected(route)
        else:
            with connected(route) as link:
                assert link.recv(100) == b"from the site"
        thread.join()
    assert asked.startswith(b"CONNECT rpm.lair.cafe:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in asked


def test_a_client_gets_only_what_everybody_may_read(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    (etc / "private").mkdir(parents=True)
    (etc / "private/key").write_text("secret")
    (etc / "private").chmod(0o700)
    for name, mode in (("open", 0o644), ("closed", 0o640), ("mistralrs.conf", 0o644)):
        (etc / name).write_text(name)
        (etc / name).chmod(mode)
    (etc / "link").symlink_to("/etc/shadow")
    os.mkfifo(etc / "fifo")
    copy(etc, tmp_path / "copy")
    copy(tmp_path / "none", tmp_path / "copy/none")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["link", "open"]
    assert (tmp_path / "copy/link").is_symlink()


def test_an_installed_mistralrs_and_programs_by_hand_are_hidden(tmp_path: Path) -> None:
    for name in ("bin", "local/bin", "local/cuda-13.0/lib64", "share/mistralrs-ada", "a/b/c/d/e", "lib/closed"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin/mistralrs-ada").touch()
    (tmp_path / "bin/other").touch()
    (tmp_path / "lib/closed").chmod(0o750)
    found = [name for name, _ in folders_of(tmp_path, "")]
    assert [name for name in sorted(found) if is_hidden(name)] == [
        "bin/mistralrs-ada",
        "local/bin",
        "share/mistralrs-ada",
    ]
    assert sorted(name for name in found if not is_hidden(name)) == [
        *("a", "a/b", "a/b/c", "a/b/c/d", "bin", "lib"),
        *("local", "local/cuda-13.0", "local/cuda-13.0/lib64", "share"),
    ]


def test_a_client_gets_ids_in_which_there_is_no_account() -> None:
    assert free_ids({0, 1000, *(first + 7 for first in IDS if first != 0x90000)}) == 0x90000


def test_the_capabilities_are_those_that_the_client_keeps() -> None:
    """nspawn names what to drop; a capability in neither list would be found by the check of a fresh client."""
    assert not set(CAPABILITIES) & set(DROPPED)
    words = nspawn("x", 0x90000, ["/mnt/2", "/mnt/1"])
    assert words[words.index("--bind-ro=/run/folders/2:/mnt/2") + 1] == "--bind-ro=/run/folders/1:/mnt/1"
    assert {"--private-network", "--as-pid2", "--no-new-privileges=yes", "--register=no"} <= set(words)
