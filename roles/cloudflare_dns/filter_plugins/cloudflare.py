"""What the records of a name are to be, and what an answer of Cloudflare's API means.

Rules:

1. An address is written as Cloudflare writes it, so that equal ones compare equal.
2. What cannot be kept is refused before anything is written: no address, something that is none, a name outside
   the zone (the module would append the zone to it), a name that is an alias.
3. A text for the operator says what Cloudflare answered and what to do, and never holds the token.
"""

from __future__ import annotations

import ipaddress

from ansible.errors import AnsibleFilterError

PERMISSION = (
    "It needs the permission Zone, DNS, Edit for the zone {zone}"
    " (https://dash.cloudflare.com/profile/api-tokens). Set cloudflare_dns_token to such a token"
)


def dns_records(addresses, name, zone):
    """The records that the name is to have: dictionaries of C(type) and C(content)."""
    if name != zone and not name.endswith(f".{zone}"):
        raise AnsibleFilterError(f"{name} is not in the zone {zone}: mend cloudflare_dns_name or cloudflare_dns_zone")
    if not addresses:
        raise AnsibleFilterError(f"{name} is given no address: list them in cloudflare_dns_addresses")
    try:
        parsed = [ipaddress.ip_address(str(address).strip()) for address in addresses]
    except ValueError as error:
        raise AnsibleFilterError(f"{error}: mend cloudflare_dns_addresses of {name}") from error
    kinds = {4: "A", 6: "AAAA"}
    return [{"type": kinds[address.version], "content": str(address)} for address in dict.fromkeys(parsed)]


def old_addresses(found, wanted):
    """Those address records of an answer that are not among the wanted ones."""
    kept = {(record["type"], record["content"]) for record in wanted}
    return [
        {"type": record["type"], "content": record["content"]}
        for record in found
        if record["type"] in {"A", "AAAA"} and (record["type"], record["content"]) not in kept
    ]


def cloudflare_refusal(answer, zone, name=""):
    """Why the answer to reading the zones, or with C(name) its records, lets nothing be done; empty if it does."""
    status, said = int(answer.get("status", -1)), answer.get("json")
    if not isinstance(said, dict):
        return (
            f"Cloudflare's API was not reached from the controller: {answer.get('msg', f'status {status}')}."
            " Mend the way there (https_proxy in cloudflare_dns_environment, where one is needed) and run again"
        )
    if not said.get("success"):
        if status == 429:
            return f"Cloudflare answered 429 ({_errors(said)}): too many calls. Run again in five minutes"
        return f"Cloudflare refused the token: {status} ({_errors(said)}). {PERMISSION.format(zone=zone)}"
    if not name and len(said["result"]) != 1:
        return (
            f"Cloudflare shows this token no zone {zone}: the zone is another account's or misspelt"
            f" (cloudflare_dns_zone), or the token is for another zone. {PERMISSION.format(zone=zone)}"
        )
    aliases = [record["content"] for record in said["result"] if name and record["type"] == "CNAME"]
    if aliases:
        return (
            f"{name} is an alias of {aliases[0]} (CNAME), and such a name can have no address."
            " Delete that record at Cloudflare, then run again"
        )
    return ""


def cloudflare_failure(result, zone):
    """The text for a failed call of the module, or of the items of a loop."""
    failed = [item for item in result.get("results", [result]) if item.get("failed")]
    told = "; ".join(dict.fromkeys(str(item.get("msg", "")).rstrip("; ") for item in failed or [result]))
    if "Status: 401" in told or "Status: 403" in told:
        return f"The token may read the zone, but not write to it. {PERMISSION.format(zone=zone)}. {told}"
    return told


def _errors(said):
    """What an answer that is no success says, with the causes that it names."""
    errors = said.get("errors") or []
    chain = [cause for error in errors for cause in (error, *error.get("error_chain", []))]
    return ", ".join(f"{error.get('message')}, code {error.get('code')}" for error in chain) or "no reason given"


class FilterModule:
    """The filters of this role."""

    def filters(self):
        return {
            "dns_records": dns_records,
            "old_addresses": old_addresses,
            "cloudflare_refusal": cloudflare_refusal,
            "cloudflare_failure": cloudflare_failure,
        }
