"""The compile cache, attacked by a build: its password, other builders' entries, the relay, and the counts.

The build is a program in the sandbox of a build, with the real sccache and a real Redis in the roles' settings.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.cache.redis import Redis
from pipeline.cache.relay import CONNECTIONS, LARGEST, Relay
from support.shared_cache import Builder, RedisServer, connected, installed_sccache

NAME = b"a/b/c/" + b"0" * 64
TAKEN = b"d/e/f/" + b"1" * 64
# Reads what a build can read: other processes, the builder's root, its scratch folder. Prints where the password is.
SEARCH = """
import os, sys
for top in (*sys.argv[1:], os.path.dirname(os.environ["SCCACHE_SERVER_UDS"])):
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if top != "/proc" or name in ("environ", "cmdline"):
                try:
                    with open(path, "rb") as stream:
                        if b"ses" + b"ame-9" in stream.read(1 << 20):
                            print("found in", path)
                except OSError:
                    pass
print("searched")
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer.at(tmp_path_factory.mktemp("attacked") / "redis")
    server.start()
    assert server.say("builders", "sesame-9", "SET", TAKEN.decode(), "good") == "OK"
    yield server
    server.kill()


@pytest.fixture
def relay(redis: RedisServer, tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(redis.redis, tmp_path / "relay")
    relay.start()
    yield relay
    relay.stop()
    assert redis.say("builders", "sesame-9", "GET", TAKEN.decode()) == "good"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed_sccache(tmp_path_factory.mktemp("root"))


@pytest.fixture
def builder(tmp_path: Path, program: Path, redis: RedisServer) -> Builder:
    builder = Builder(tmp_path / "builder", program)
    builder.root.mkdir()
    builder.write(**redis.account())
    builder.sources(range(2))
    return builder


@pytest.mark.parametrize("protected", [True, False], ids=["sandbox", "no sandbox"])
def test_a_build_finds_the_password_nowhere(builder: Builder, protected: bool) -> None:
    """Nor in the environment of sccache's server, which runs beside it. Without a sandbox the same search finds it."""
    places = ["/proc", "/etc", "/home", "/root", "/run", "/tmp"] if protected else []
    log = builder.run(["/usr/bin/python3", "-c", SEARCH, str(builder.root), *places], protected=protected).log
    assert "searched" in log
    assert ("found in" in log) == (not protected), log
    assert "sesame-9" not in log


def test_a_try_build_has_no_shared_level(builder: Builder, redis: RedisServer) -> None:
    before = redis.say("builders", "sesame-9", "GET", ".sccache_check")
    made = builder.run(["sh", "-c", "cat /proc/*/environ; find /tmp"], release=False)
    assert "SCCACHE_SERVER_UDS" in made.log
    assert "relay" not in made.log
    assert "REDIS" not in made.log
    assert (made.warnings, made.shared_down) == ([], False)
    assert redis.say("builders", "sesame-9", "GET", ".sccache_check") == before


@pytest.mark.parametrize(
    "words",
    [
        (b"FLUSHALL",), (b"CONFIG", b"GET", b"*"), (b"KEYS", b"*"), (b"ACL", b"LIST"), (b"EVAL", b"return 1", b"0"),
        (b"DEL", TAKEN), (b"RENAME", TAKEN, NAME), (b"COPY", TAKEN, NAME), (b"CLIENT", b"LIST"), (b"SELECT", b"1"),
        (b"AUTH", b"builders", b"guess"), (b"HELLO", b"3"), (b"MULTI",), (b"SUBSCRIBE", b"x"),
        (b"DEBUG", b"SLEEP", b"9"),
        (b"SET", b"another", b"1"), (b"GET", b"another"), (b"GET", TAKEN + b"\n"), (b"GET", b"a/b/c/../" + TAKEN),
        (b"SET", TAKEN, b"bad", b"XX"), (b"SETEX", TAKEN, b"-1", b"bad"), (b"APPEND", TAKEN, b"bad"),
        (b"GETDEL", TAKEN), (b"GETEX", TAKEN, b"EX", b"1"), (b"",),
    ],
    ids=lambda words: b" ".join(words).decode()[:20].strip() or "nothing",
)  # fmt: skip
def test_the_relay_passes_on_nothing_but_entries(relay: Relay, words: tuple[bytes, ...]) -> None:
    with connected(relay.path) as ask:
        answer = ask(*words)
    assert answer == b"" or answer.startswith(b"-ERR refused by the relay of the sandbox: "), answer
    assert relay.lost == ""


def test_the_report_names_what_a_build_tried(builder: Builder) -> None:
    attack = (
        "import glob, socket; s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(glob.glob('/tmp/build-*/relay')[0])\n"
        "s.sendall(b'*1\\r\\n$8\\r\\nFLUSHALL\\r\\n'); print(s.recv(100))"
    )
    made = builder.run(["/usr/bin/python3", "-c", attack])
    assert "-ERR refused" in made.log
    (warning,) = made.warnings
    assert warning.endswith(" that sccache does not send: FLUSHALL is not for builds (1)")


def test_an_entry_of_another_build_keeps_its_bytes(relay: Relay, redis: RedisServer) -> None:
    with connected(relay.path) as ask:
        assert ask(b"SET", TAKEN, b"bad") == b"+OK\r\n"
        assert ask(b"SETEX", TAKEN, b"1", b"bad") == b"+OK\r\n"
        assert ask(b"GET", TAKEN) == b"$4\r\ngood\r\n"
        assert ask(b"SETEX", NAME[:-1] + b"e", b"100", b"new") == b"+OK\r\n"
        assert ask(b"GET", NAME[:-1] + b"e") == b"$3\r\nnew\r\n"


def test_an_entry_that_holds_commands_is_an_entry(relay: Relay) -> None:
    """Also one whose length is a lie: the rest is no request, and its connection ends."""
    hidden = b"x\r\n*3\r\n$3\r\nSET\r\n$70\r\n" + TAKEN + b"\r\n$3\r\nbad\r\n"
    with connected(relay.path) as ask:
        assert ask(b"SET", NAME, hidden) == b"+OK\r\n"
        assert ask(b"GET", NAME) == b"$%d\r\n%s\r\n" % (len(hidden), hidden)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(relay.path))
        client.sendall(b"*3\r\n$3\r\nSET\r\n$70\r\n" + NAME[:-1] + b"f" + b"\r\n$3\r\n" + hidden)
        assert client.recv(100) == b""
    with connected(relay.path) as ask:
        assert ask(b"GET", NAME[:-1] + b"f") == b"$-1\r\n"


