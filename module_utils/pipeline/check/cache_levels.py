"""The levels of the compile cache: whether each answers before a build relies on it.

Rules:

1. A level that does not answer is a warning: without it the build is slower, not impossible.
2. A request is the first one of sccache itself, with a short timeout and without a proxy: sccache gets none either.
3. A password goes into the connection alone: no argument, finding or error holds it.
"""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.text import without_account
from ..cache.compile_cache import Cache
from ..cache.redis import Redis, reason_of

TIMEOUT = 3
# The file that sccache looks for when it starts.
_PROBE = ".sccache_check"


def check_cache(level: str, reason: str, remedy: str) -> Finding:
    """One level of the compile cache; ``reason`` is why it does not serve, or ""."""
    check = f"compile cache: {level}"
    return Finding.warn(check, reason, "answers", remedy) if reason else Finding.ok(check, "answers", "answers")


def http_reason(status: int, *, anonymous: bool = True) -> str:
    """Why a store with this answer to a request for a file cannot be used, or ""; the file need not exist."""
    if status in (401, 403) and not anonymous:
        return f"it refuses the account (HTTP {status})"
    if status in (401, 403):
        return f"it requires an account (HTTP {status})"
    return f"HTTP {status}" if status >= 500 else ""


# ---------------------------------------------------------------- the edge


def check(cache: Cache, *, sandboxed: bool = True) -> list[Finding]:
    """A finding for each level that the settings name, or one for a missing program or file.

    ``sandboxed``: builds run in a sandbox, from which a Redis can be reached and nothing else.
    """
    slower = "The build goes on without the cache, slower"
    if not os.access(cache.program, os.X_OK):
        return [check_cache("sccache", f"none at {cache.program}", f"{slower}: playbooks/builders.yml brings it")]
    try:
        found = cache.read()
    except (OSError, PipelineError) as error:
        return [check_cache("settings", _reason(error), f"{slower}: playbooks/builders.yml writes {cache.settings}")]
    findings, shared = [], "The build goes on with the disk alone, slower"
    if found.get("SCCACHE_DIR"):
        disk = Path(found["SCCACHE_DIR"])
        findings.append(check_cache("disk", disk_reason(disk), f"{slower}: let the building account own {disk}"))
    for level, answer in (("redis", redis_answer), ("s3", s3_answer), ("webdav", webdav_answer)):
        if level in shared_levels(found) and sandboxed and level != "redis":
            remedy = f"{shared}: use a Redis (cache_host), which a relay reaches, or set compile_cache_shared to none"
            findings.append(check_cache(level, "cannot be reached from the sandbox of a build", remedy))
        elif level in shared_levels(found):
            remedy = f"{shared}: check that it runs, and compile_cache_endpoint and the account"
            findings.append(check_cache(level, without_account(answer(found)), remedy))
    return findings


def shared_levels(settings: Mapping[str, str]) -> set[str]:
    """The shared levels whose address the settings hold."""
    names = {"redis": "SCCACHE_REDIS_ENDPOINT", "s3": "SCCACHE_BUCKET", "webdav": "SCCACHE_WEBDAV_ENDPOINT"}
    return {level for level, name in names.items() if settings.get(name)}


def disk_reason(folder: Path) -> str:
    """Why the cache cannot keep anything in ``folder``, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is no folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written"


def redis_answer(settings: Mapping[str, str]) -> str:
    """Why a Redis does not take the account and answer a PING, or ""."""
    try:
        if redis := Redis.of(settings):
            redis.connect(TIMEOUT).close()
    except PipelineError as error:
        return f"{error.where}: {error.what}"
    except OSError as error:
        return f"{redis.host if redis else ''}: {reason_of(error)}"
    return ""


def webdav_answer(settings: Mapping[str, str]) -> str:
    """Why a WebDAV server does not answer for a file, or ""."""
    prefix = settings.get("SCCACHE_WEBDAV_KEY_PREFIX", "").strip("/")
    url = "/".join(part for part in (settings["SCCACHE_WEBDAV_ENDPOINT"].rstrip("/"), prefix, _PROBE) if part)
    user, password = settings.get("SCCACHE_WEBDAV_USERNAME", ""), settings.get("SCCACHE_WEBDAV_PASSWORD", "")
    headers = {}
    if user or password:
        headers["Authorization"] = f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
    elif token := settings.get("SCCACHE_WEBDAV_TOKEN", ""):
        headers["Authorization"] = f"Bearer {token}"
    status, reason = _http("GET", url, headers)
    return reason or http_reason(status, anonymous=not headers)


def s3_answer(settings: Mapping[str, str]) -> str:
    """Why an S3 service does not answer for the bucket, or "". It is unsigned: a private bucket may refuse it."""
    endpoint = settings.get("SCCACHE_ENDPOINT") or f"https://s3.{settings.get('SCCACHE_REGION', '')}.amazonaws.com"
    if "://" not in endpoint:
        endpoint = f"{'https' if settings.get('SCCACHE_S3_USE_SSL') == 'true' else 'http'}://{endpoint}"
    status, reason = _http("HEAD", f"{endpoint.rstrip('/')}/{settings['SCCACHE_BUCKET']}/", {})
    if reason or status == 404:
        return reason or f"there is no bucket {settings['SCCACHE_BUCKET']}"
    signed = bool(settings.get("AWS_ACCESS_KEY_ID"))
    return "" if signed and status in (401, 403) else http_reason(status)


def _http(method: str, url: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """The status that a server answers with, or why it does not answer. No proxy, as for sccache."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(url, method=method, headers=dict(headers))  # noqa: S310
        with opener.open(request, timeout=TIMEOUT) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, ValueError) as error:
        return 0, f"{urllib.parse.urlsplit(url).netloc.rpartition('@')[2]}: {_reason(error)}"


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLError):
        return str(reason)
    return str(getattr(reason, "strerror", None) or reason)
