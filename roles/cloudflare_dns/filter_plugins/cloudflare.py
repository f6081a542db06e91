"""The records that a name requires, and what an answer of Cloudflare's API means.

Rules:

1. An address is written as Cloudflare writes it, so that equal addresses compare equal.
2. Invalid input fails before anything is written: no address, an invalid address, a name outside the zone (the module
   would append the zone to it), a name that is an alias.
3. A message quotes Cloudflare's answer and says what to do next, and never contains the token.
"""

from __future__ import annotations

import ipaddress

from ansible.errors import AnsibleFilterError

PERMISSION = (
    "It needs the permission Zone, DNS, Edit for the zone {zone}"
    " (https://dash.cloudflare.com/profile/api-tokens). Set cloudflare_dns_token to such a token"
)


def dns_records(addresses, name, zone):
    """The address records of the name: dictionaries of C(type) and C(content), without duplicates."""
    if name != zone and not name.endswith(f".{zone}"):
        raise AnsibleFilterError(f"{name} is not in the zone {zone}: correct cloudflare_dns_name or _zone")
    if not addresses:
        raise AnsibleFilterError(f"{name} has no address: list its addresses in cloudflare_dns_addresses")
    try:
        parsed = [ipaddress.ip_address(str(address).strip()) for address in addresses]
    except ValueError as error:
        raise AnsibleFilterError(f"{error}: correct cloudflare_dns_addresses of {name}") from error
    kinds = {4: "A", 6: "AAAA"}
    return [{"type": kinds[address.version], "content": str(address)} for address in dict.fromkeys(parsed)]


def stale_addresses(found, wanted):
    """The address records among C(found) that are not in C(wanted)."""
    kept = {(record["type"], record["content"]) for record in wanted}
    return [
        {"type": record["type"], "content": record["content"]}
        for record in found
        if record["type"] in {"A", "AAAA"} and (record["type"], record["content"]) not in kept
    ]


def cloudflare_refusal(response, zone, name=""):
    """Why the response to reading the zones, or with C(name) its records, forbids going on; empty if it does not."""
    status, answer = int(response.get("status", -1)), response.get("json")
    if not isinstance(answer, dict):
        return (
            f"The controller cannot reach Cloudflare's API: {response.get('msg', f'status {status}')}."
            " Repair the connection (https_proxy in cloudflare_dns_environment, if it needs a proxy) and run again"
        )
    if not answer.get("success"):
        if status == 429:
            return f"Cloudflare answered 429 ({_errors(answer)}): too many calls. Run again in five minutes"
        return f"Cloudflare refused the token: {status} ({_errors(answer)}). {PERMISSION.format(zone=zone)}"
    if not name and len(answer["result"]) != 1:
        return (
            f"The token has no access to a zone {zone}: the zone belongs to another account or is misspelt"
            f" (cloudflare_dns_zone), or the token is for another zone. {PERMISSION.format(zone=zone)}"
        )
    aliases = [record["content"] for record in answer["result"] if name and record["type"] == "CNAME"]
    if aliases:
        return (
            f"{name} is an alias of {aliases[0]} (CNAME), and an alias cannot have addresses."
            " Delete that record at Cloudflare, then run again"
        )
    return ""


def cloudflare_failure(result, zone):
    """The message for a failed call of the module, or for the failed items of a loop; equal messages appear once."""
    failed = [item for item in result.get("results", [result]) if item.get("failed")]
    message = "; ".join(dict.fromkeys(str(item.get("msg", "")).rstrip("; ") for item in failed or [result]))
    if "Status: 401" in message or "Status: 403" in message:
        return f"The token can read the zone, but not write to it. {PERMISSION.format(zone=zone)}. {message}"
    return message


def _errors(answer):
    """The errors of an unsuccessful answer, with their causes."""
    errors = answer.get("errors") or []
    chain = [cause for error in errors for cause in (error, *error.get("error_chain", []))]
    return ", ".join(f"{error.get('message')}, code {error.get('code')}" for error in chain) or "no reason given"


class FilterModule:
    """The filters of this role."""

    def filters(self):
        return {
            "dns_records": dns_records,
            "stale_addresses": stale_addresses,
            "cloudflare_refusal": cloudflare_refusal,
            "cloudflare_failure": cloudflare_failure,
        }
