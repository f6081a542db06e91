"""The certificate of the site that clients reach the channels by.

Rules:

1. It is read as the channels are read: by a TLS connection to the name and port of the URL, through the proxy of the
   environment if there is one, and checked against the authorities that this machine trusts, or REQUESTS_CA_BUNDLE.
2. It is wrong when it does not verify, when it cannot be read, and when less than a fifth of its own lifetime is
   left. It is renewed at a third: less than a fifth means that renewing has failed for some time.
3. Lifetimes are whatever the authority gives; no fixed number of days is in any rule.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from ..base.errors import PipelineError
from ..base.findings import Finding
from ..base.records import Record

LEAST = 1 / 5
"""The part of its lifetime that must be left."""

DEADLINE = 15.0
"""Seconds in which the site must answer."""

DAY, HOUR = 86400, 3600
RENEWAL = "on the repo host see journalctl -u mistralrs-certificate, or run repo_host.yml"


@dataclass(frozen=True)
class Validity(Record):
    """From when to when a certificate is valid (seconds since 1970), and who issued it."""

    begins: float
    ends: float
    issuer: str


def read(url: str) -> Validity:
    """The certificate of an https URL's site, once it is verified; PipelineError where that fails."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise PipelineError("only an https URL has a certificate", url, "Leave the check out for this site")
    host, port = parts.hostname, parts.port or 443
    where = f"{host}:{port}"
    proxy = "" if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https", "")
    context = ssl.create_default_context(cafile=os.environ.get("REQUESTS_CA_BUNDLE") or None)
    way = urllib.parse.urlsplit(proxy).netloc.rpartition("@")[2] or where
    connection = http.client.HTTPSConnection(way, timeout=DEADLINE, context=context)
    if way != where:
        connection.set_tunnel(host, port)
    try:
        connection.connect()
        found: dict[str, Any] = connection.sock.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise PipelineError(
            f"it does not verify: {error.verify_message.rstrip('.')}", where, f"Mend it: {RENEWAL}"
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


def check(found: Validity | PipelineError, now: float | None = None) -> Finding:
    """The finding for what ``read`` gave, or the error that it gave."""
    if isinstance(found, PipelineError):
        return Finding("certificate", found.what, "trusted", False, f"{found.where}: {found.remedy}")
    left = found.ends - (time.time() if now is None else now)
    lifetime = found.ends - found.begins
    fits = left > lifetime * LEAST
    return Finding(
        "certificate", f"{span(left)} of {span(lifetime)} left, by {found.issuer}", f"> {span(lifetime * LEAST)} left",
        fits, f"It was not renewed in time: {RENEWAL}" if not fits else "",
    )  # fmt: skip


def span(seconds: float) -> str:
    """A span of time: "61 days", or "20 h" below three days."""
    return f"{seconds / DAY:.0f} days" if seconds >= 3 * DAY else f"{seconds / HOUR:.0f} h"
