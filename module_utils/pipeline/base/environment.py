"""The environment of every program that the project starts. Nothing of the caller's configuration decides a result.

Rules:

1. A program gets the variables of ``_KEPT`` as the caller has them, the fixed ones of ``_FIXED``, and those that its
   call names. Nothing else: no GIT_, CARGO_, RUST, RPM_, GNUPGHOME, TAR_OPTIONS, LANGUAGE, BASH_ENV or LD_PRELOAD.
2. HOME is no folder, and cannot become one: no ~/.gitconfig, ~/.rpmmacros, ~/.popt or ~/.curlrc is read. A call that
   needs something of the account names what it keeps: ``keep=("HOME",)``.
3. Messages are English and times are UTC. gettext reads LANGUAGE in the locale C.UTF-8 too (Gettext manual, "The
   LANGUAGE variable"), so LC_ALL alone does not do.
4. The umask is UMASK: others may read the results, and only their owner may change them. A secret's file is made with
   its own mode.
5. The variables of a proxy and of certificate authorities stay: they decide whether a server is reached, and everything
   that is downloaded is verified by digest, commit or signature, or comes from an address that the operator set.
6. ``proxies`` alone reads the variables of a proxy. Programs differ in what they read: curl, and so git and cargo, no
   HTTP_PROXY (its man page, ENVIRONMENT), Python's urllib and Ansible's own modules no all_proxy. So a program gets
   each variable in both spellings, all_proxy also as the proxy of each scheme, and this machine in no_proxy: to a proxy
   127.0.0.1 is another host. ``proxy_of`` and ``opener`` are the same for the requests of this process.

No program is started in another way: tests/unit/test_environment.py reads the code for that.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

from .errors import PipelineError

if TYPE_CHECKING:
    import urllib.request

HOME = "/dev/null"
"""The home of programs that need none. Where a folder is only missing, root's rpm makes it: on Debian its database is
there."""

UMASK = 0o022

SCHEMES = ("http", "https", "ftp")
PROXIES = tuple(spelling for name in (*SCHEMES, "all", "no") for spelling in (f"{name}_proxy", f"{name.upper()}_PROXY"))
"""Every variable of a proxy, in both spellings."""
HERE = ("localhost", "127.0.0.1", "::1")
AUTHORITIES = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH",
    "CARGO_HTTP_CAINFO", "PIP_CERT",
)  # fmt: skip
_KEPT = ("PATH", "TMPDIR")
_FIXED = {"HOME": HOME, "LC_ALL": "C.UTF-8", "TZ": "UTC"}

SSH_AGENT = ("SSH_AUTH_SOCK",)
"""What ssh needs of the caller. It finds ~/.ssh by the account and not by HOME (ssh(1), FILES)."""


def environment(
    more: Mapping[str, str] | None = None, *, keep: Sequence[str] = (), caller: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a program: the caller's variables of the rules and of ``keep``, and ``more``."""
    caller = os.environ if caller is None else caller
    kept = {name: caller[name] for name in (*_KEPT, *keep) if name in caller}
    # HOME is fixed unless it is kept.
    return {**_FIXED, **reaching(caller), **kept, **(more or {})}


