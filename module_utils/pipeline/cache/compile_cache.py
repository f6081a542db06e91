"""The compile cache during one build: an sccache server that lives as long as the build.

Rules:

1. A build starts its own server and stops it, in the build's sandbox: the counts are of this build alone, and the
   server ends with the sandbox. sccache runs whatever compiler it is asked to run, so it has no more rights than the
   code that it serves. Its socket is in a temporary folder.
2. The settings are a file of lines NAME=VALUE, with sccache's own variable names. A sandbox gets those that
   ``shared_cache.reached`` passes on, without an account. Without a sandbox the server alone gets them: compiled code
   sees no password in its environment.
3. A broken cache never fails a build. If the shared level does not answer, the build goes on with the disk alone; if
   the server does not start, without a cache; if the server dies, each compiler runs directly. The log says so.
4. rustc uses the cache by RUSTC_WRAPPER, which the crate cc applies to C too; nvcc by the wrapper in
   toolchain/nvcc_wrapper. All variables of a build come from ``Session.variables``.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..base.errors import PipelineError
from ..base.records import CacheCount
from ..base.run import CommandFailed

IDLE = 7200
"""Seconds after which an orphaned server ends. A build has phases without rustc that last longer than sccache's own ten
minutes."""

LOCAL = ("SCCACHE_DIR", "SCCACHE_CACHE_SIZE", "SCCACHE_CACHE_ZSTD_LEVEL", "SCCACHE_DIRECT", "SCCACHE_BASEDIRS")
"""The settings of the disk level."""

_SETTING = re.compile(r"((?:SCCACHE|AWS)_[A-Z0-9_]+|SSL_CERT_FILE)=(.*)")


# ---------------------------------------------------------------- decisions


@dataclass(frozen=True)
class Usage:
    """The cache's counts in a build, by kind of compile, and the calls that it cannot cache, by reason.

    ``size`` and ``limit`` are the disk level's, in bytes.
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

    @property
    def summary(self) -> str:
        """One line for the log."""
        total = self.hits + self.misses
        rate = f" ({self.hits * 100 // total} %)" if total else ""
        kinds = ", ".join(f"{kind.kind} {kind.hits}/{kind.hits + kind.misses}" for kind in self.kinds)
        return (
            f"{self.hits} of {total} from the cache{rate}"
            f"{f': {kinds}' if kinds else ''}; {sum(self.not_cached.values())} not cacheable"
        )


def parse_settings(text: str) -> dict[str, str]:
    """The settings in the text of a settings file; PipelineError for a line that is not one."""
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
    shown = json.loads(text)
    stats = shown["stats"]
    hits, misses = (stats[name]["counts"] for name in ("cache_hits", "cache_misses"))
    kinds = tuple(CacheCount(kind, hits.get(kind, 0), misses.get(kind, 0)) for kind in sorted({*hits, *misses}))
    return Usage(kinds, stats["not_cached"], shown.get("cache_size") or 0, shown.get("max_cache_size") or 0)


# ---------------------------------------------------------------- the edge


@dataclass(frozen=True)
class Cache:
    """A builder's cache: sccache's ``program``, its ``settings`` file, and the disk level's ``folder`` without one."""

    program: Path
    settings: Path | None = None
    folder: Path | None = None

    @classmethod
    def from_option(cls, option: Mapping[str, Any] | None, root: Path) -> Cache | None:
        """The cache of a module's option ``cache``, on a builder with this root; None where the option is omitted."""
        if not option:
            return None
        settings = Path(option["settings"]) if option["settings"] else None
        return cls(Path(option["program"]), settings, root / "cache" / "sccache")

    def read(self) -> dict[str, str]:
        """The settings. Raises OSError or PipelineError for an unusable file."""
        if self.settings:
            found = parse_settings(self.settings.read_text())
            level = found.get("SCCACHE_DIR")
            if level and self.settings.resolve().is_relative_to(Path(level).resolve()):
                raise PipelineError("the file lies below SCCACHE_DIR, which builds read and write")
            return found
        return {"SCCACHE_DIR": str(self.folder)} if self.folder else {}


