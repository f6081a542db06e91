"""The levels of the compile cache get a request before a build: a real Redis, and nginx as a WebDAV server.

A level that does not answer is a warning, never a failure, and no message holds a password.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pipeline.base.findings import Finding
from pipeline.cache.compile_cache import Cache
from pipeline.check import cache_levels
from support.ports import free_port

PASSWORD = "open-sesame"
Ask = Callable[..., dict[str, Finding]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Checks the levels of these settings; returns the findings by level."""
    program = Path("/bin/true")

    def levels(**settings: str) -> dict[str, Finding]:
        file = tmp_path / "sccache.env"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        found = cache_levels.check(Cache(program, file), sandboxed=False)
        assert all(finding.fits for finding in found)
        assert all(PASSWORD not in f"{finding}" for finding in found)
        return {finding.check.removeprefix("compile cache: "): finding for finding in found}

    return levels


def reached(port: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(port)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, Path]]:
    """A Redis with a password: its port, its port for TLS, and the certificate to trust."""
    folder = tmp_path_factory.mktemp("redis")
    port, tls, pem, key = free_port(), free_port(), folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", pem],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "redis.conf").write_text(
        f"bind 127.0.0.1\nport {port}\ntls-port {tls}\ntls-cert-file {pem}\ntls-key-file {key}\ntls-auth-clients no\n"
        f"requirepass {PASSWORD}\nuser builder on >{PASSWORD} ~* +@all\nsave ''\ndir {folder}\n"
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["redis-server", folder / "redis.conf"], stdout=log, stderr=log)
    try:
        reached(port)
        yield port, tls, pem
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_redis(redis: tuple[int, int, Path], ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    port, tls, pem = redis
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))

    def found(scheme: str = "redis", at: int = port, **settings: str) -> str:
        host = "localhost" if scheme == "rediss" else "127.0.0.1"
        named = {f"SCCACHE_REDIS_{name.upper()}": value for name, value in settings.items()}
        finding = ask(SCCACHE_REDIS_ENDPOINT=f"{scheme}://{host}:{at}", **named)["redis"]
        assert finding.warning is (finding.found != "answers")
        assert not finding.warning or "The build goes on with the disk alone, slower" in finding.remedy
        return finding.found

    assert found(password=PASSWORD) == "answers"
    assert found(username="builder", password=PASSWORD) == "answers"
    assert "NOAUTH" in found()
    assert "WRONGPASS" in found(password="guess")
    assert found("rediss", tls, password=PASSWORD) == "answers"
    assert found("rediss", port, password=PASSWORD) != "answers"
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    assert "certificate" in found("rediss", tls, password=PASSWORD)


def test_a_dead_redis_and_a_silent_one_are_warnings(ask: Ask) -> None:
    dead = ask(SCCACHE_REDIS_ENDPOINT=f"redis://someone:{PASSWORD}@127.0.0.1:{free_port()}")["redis"]
    assert dead.warning
    assert dead.found == "127.0.0.1: Connection refused"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        finding = ask(SCCACHE_REDIS_ENDPOINT=f"redis://127.0.0.1:{silent.getsockname()[1]}")["redis"]
    assert finding.warning
    assert "timed out" in finding.found
    assert time.monotonic() - began < cache_levels.TIMEOUT + 2


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """nginx: /open/ stores files, /closed/ requires an account, /broken/ fails, /bucket/ forbids."""
    folder, port = tmp_path_factory.mktemp("web"), free_port()
    (folder / "open").mkdir()
    password = subprocess.run(
        ["openssl", "passwd", "-apr1", PASSWORD], check=True, capture_output=True, text=True
    ).stdout
    (folder / "passwords").write_text(f"builder:{password}")
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(f"""
        daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; {user}
        events {{ worker_connections 64; }}
        http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {folder};
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
            uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            location /open/ {{ dav_methods PUT DELETE; }}
            location /closed/ {{ auth_basic cache; auth_basic_user_file {folder}/passwords; alias {folder}/open/; }}
            location /broken/ {{ return 503; }}
            location /bucket/ {{ return 403; }}
            location /absent/ {{ return 404; }}
        }} }}""")  # fmt: skip
    process = subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-p", folder], stderr=subprocess.DEVNULL)
    try:
        reached(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def test_a_webdav_server(web: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")

    def found(path: str, **settings: str) -> str:
        named = {f"SCCACHE_WEBDAV_{name.upper()}": value for name, value in settings.items()}
        finding = ask(SCCACHE_WEBDAV_ENDPOINT=f"{web}/{path}/", **named)["webdav"]
        assert finding.warning is (finding.found != "answers")
        return finding.found

    assert found("open") == "answers"
    assert found("closed", username="builder", password=PASSWORD) == "answers"
    assert found("closed") == "it requires an account (HTTP 401)"
    assert found("closed", username="builder", password="guess") == "it refuses the account (HTTP 401)"
    assert found("broken") == "HTTP 503"


def test_an_s3_service(web: str, ask: Ask) -> None:
    def found(bucket: str, **settings: str) -> str:
        return ask(SCCACHE_ENDPOINT=web, SCCACHE_BUCKET=bucket, **settings)["s3"].found

    assert found("bucket", AWS_ACCESS_KEY_ID="builder") == "answers"
    assert found("bucket", SCCACHE_S3_NO_CREDENTIALS="true") == "it requires an account (HTTP 403)"
    assert found("absent", AWS_ACCESS_KEY_ID="builder") == "there is no bucket absent"
    assert found("broken", AWS_ACCESS_KEY_ID="builder") == "HTTP 503"


@pytest.mark.parametrize("settings", [{"SCCACHE_BUCKET": "units"}, {"SCCACHE_WEBDAV_ENDPOINT": "https://cache.test"}])
def test_a_sandbox_reaches_no_other_level_than_redis(tmp_path: Path, settings: dict[str, str]) -> None:
    file = tmp_path / "sccache.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    (finding,) = cache_levels.check(Cache(Path("/bin/true"), file))
    assert (finding.warning, finding.found) == (True, "cannot be reached from the sandbox of a build")
    assert "use a Redis (cache_host)" in finding.remedy


def test_the_disk(tmp_path: Path, ask: Ask) -> None:
    kept = tmp_path / "cache" / "sccache"
    assert ask(SCCACHE_DIR=str(kept))["disk"].found == "answers"
    assert not kept.exists()
    kept.parent.write_text("no folder")
    finding = ask(SCCACHE_DIR=str(kept))["disk"]
    assert (finding.warning, finding.found) == (True, f"{kept.parent} is no folder")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_disk_that_cannot_be_written(tmp_path: Path, ask: Ask) -> None:
    tmp_path.joinpath("cache").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    assert "cannot be written" in ask(SCCACHE_DIR=f"{tmp_path}/cache")["disk"].found


def test_a_cache_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    for cache, reason in (
        (Cache(tmp_path / "sccache"), f"none at {tmp_path}/sccache"),
        (Cache(Path("/bin/true"), tmp_path / "none.env"), "No such file or directory"),
        (Cache(Path("/bin/true"), Path(__file__)), "line 1 is no setting of sccache"),
    ):
        (finding,) = cache_levels.check(cache)
        assert (finding.fits, finding.warning, finding.found) == (True, True, reason)
        assert "The build goes on without the cache, slower" in finding.remedy
    (finding,) = cache_levels.check(Cache(Path("/bin/true"), folder=tmp_path / "kept"))
    assert (finding.check, finding.warning) == ("compile cache: disk", False)