def reaching(caller: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables by which a program reaches servers: proxies, each in both spellings, and authorities."""
    caller = os.environ if caller is None else caller
    found: dict[str, str] = {}
    for name, value in proxies(caller).items():
        found |= {f"{name}_proxy": value, f"{name.upper()}_PROXY": value}
    return found | {name: caller[name] for name in AUTHORITIES if name in caller}


def proxies(caller: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's proxies by scheme, ``all`` if it is set, and ``no``, what is reached without one: this machine too.

    Of two spellings the lower-case one counts. A scheme without a proxy of its own has that of ``all``; one that is set
    and empty has none. As in curl, but that HTTP_PROXY counts too.
    """
    caller = os.environ if caller is None else caller
    known = {}
    for name in (*SCHEMES, "all", "no"):
        value = caller.get(f"{name}_proxy", caller.get(f"{name.upper()}_PROXY"))
        if value is not None:
            known[name] = value.strip()
    shared = dict.fromkeys(SCHEMES, known["all"]) if known.get("all") else {}
    direct = known.get("no", "")
    if any((shared | known).get(name) for name in SCHEMES) and direct != "*":
        known["no"] = ",".join(dict.fromkeys((*filter(None, re.split(r"[\s,]+", direct)), *HERE)))
    return {**shared, **known}


def proxy_of(url: str, caller: Mapping[str, str] | None = None) -> str:
    """The proxy by which a URL is reached; "" without one: none is set, ``no_proxy`` has the host, or it is here."""
    parts, known = urlsplit(url), proxies(caller)
    host = (parts.hostname or "").lower()
    proxy = known.get(parts.scheme, "")
    if not proxy or is_here(host) or _reached_directly(host, parts.port, known.get("no", "")):
        return ""
    return proxy


def is_here(host: str) -> bool:
    """Whether a host of this name is this machine: to a proxy 127.0.0.1 is another host."""
    return host in HERE or host.startswith("127.")


def _reached_directly(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether ``no_proxy`` has a host: its name, a domain above it, its network, each with a port or without; or *."""
    import ipaddress  # noqa: PLC0415  every module of this project loads this file

    for entry in re.split(r"[\s,]+", no_proxy.lower()):
        if entry == "*":
            return True
        name, _, of_port = entry.rpartition(":") if re.search(r"[^:]:\d+$", entry) else (entry, "", "")
        name = name.strip("[]").removeprefix("*").removeprefix(".")
        if not name or (of_port and of_port != str(port)):
            continue
        if host == name or host.endswith(f".{name}"):
            return True
        with suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


def opener(url: str, *handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """What opens a URL by this process's own means, through the caller's proxy for it.

    PipelineError for a proxy that is no http proxy: Python's library has no other.
    """
    import urllib.request  # noqa: PLC0415  slow to import, and every module of this project loads this file

    known: dict[str, str] = {}
    if proxy := proxy_of(url):
        Proxy.parse(proxy, url)
        # Both schemes: a server may redirect from one to the other.
        known = {scheme: named for scheme, named in proxies().items() if scheme in ("http", "https") and named}
    return urllib.request.build_opener(urllib.request.ProxyHandler(known), *handlers)


@dataclass(frozen=True)
class Proxy:
    """An http proxy. ``login`` is user:password, or empty."""

    host: str
    port: int
    login: str = ""

    @classmethod
    def parse(cls, proxy: str, url: str) -> Self:
        """The proxy that a variable names for a URL; PipelineError if it is of another kind."""
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme != "http" or not parts.hostname:
            scheme = urlsplit(url).scheme
            raise PipelineError(
                f"this project's own connections cannot use a proxy of the kind {parts.scheme}",
                f"{scheme}_proxy or all_proxy in the environment, for {url}",
                "Give an http proxy, or name the host in no_proxy",
            )
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        try:
            port = parts.port or 80
        except ValueError as error:  # its text holds a piece of the password
            raise PipelineError(
                "the proxy's address cannot be read",
                f"{urlsplit(url).scheme}_proxy or all_proxy in the environment, for {url}",
                "Write http://USER:PASSWORD@HOST:PORT, with / @ : and % in the password as %2F %40 %3A %25",
            ) from error
        return cls(parts.hostname, port, login)

    @property
    def headers(self) -> dict[str, str]:
        """The header by which the proxy knows the login."""
        login = base64.b64encode(self.login.encode()).decode()
        return {"Proxy-Authorization": f"Basic {login}"} if self.login else {}

    @classmethod
    def can(cls, proxy: str) -> bool:
        """Whether this process's own connections can use a proxy."""
        return "://" not in proxy or proxy.lower().startswith("http://")
