"""The shared level of the compile cache, as a build reaches it.

Rules:

1. Only a build of trust ``release`` uses it: what another one stored, a release would take up.
2. A sandbox reaches a Redis through a relay (relay), and no other kind: requests to S3 and WebDAV carry signatures or
   headers that only the holder of the password can make.
3. The build goes on with the disk alone where the shared level does not serve, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..base.errors import PipelineError
from .compile_cache import LOCAL
from .redis import Redis, reason_of
from .relay import Relay

_NAMES = ("SCCACHE_REDIS_KEY_PREFIX", "SCCACHE_REDIS_TTL", "SCCACHE_REDIS_EXPIRATION")
"""The settings that a sandbox may read: those of the disk level, and of the entries' names."""

_ALONE = "going on with the disk alone"
_OTHERS = {"s3": "SCCACHE_BUCKET", "webdav": "SCCACHE_WEBDAV_ENDPOINT"}


def other_level(settings: Mapping[str, str]) -> str:
    """The shared level in the settings that is no Redis, "s3" or "webdav"; "" if there is none.

    No sandbox reaches it: its requests carry signatures or headers that only the holder of the password can make.
    """
    return next((level for level, name in _OTHERS.items() if settings.get(name)), "")


@dataclass
class Reached:
    """The compile cache as a build reaches it: its ``settings``, None without a cache.

    After the build ``warnings`` and ``down`` report a shared level that did not work, or not wholly.
    """

    settings: dict[str, str] | None
    warnings: list[str] = field(default_factory=list)
    down: bool = False

    def warn(self, log: IO[str], text: str) -> None:
        self.warnings.append(f"compile cache: {text}")
        log.write(f"compile cache: {text}\n")


@contextmanager
def reached(
    settings: Mapping[str, str] | None, place: Path, inside: Path, log: IO[str], *, release: bool, protected: bool
) -> Iterator[Reached]:
    """Provide the settings' shared level while a build runs: a Redis by a relay, others without a sandbox only.

    The relay's socket is at ``place``, which the build sees at ``inside``. Only a ``release`` has a shared level;
    ``protected``: it runs in a sandbox.
    """
    found = Reached(None if settings is None else {name: settings[name] for name in LOCAL if name in settings})
    if settings is None or found.settings is None or not release:
        yield found
        return
    level = other_level(settings)
    if level and not protected:
        found.settings = dict(settings)
    elif level:
        found.down = True
        found.warn(log, f"its shared level, {level}, cannot be reached from a sandbox; {_ALONE}")
    relay = _relay(settings, place, found, log)
    if relay:
        found.settings |= {
            "SCCACHE_MULTILEVEL_CHAIN": "disk,redis",
            # sccache takes the path of such a URL, and requires a host in it.
            "SCCACHE_REDIS_ENDPOINT": f"unix://localhost{inside}",
            **{name: settings[name] for name in _NAMES if name in settings},
        }
    try:
        yield found
    finally:
        if relay:
            relay.stop()
            _report(relay, found, log)


def _relay(settings: Mapping[str, str], place: Path, found: Reached, log: IO[str]) -> Relay | None:
    """A relay that serves the settings' Redis; None without one, or with a warning where it cannot be used."""
    try:
        redis = Redis.of(settings)
        if redis is None:
            return None
        relay = Relay(redis, place)
        relay.start()
    except (OSError, PipelineError) as error:
        found.down = True
        found.warn(log, f"its shared level cannot be used ({reason_of(error)}); {_ALONE}")
        return None
    return relay


def _report(relay: Relay, found: Reached, log: IO[str]) -> None:
    if relay.lost:
        found.down = True
        found.warn(log, f"its shared level was lost during the build ({relay.lost}); {_ALONE}")
    if relay.refused:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(relay.refused.items()))
        found.warn(log, f"the build sent requests to its shared level that sccache does not send: {reasons}")