@pytest.mark.parametrize(
    "request_of",
    [
        b"*3\r\n$3\r\nSET\r\n$70\r\n" + NAME + b"\r\n$99999999999\r\n",
        b"*3\r\n$3\r\nSET\r\n$70\r\n" + NAME + b"\r\n$%d\r\n" % (LARGEST + 1),
        b"*2\r\n$3\r\nGET\r\n$257\r\n", b"*999999\r\n", b"*-1\r\n", b"*2\r\n$-1\r\n", b"$3\r\nGET\r\n",
        b"GET " + TAKEN + b"\r\n", b"x" * 4096, b"\0" * 600, b"*1\r\n$4\r\nPINGxx", b"*1\r\n$99\r\n",
    ],
    ids=lambda text: text[-12:].decode(errors="replace").strip() or "zeros",
)  # fmt: skip
def test_a_request_out_of_bounds_ends_its_connection(relay: Relay, request_of: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(relay.path))
        client.sendall(request_of)
        try:
            answer = client.recv(200)
            assert not answer or answer.startswith(b"-ERR refused"), answer
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass
    with connected(relay.path) as ask:
        assert ask(b"PING") == b"+PONG\r\n"


def test_a_flood_of_connections_is_bounded_and_ends_with_the_build(relay: Relay) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(3 * CONNECTIONS):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(relay.path))
            # Half a request.
            with contextlib.suppress(BrokenPipeError):
                client.send(b"*2\r\n$3\r\n")
        while (served := threading.active_count()) < before + CONNECTIONS:
            time.sleep(0.01)
        assert served <= before + 2 * CONNECTIONS
        began = time.monotonic()
        relay.stop()
        assert time.monotonic() - began < 2
        assert threading.active_count() == before - 1, "nor does the one that accepts connections"


def test_a_build_that_ends_the_server_and_lies_about_it_only_loses_its_counts(builder: Builder) -> None:
    attack = 'pkill -9 sccache; rm -rf "$(dirname "$SCCACHE_SERVER_UDS")"'
    made = builder.run(["sh", "-c", attack])
    assert made.counts == (0, 0)
    assert "it was lost during the build" in made.warnings[0]


def test_a_wrong_address_is_no_error_of_a_build(builder: Builder) -> None:
    file = builder.root / "cache/sccache.env"
    file.write_text(file.read_text().replace("redis://127.0.0.1:", "redis://someone:sesame-9@[::1"))
    made = builder.run(["true"])
    (warning,) = made.warnings
    assert "its shared level cannot be used (SCCACHE_REDIS_ENDPOINT is no URL" in warning
    assert "sesame-9" not in made.log
    with pytest.raises(PipelineError, match="is no URL"):
        Redis.of({"SCCACHE_REDIS_ENDPOINT": "redis://host:many"})


def test_settings_where_a_build_could_read_them_are_refused(builder: Builder) -> None:
    file = builder.root / "cache/sccache.env"
    file.write_text(file.read_text().replace(f"{builder.root}/cache/sccache", str(builder.root)))
    with pytest.raises(PipelineError, match="lies below SCCACHE_DIR, which builds read and write"):
        builder.cache.read()
