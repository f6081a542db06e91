"""The compile cache during one build: an sccache server that lives as long as the build.

Rules:

1. A build starts its own server and stops it, in the build's sandbox: the counts are of this build alone, and the
   server ends with the sandbox. sccache runs whatever compiler it is asked to run, so it has no more rights than the
   code that it serves. Its socket is in the build's scratch folder.
2. The settings are a file of lines NAME=VALUE, with sccache's own variable names. No sandbox can read it. The shared
   level is reached through a relay outside (shared_cache), and by releases only: what a build of another trust stored,
   a release would take up.
3. A broken cache never fails a build. If the shared level does not answer, the build goes on with the disk alone; if
   the server does not start, without a cache; if the server dies, each compiler runs directly. The log says so.
4. rustc uses the cache by RUSTC_WRAPPER, which the crate cc applies to C too; nvcc by the wrapper in
   toolchain/nvcc_wrapper. All variables of a build come from ``Session.variables``, and none is a secret.
5. What the sandbox leaves (counts, messages) is read with limits: a build can write anything there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..base.errors import PipelineError
from ..base.records import CacheCount
from ..base.run import CommandFailed
from .shared_cache import Redis, Relay, other_level, reason_of

IDLE = 7200
"""Seconds after which an orphaned server ends. A build has phases without rustc that last longer than sccache's own ten
minutes."""

_INSIDE = ("SCCACHE_DIR", "SCCACHE_CACHE_SIZE", "SCCACHE_CACHE_ZSTD_LEVEL", "SCCACHE_DIRECT", "SCCACHE_BASEDIRS")
_OF_REDIS = ("SCCACHE_REDIS_KEY_PREFIX", "SCCACHE_REDIS_TTL", "SCCACHE_REDIS_EXPIRATION")
"""The settings that a sandbox may read."""

_MOST = 1 << 20
_RUN = """\
# sccache's server, the command, the counts. Arguments: sccache, the command. Written by cache/compile_cache.
folder=${0%/*}
sccache=$1
shift
start() (
    if [ -n "$1" ]; then while IFS= read -r line; do export "$line"; done <"$1"; fi
    exec "$sccache" --start-server </dev/null
)
if [ -e "$folder/shared.env" ] && start "$folder/shared.env" >"$folder/shared" 2>&1; then :
elif start "" >"$folder/started" 2>&1; then :
else
    touch "$folder/failed"
    unset RUSTC_WRAPPER MISTRALRS_RPM_SCCACHE
    exec "$@"
fi
"$@"
status=$?
"$sccache" --show-stats --stats-format json >"$folder/counts.json" 2>"$folder/lost" </dev/null
"$sccache" --stop-server >/dev/null 2>&1 </dev/null
exit $status
"""
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
    """The counts from ``sccache --show-stats --stats-format json``.

    Raises ValueError, LookupError, TypeError, AttributeError or RecursionError for anything else: a build can write it.
    """
    shown = json.loads(text)
    stats = shown["stats"]
    hits, misses = (_counts(stats[name]["counts"]) for name in ("cache_hits", "cache_misses"))
    kinds = tuple(CacheCount(kind, hits.get(kind, 0), misses.get(kind, 0)) for kind in sorted({*hits, *misses}))
    size, limit = (int(shown.get(name) or 0) for name in ("cache_size", "max_cache_size"))
    return Usage(kinds, _counts(stats["not_cached"]), size, limit)


def _counts(found: Mapping[str, Any]) -> dict[str, int]:
    """Counts by name, without line breaks and of a bounded number: a build may have written them."""
    return {" ".join(str(name).split())[:80]: int(found[name]) for name in sorted(found)[:100]}


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
            return parse_settings(self.settings.read_text())
        return {"SCCACHE_DIR": str(self.folder)} if self.folder else {}


@dataclass
class Session:
    """The cache during one build.

    ``variables`` are for cargo's environment and hold no secret; ``folder`` is the disk level, which the server writes.
    After the build ``usage`` has the counts; ``warnings`` report a configured cache that does not work, or not wholly;
    ``shared_down`` its shared level.
    """

    variables: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    usage: Usage | None = None
    version: str = ""
    shared_down: bool = False
    warnings: list[str] = field(default_factory=list)
    log: IO[str] | None = None
    prefix: tuple[str, ...] = ()

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` with the server around it, for the build's sandbox."""
        return [*self.prefix, *argv]

    def warn(self, text: str) -> None:
        self.warnings.append(f"compile cache: {text}")
        self.write(text)

    def write(self, text: str) -> None:
        if self.log:
            self.log.write(f"compile cache: {text}\n")


@contextmanager
def session(
    cache: Cache | None, environment: Mapping[str, str], log: IO[str], *, scratch: Path, shared: bool, sandboxed: bool
) -> Iterator[Session]:
    """The cache for a build. Without one, or with a broken one, the session has no variables.

    ``environment`` is the compile's. ``scratch`` is a folder that the sandbox can write, at the same path; its own
    path is short, since it holds sockets. ``shared``: the build may use the shared level. ``sandboxed``: it runs
    in a sandbox, from which only a Redis can be reached.
    """
    current = Session(log=log)
    settings = _usable(cache, environment, current)
    if cache is None or settings is None:
        yield current
        return
    folder = scratch / "sccache"
    folder.mkdir()
    (folder / "run").write_text(_RUN)
    current.prefix = ("sh", str(folder / "run"), str(cache.program))
    current.variables = {
        "RUSTC_WRAPPER": str(cache.program),
        # For the wrapper of nvcc.
        "MISTRALRS_RPM_SCCACHE": str(cache.program),
        "SCCACHE_IGNORE_SERVER_IO_ERROR": "1",
        "SCCACHE_SERVER_UDS": str(folder / "socket"),
        "SCCACHE_IDLE_TIMEOUT": str(IDLE),
        **{name: settings[name] for name in _INSIDE if name in settings},
    }
    with _shared_level(settings if shared else {}, folder, current, sandboxed=sandboxed):
        yield current
    _read_counts(folder, current)


def _usable(cache: Cache | None, environment: Mapping[str, str], current: Session) -> dict[str, str] | None:
    """The settings of a cache that can be used; None for another one. Creates its disk level."""
    if cache is None:
        return None
    try:
        settings = cache.read()
        Redis.of(settings)
        if settings.get("SCCACHE_DIR"):
            current.folder = Path(settings["SCCACHE_DIR"])
            current.folder.mkdir(parents=True, exist_ok=True)
    except (OSError, PipelineError) as error:
        current.warn(f"its settings cannot be used ({error}); compiling without it")
        return None
    try:
        current.version = _version(cache.program, environment)
    except (OSError, PipelineError, subprocess.TimeoutExpired) as error:
        current.warn(f"it did not start ({_reason(error)}); compiling without it")
        return None
    return settings


@contextmanager
def _shared_level(settings: Mapping[str, str], folder: Path, current: Session, *, sandboxed: bool) -> Iterator[None]:
    """Provide the settings' shared level while the block runs: a Redis by the relay, others without a sandbox only."""
    alone = "going on with the disk alone"
    if redis := Redis.of(settings):
        relay = Relay(redis, folder / "relay")
        try:
            relay.start()
        except (OSError, PipelineError) as error:
            current.shared_down = True
            current.warn(f"its shared level cannot be used ({reason_of(error)}); {alone}")
        else:
            current.variables |= {
                "SCCACHE_MULTILEVEL_CHAIN": "disk,redis",
                # sccache takes the path of such a URL, and requires a host in it.
                "SCCACHE_REDIS_ENDPOINT": f"unix://localhost{relay.path}",
                **{name: settings[name] for name in _OF_REDIS if name in settings},
            }
        try:
            yield
        finally:
            relay.stop()
        if relay.lost:
            current.shared_down = True
            current.warn(f"its shared level was lost during the build ({relay.lost}); {alone}")
        if relay.refused:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(relay.refused.items()))
            current.warn(f"the build sent requests to the shared level that sccache does not send: {reasons}")
        return
    if level := other_level(settings):
        if sandboxed:
            current.shared_down = True
            current.warn(f"its shared level, {level}, cannot be reached from a sandbox; {alone}")
        else:
            file = folder / "shared.env"
            file.touch(mode=0o600)
            file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    yield


def _read_counts(folder: Path, current: Session) -> None:
    """Record the counts, and warn of a server that did not start or that was lost."""
    if (folder / "shared.env").exists() and (folder / "started").exists():
        current.shared_down = True
        reason = _line(read_bounded(folder / "shared", _MOST))
        current.warn(f"its shared level cannot be used ({reason}); going on with the disk alone")
    if (folder / "failed").exists():
        current.warn(f"it did not start ({_line(read_bounded(folder / 'started', _MOST))}); compiling without it")
        return
    try:
        current.usage = parse_usage(read_bounded(folder / "counts.json", _MOST))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        reason = _line(read_bounded(folder / "lost", _MOST))
        current.warn(f"it was lost during the build ({reason}); the build did not need it")
    else:
        current.write(current.usage.summary)


def read_bounded(path: Path, limit: int) -> str:
    """At most ``limit`` bytes of a regular file that a sandbox may have written; "" for anything else."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return stream.read(limit).decode(errors="replace")
    return ""


def _version(program: Path, environment: Mapping[str, str]) -> str:
    words = [str(program), "--version"]
    done = subprocess.run(  # noqa: S603  argv is a list; the environment is this alone
        words, env=dict(environment), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", timeout=60, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise CommandFailed(words, done.returncode, done.stdout, done.stderr)
    return done.stdout.split()[-1] if done.stdout.split() else ""


def _reason(error: Exception) -> str:
    return _line(error.stderr if isinstance(error, CommandFailed) else str(error))


def _line(output: str) -> str:
    """The line that names the reason: sccache adds its context and a backtrace."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "no output")[:300]
