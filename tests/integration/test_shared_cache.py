"""Builders share compiled units: the real sccache in the sandbox of a build, with a real Redis in the settings of the
role cache_server behind the relay, and with nginx's WebDAV; the shared level refuses the account, dies or hangs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline.cache import relay as relays
from pipeline.cache.redis import Redis
from support.ports import free_port
from support.shared_cache import COMPILE, Builder, RedisServer, connected, installed_sccache, reached


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer.at(tmp_path / "redis")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed_sccache(tmp_path_factory.mktemp("root"))


@pytest.fixture
def builder(tmp_path: Path, program: Path) -> Builder:
    (tmp_path / "builder").mkdir()
    return Builder(tmp_path / "builder", program)


def test_a_builder_reads_the_units_of_another(redis: RedisServer, builder: Builder) -> None:
    redis.start()
    builder.write(**redis.account())
    assert builder.build(range(4)).counts == (0, 4)
    builder.clear()
    second = builder.build(range(5))
    assert (second.counts, second.warnings, second.shared_down) == ((4, 1), [], False)
    assert "compile cache: 4 of 5 from the cache (80 %): C/C++ 4/5; 0 not cacheable" in second.log
    builder.clear()
    assert builder.build(range(5), protected=False).counts == (5, 0), "without a sandbox it is the same"


def test_a_reader_never_writes(redis: RedisServer, builder: Builder) -> None:
    redis.start()
    builder.write(**redis.account())
    builder.build(range(2))
    builder.write(**redis.account("open", "readers"))
    for _ in range(2):
        builder.clear()
        made = builder.build(range(4))
        assert (made.counts, made.warnings) == ((2, 2), [])


def test_a_wrong_password_warns_and_the_disk_level_works(redis: RedisServer, builder: Builder) -> None:
    redis.start()
    builder.write(**redis.account("wrong"))
    made = builder.build(range(2))
    assert (made.counts, made.shared_down) == ((0, 2), True)
    (warning,) = made.warnings
    assert warning.startswith("compile cache: its shared level cannot be used (WRONGPASS")
    assert warning.endswith("); going on with the disk alone")
    assert "wrong " not in made.log
    builder.write()
    assert builder.build(range(2)).counts == (2, 0), "the disk level has both"


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_a_shared_level_that_is_lost_during_a_build_costs_no_time(
    redis: RedisServer, builder: Builder, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(relays, "TIMEOUT", 0.5)
    redis.start()
    assert redis.process
    builder.write(**redis.account())
    builder.build(range(3))
    builder.clear()
    (builder.root / "src/gate.10").touch()
    number = signal.SIGKILL if how == "dies" else signal.SIGSTOP
    loser = threading.Thread(target=_lose, args=(redis.process, builder.root / "src", number))
    loser.start()
    began = time.monotonic()
    made = builder.run(["sh", "-c", COMPILE, "sh", *builder.sources(range(3)), *builder.sources(range(10, 20))])
    assert time.monotonic() - began < 20, "sccache by itself waits a minute for each"
    loser.join()
    assert (made.counts, made.shared_down) == ((3, 10), True)
    reason = "Connection refused" if how == "dies" else "no answer within 0.5 s"
    assert made.warnings == [
        f"compile cache: its shared level was lost during the build ({reason}); going on with the disk alone"
    ]
    assert builder.build(range(10, 20)).counts == (10, 0), "the disk level has all"


def _lose(process: subprocess.Popen[bytes], folder: Path, number: signal.Signals) -> None:
    """Send the signal once the build waits at its gate, and open that."""
    while not (folder / "waits.10").exists():
        time.sleep(0.02)
    process.send_signal(number)
    time.sleep(0.1)
    (folder / "gate.10").unlink()


def test_an_idle_connection_that_redis_closes_is_no_loss(redis: RedisServer, tmp_path: Path) -> None:
    redis.start()
    name = b"a/b/c/" + b"0" * 64
    relay = relays.Relay(redis.redis, tmp_path / "relay")
    relay.start()
    try:
        with connected(relay.path) as ask:
            assert ask(b"SET", name, b"bytes") == b"+OK\r\n"
            # As its setting `timeout` does.
            redis.restart()
            assert ask(b"PING") == b"+PONG\r\n"
            assert ask(b"GET", name) == b"$-1\r\n", "it keeps nothing on disk"
    finally:
        relay.stop()
    assert relay.lost == ""


def test_accounts_have_no_other_rights(redis: RedisServer) -> None:
    redis.start()
    name = "a/b/c/" + "0" * 64
    assert "NOAUTH" in redis.say("default", "", "GET", name) or "WRONGPASS" in redis.say("default", "", "GET", name)
    assert redis.say("builders", "sesame-9", "SET", name, "1") == "OK"
    for words in (
        ["KEYS", "*"], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["ACL", "LIST"], ["SAVE"], ["CLIENT", "LIST"],
        ["DEL", name], ["EVAL", "return 1", "0"], ["SET", "another", "1"], ["GET", "another"],
    ):  # fmt: skip
        assert "NOPERM" in redis.say("builders", "sesame-9", *words), words
    assert redis.say("readers", "open", "GET", name) == "1"
    assert "NOPERM" in redis.say("readers", "open", "SET", name, "2")
    assert "sesame-9" not in (redis.folder / "redis.conf").read_text()


def certificate(folder: Path) -> Path:
    """Create a private CA and its certificate for 127.0.0.1, at the role's path; returns the CA's certificate."""

    def openssl(*words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=builders")
    openssl(*new, "-keyout", "mistralrs-cache.key", "-out", "csr", "-subj", "/CN=cache")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "mistralrs-cache.crt")  # fmt: skip
    return folder / "ca.pem"


def test_over_tls_by_a_private_authority(redis: RedisServer, builder: Builder) -> None:
    authority = certificate(redis.folder)
    redis.start(cache_server_certificate="given")
    builder.write(**redis.account(scheme="rediss"), compile_cache_ca="given")
    shutil.copy(authority, builder.root / "cache/shared-ca.pem")
    builder.build(range(2))
    builder.clear()
    made = builder.build(range(2))
    assert (made.counts, made.warnings) == ((2, 0), [])
    builder.write(**redis.account(scheme="rediss"))
    builder.clear()
    made = builder.build(range(2))
    assert made.counts == (0, 2)
    assert "certificate verify failed" in made.log


# sccache looks up folders with PROPFIND, which nginx's own module lacks.
DAV = Path("/usr/lib/nginx/modules/ngx_http_dav_ext_module.so")
NGINX = """daemon off; load_module {module}; pid {folder}/pid; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/dav;
        client_max_body_size 1g;
        dav_methods PUT DELETE MKCOL;
        dav_ext_methods PROPFIND;
        create_full_put_path on;
    }}
}}
"""


@pytest.mark.skipif(not DAV.exists(), reason="this system's nginx has no PROPFIND")
def test_over_webdav_by_nginx_without_a_sandbox_only(tmp_path: Path, builder: Builder) -> None:
    folder, port = tmp_path / "nginx", free_port()
    (folder / "dav").mkdir(parents=True)
    user = "" if os.geteuid() else "user root; "
    (folder / "nginx.conf").write_text(user + NGINX.format(folder=folder, port=port, module=DAV))
    nginx = subprocess.Popen(["nginx", "-e", "stderr", "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        while not reached(port):
            assert nginx.poll() is None
            time.sleep(0.02)
        builder.write(compile_cache_shared="webdav", compile_cache_endpoint=f"http://127.0.0.1:{port}/")
        builder.build(range(2), protected=False)
        builder.clear()
        made = builder.build(range(2), protected=False)
        assert made.counts == (2, 0), made.log
        builder.clear()
        made = builder.build(range(2))
    finally:
        nginx.terminate()
        nginx.wait()
    assert made.counts == (0, 2)
    assert made.warnings == [
        "compile cache: its shared level, webdav, cannot be reached from a sandbox; going on with the disk alone"
    ]
    builder.clear()
    made = builder.build(range(2), protected=False)
    assert (made.counts, made.shared_down) == ((0, 2), True)
    assert "it did not start (" in made.log
    assert "going on with the disk alone" in made.log


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"SCCACHE_REDIS_ENDPOINT": "rediss://cache.test:7000"}, Redis("cache.test", 7000, tls=True)),
        ({"SCCACHE_REDIS_ENDPOINT": "redis://10.0.0.5"}, Redis("10.0.0.5", 6379)),
        ({"SCCACHE_REDIS_ENDPOINT": "redis://a:b%40@c"}, Redis("c", user="a", password="b@")),
        ({"SCCACHE_WEBDAV_ENDPOINT": "https://cache.test/dav"}, None),
        ({}, None),
    ],
)
def test_the_redis_in_settings(settings: dict[str, str], expected: Redis | None) -> None:
    assert Redis.of(settings) == expected
    assert "b@" not in repr(Redis.of(settings))
