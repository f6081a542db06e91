"""The compile cache's levels: whether each answers before a build counts on it.

1. What does not answer makes a build slower, not impossible: a warning.
2. A question is what sccache itself asks first, with a short timeout. No proxy: a build gives sccache none either.
3. An account's password goes into the connection alone: no argument, no finding and no error holds it.
"""

from __future__ import annotations

import os
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..cache.compile_cache import Cache
from .downloads import without_account

TIMEOUT = 3
# The file that sccache looks for when it starts.
_PROBE = ".sccache_check"


def check_cache(level: str, reason: str, remedy: str) -> Finding:
    """One level of the compile cache; ``reason`` is why it does not serve, or ""."""
    return Finding(
        f"compile cache: {level}", reason or "answers", "answers", fits=True, remedy=remedy if reason else "",
        warning=bool(reason),
    )  # fmt: skip


def http_reason(status: int, *, anonymous: bool = True) -> str:
    """Why an answer to a question for a file that need not exist means that the store cannot be used, or ""."""
    if status in (401, 403) and not anonymous:
        return f"it refuses the account (HTTP {status})"
    if status in (401, 403):
        return f"it asks for an account (HTTP {status})"
    return f"HTTP {status}" if status >= 500 else ""


# ---------------------------------------------------------------- the edge


def check(cache: Cache) -> list[Finding]:
    """A finding for each level that the settings name, or one for what is missing."""
    slower = "The build goes on without the cache, slower"
    if not os.access(cache.program, os.X_OK):
        return [check_cache("sccache", f"none at {cache.program}", f"{slower}: playbooks/builders.yml brings it")]
    try:
        found = cache.read()
    except (OSError, PipelineError) as error:
        return [check_cache("settings", _reason(error), f"{slower}: playbooks/builders.yml writes {cache.settings}")]
    disk, shared = Path(found.get("SCCACHE_DIR", "")), "The build goes on with the disk alone, slower"
    findings = [] if not found.get("SCCACHE_DIR") else [
        check_cache("disk", disk_reason(disk), f"{slower}: let {disk} be the building account's")
    ]  # fmt: skip
    for level, answer in (("redis", redis_answer), ("s3", s3_answer), ("webdav", webdav_answer)):
        if level in shared_levels(found):
            remedy = f"{shared}: see that it runs and compile_cache_endpoint and the account are right"
            findings.append(check_cache(level, without_account(answer(found)), remedy))
    return findings


def shared_levels(settings: Mapping[str, str]) -> set[str]:
    """The levels that the settings give an address for."""
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
    """Why a Redis does not answer a PING, or ""; it is given the account first."""
    url = urllib.parse.urlsplit(settings["SCCACHE_REDIS_ENDPOINT"])
    user = settings.get("SCCACHE_REDIS_USERNAME") or urllib.parse.unquote(url.username or "")
    password = settings.get("SCCACHE_REDIS_PASSWORD") or urllib.parse.unquote(url.password or "")
    words = [["AUTH", *([user] if user else []), password]] if password else []
    try:
        connection = socket.create_connection((url.hostname or "", url.port or 6379), timeout=TIMEOUT)
        with connection:
            if url.scheme == "rediss":
                connection = ssl.create_default_context(cafile=settings.get("SSL_CERT_FILE")).wrap_socket(
                    connection, server_hostname=url.hostname
                )
            with connection, connection.makefile("rwb") as stream:
                for word in [*words, ["PING"]]:
                    stream.write(resp(word))
                    stream.flush()
                    answer = stream.readline(512).decode(errors="replace").strip()
                    if not answer.startswith("+"):
                        return f"{url.hostname}:{url.port or 6379}: {answer.lstrip('-') or 'it says nothing'}"
    except (OSError, ValueError) as error:
        return f"{url.hostname}: {_reason(error)}"
    return ""


def resp(words: Iterable[str]) -> bytes:
    """A command in Redis's protocol (its specification, "Sending commands to a Redis server")."""
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


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
    """Why an S3 service does not answer for the bucket, or "". Nothing is signed: an account's store may refuse."""
    endpoint = settings.get("SCCACHE_ENDPOINT") or f"https://s3.{settings.get('SCCACHE_REGION', '')}.amazonaws.com"
    if "://" not in endpoint:
        endpoint = f"{'https' if settings.get('SCCACHE_S3_USE_SSL') == 'true' else 'http'}://{endpoint}"
    status, reason = _http("HEAD", f"{endpoint.rstrip('/')}/{settings['SCCACHE_BUCKET']}/", {})
    if reason or status == 404:
        return reason or f"there is no bucket {settings['SCCACHE_BUCKET']}"
    signed = bool(settings.get("AWS_ACCESS_KEY_ID"))
    return "" if signed and status in (401, 403) else http_reason(status)


def _http(method: str, url: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """The status that a server answers with, or why it does not answer. No proxy: sccache is given none either."""
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
