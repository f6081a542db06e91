"""The validity of the site's certificate, as clients see it.

Rules:

1. The certificate is read as clients do: by a TLS connection to the host and port of the URL, through the environment's
   proxy if there is one, and verified with the authorities that this machine trusts, or REQUESTS_CA_BUNDLE.
2. The finding fails if the certificate does not verify, cannot be read, or has less than a fifth of its lifetime
   left. It is renewed at a third, so less than a fifth means that renewal has failed for some time. Whether the newest
   one is served at all is compared on the repo host, by the role tls_certificate: ``channel.status``.
3. Lifetimes are those of the authority; no rule has a fixed number of days.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any

from ..base.environment import Proxy, proxy_of
from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Record

LEAST = 1 / 5
"""The fraction of its lifetime that must be left."""

DEADLINE = 15.0
"""Seconds in which the site must answer."""

DAY, HOUR = 86400, 3600
RENEWAL = "on the repo host read journalctl -u 'mistralrs-certificate*', or run repo_host.yml"


@dataclass(frozen=True)
class Validity(Record):
    """A certificate's validity in seconds since 1970, and its issuer."""

    begins: float
    ends: float
    issuer: str


def read(url: str) -> Validity:
    """The verified certificate of an https URL's site; PipelineError if it cannot be read or verified."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise PipelineError("only an https URL has a certificate", url, "Skip the check for this site")
    host, port = parts.hostname, parts.port or 443
    where = f"{host}:{port}"
    context = ssl.create_default_context(cafile=os.environ.get("REQUESTS_CA_BUNDLE") or None)
    if named := proxy_of(url):
        proxy = Proxy.parse(named, url)
        connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=DEADLINE, context=context)
        connection.set_tunnel(host, port, proxy.headers)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=DEADLINE, context=context)
    try:
        connection.connect()
        found: dict[str, Any] = connection.sock.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise PipelineError(
            f"it does not verify: {error.verify_message.rstrip('.')}", where, f"Renew it: {RENEWAL}"
        ) from error
    except OSError as error:
        raise PipelineError(
            f"it cannot be read: {error}", where, "Check the name's DNS record, nginx and the firewall"
        ) from error
    finally:
        connection.close()
    issuer = {key: value for part in found.get("issuer", ()) for key, value in part}
    return Validity(
        ssl.cert_time_to_seconds(str(found["notBefore"])),
        ssl.cert_time_to_seconds(str(found["notAfter"])),
        ", ".join(issuer[key] for key in ("organizationName", "commonName") if key in issuer),
    )


def judge(found: Validity | PipelineError, now: float | None = None) -> Finding:
    """The finding for the result of ``read``, or for its error."""
    if isinstance(found, PipelineError):
        return Finding.bad("certificate", found.what, "trusted", f"{found.where}: {found.remedy}")
    left = found.ends - (time.time() if now is None else now)
    lifetime = found.ends - found.begins
    return Finding.of(
        "certificate",
        f"{span(left)} of {span(lifetime)} left, by {found.issuer}",
        f"> {span(lifetime * LEAST)} left",
        fits=left > lifetime * LEAST,
        remedy=f"It was not renewed in time: {RENEWAL}",
    )


def span(seconds: float) -> str:
    """A span of time: "61 days", or "20 h" below three days."""
    return f"{seconds / DAY:.0f} days" if seconds >= 3 * DAY else f"{seconds / HOUR:.0f} h"