@dataclass
class Session:
    """The cache during one build: ``variables`` for cargo's environment, and ``usage`` once the server has stopped.

    ``warnings`` report a configured cache that does not work, or not wholly; ``shared_down`` its shared level.
    """

    variables: dict[str, str] = field(default_factory=dict)
    usage: Usage | None = None
    version: str = ""
    shared_down: bool = False
    warnings: list[str] = field(default_factory=list)


@contextmanager
def session(cache: Cache | None, environment: Mapping[str, str], log: IO[str]) -> Iterator[Session]:
    """Run the cache's server for a build. Without a cache, or with a broken one, the session has no variables.

    ``environment`` is the compile's: the server, which runs the compilers, gets it and the settings.
    """
    current = Session()
    if cache is None:
        yield current
        return
    with tempfile.TemporaryDirectory(prefix="sccache-") as folder:
        socket = {"SCCACHE_SERVER_UDS": f"{folder}/socket"}
        settings = _start(cache, {**environment, **socket, "SCCACHE_IDLE_TIMEOUT": str(IDLE)}, current, log)
        if settings is None:
            yield current
            return
        # MISTRALRS_RPM_SCCACHE is for the wrapper of nvcc.
        current.variables = {
            "RUSTC_WRAPPER": str(cache.program),
            "MISTRALRS_RPM_SCCACHE": str(cache.program),
            "SCCACHE_IGNORE_SERVER_IO_ERROR": "1",
            **socket,
        }
        # The next compiler replaces a lost server by one for the disk level alone.
        current.variables |= {**_local(settings), "SCCACHE_IDLE_TIMEOUT": str(IDLE)}
        try:
            yield current
        finally:
            _stop(cache, socket, current, log)


def _start(cache: Cache, environment: Mapping[str, str], current: Session, log: IO[str]) -> dict[str, str] | None:
    """Start the server: with all settings, else for the disk level alone. Returns the settings, None on failure."""
    try:
        settings = cache.read()
    except (OSError, PipelineError) as error:
        _warn(current, log, f"its settings cannot be used ({error}); compiling without it")
        return None
    local = _local(settings)
    attempts = [settings] if settings == local else [settings, local]
    for chosen in attempts:
        try:
            _sccache(cache, "--start-server", environment={**environment, **chosen})
        except (OSError, PipelineError, subprocess.TimeoutExpired) as error:
            last = chosen is attempts[-1]
            next_step = "compiling without it" if last else "going on with the disk alone"
            current.shared_down = len(attempts) > 1
            _warn(current, log, f"it did not start ({_reason(error)}); {next_step}")
        else:
            current.version = _sccache(cache, "--version", environment=environment).split()[-1]
            return settings
    return None


def _local(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: settings[name] for name in LOCAL if name in settings}


def _usage(cache: Cache, environment: Mapping[str, str]) -> Usage:
    return parse_usage(_sccache(cache, "--show-stats", "--stats-format", "json", environment=environment))


def _stop(cache: Cache, environment: Mapping[str, str], current: Session, log: IO[str]) -> None:
    """Record the counts and stop the server; a server that is gone has no counts."""
    try:
        current.usage = _usage(cache, environment)
        _sccache(cache, "--stop-server", environment=environment)
    except (OSError, PipelineError, subprocess.TimeoutExpired, ValueError, LookupError) as error:
        _warn(current, log, f"it was lost during the build ({_reason(error)}); the build did not need it")
    else:
        log.write(f"compile cache: {current.usage.summary}\n")


def _warn(current: Session, log: IO[str], text: str) -> None:
    current.warnings.append(f"compile cache: {text}")
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
    """The line of an error that names the reason: sccache adds its context and a backtrace."""
    output = error.stderr if isinstance(error, CommandFailed) else str(error)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "no output")[:300]
