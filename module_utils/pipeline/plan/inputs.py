"""The inputs of roles beyond their types: addresses, and the variable that an operator sets for one.

Rules:

1. An address is compared as text. Only a host that Ansible is to reach has to have one here: other names may be known
   on the hosts alone, or not before the DNS records are made.
2. An input of a role often has its value from a variable of the project. An error names that one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..base.text import shown

NAME = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?)+\Z")
PUBLIC = frozenset({"cloudflare_dns_addresses"})
HOSTS = frozenset({"cache_server_address", "publisher_client_address", "rpm_site_name", "cloudflare_dns_name"})
SITES = frozenset({"publisher_base_url", "rpm_site_url", "mistralrs_url", "gitea_runner_instance"})


def address_fault(name: str, value: object) -> str:
    """Why the value of a role's input is no address of the kind that it takes; "" if it is, or if it takes none."""
    if name in PUBLIC and isinstance(value, list):
        return "; ".join(filter(None, (public_fault(str(one)) for one in value)))
    if not isinstance(value, str) or not value:
        return ""
    if name in HOSTS:
        return host_fault(value)
    if name in SITES:
        return site_fault(value)
    return ""


def public_fault(text: str) -> str:
    """Why ``text`` is no address that a name can have in the DNS."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return f"{shown(text, 80)!r} is no IPv4 or IPv6 address"
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local:
        return f"{text} is no address at which others reach a host"
    return ""


def host_fault(text: str) -> str:
    """Why ``text`` is neither a host's name nor an address."""
    if re.fullmatch(r"[\d.]+|.*:.*", text):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return f"{shown(text, 80)!r} is no IPv4 or IPv6 address"
        return ""
    return "" if NAME.match(text) else f"{shown(text, 80)!r} is no host's name"


def site_fault(text: str) -> str:
    """Why ``text`` is no URL of a site."""
    try:
        site = urlsplit(text)
        port, host = site.port, site.hostname
    except ValueError as error:
        return f"{shown(text, 80)!r} is no URL: {error}"
    if site.scheme not in ("http", "https") or not host or port == 0:
        return f"{shown(text, 80)!r} is no URL with http:// or https:// and a host"
    return host_fault(host)


def origin(name: str, variables: Mapping[str, Any], known: Collection[str]) -> str:
    """The variable that an operator sets for ``name``: while its value is a template of one known, that one."""
    seen = {name}
    while True:
        raw = str(variables.get(name, ""))
        used = {word for word in re.findall(r"\w+", raw) if word in known} if "{{" in raw else set()
        if len(used) != 1 or used & seen or re.search(r"hostvars|lookup", raw):
            return name
        (name,) = used
        seen.add(name)
