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

No program is started in another way: tests/unit/test_environment.py reads the code for that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

HOME = "/dev/null"
"""The home of programs that need none. Where a folder is only missing, root's rpm makes it: on Debian its database is
there."""

UMASK = 0o022

PROXIES = tuple(
    spelling
    for name in ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
    for spelling in (name, name.upper())
)
AUTHORITIES = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH",
    "CARGO_HTTP_CAINFO", "PIP_CERT",
)  # fmt: skip
_KEPT = ("PATH", "TMPDIR", *PROXIES, *AUTHORITIES)
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
    return {**_FIXED, **kept, **(more or {})}
