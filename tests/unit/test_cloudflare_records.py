"""The records of a name at Cloudflare, and the messages when they cannot be written."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from ansible.errors import AnsibleFilterError

FILE = Path(__file__).resolve().parents[2] / "roles/cloudflare_dns/filter_plugins/cloudflare.py"
cloudflare = ModuleType("cloudflare_filters")
SourceFileLoader(cloudflare.__name__, str(FILE)).exec_module(cloudflare)
NAME, ZONE = "rpm.lair.test", "lair.test"
FORBIDDEN = "API request not authenticated; Status: 403; Method: POST; Error details: code: 10000; "


def record(kind: str, content: str) -> dict[str, str]:
    return {"type": kind, "content": content}


def answer(status: int, **more: object) -> dict[str, object]:
    return {"status": status, "json": {"success": status == 200, "errors": [], "result": None} | more}


def test_addresses_are_written_as_cloudflare_writes_them():
    records = cloudflare.dns_records(["192.0.2.1", " 2001:DB8:0::1 ", "2001:db8::1"], NAME, ZONE)
    assert records == [record("A", "192.0.2.1"), record("AAAA", "2001:db8::1")]


@pytest.mark.parametrize(
    ("addresses", "name", "message"),
    [
        ([], NAME, "rpm.lair.test has no address"),
        (
            ["192.0.2.300"],
            NAME,
            "'192.0.2.300' does not appear to be an IPv4 or IPv6 address: correct cloudflare_dns_addr",
        ),
        (["192.0.2.1"], "rpm.other.test", "rpm.other.test is not in the zone lair.test"),
        (["192.0.2.1"], "rpmlair.test", "rpmlair.test is not in the zone lair.test"),
    ],
)
def test_invalid_records_are_refused(addresses, name, message):
    with pytest.raises(AnsibleFilterError, match=message):
        cloudflare.dns_records(addresses, name, ZONE)


def test_only_unwanted_addresses_are_stale():
    found = [
        record("A", "192.0.2.1"),
        record("A", "192.0.2.2"),
        record("AAAA", "2001:db8::2"),
        record("TXT", "192.0.2.2"),
    ]
    wanted = [record("A", "192.0.2.1")]
    assert cloudflare.stale_addresses(found, wanted) == [record("A", "192.0.2.2"), record("AAAA", "2001:db8::2")]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ({"status": -1, "msg": "timed out"}, "The controller cannot reach Cloudflare's API: timed out"),
        (
            answer(
                400,
                errors=[
                    {
                        "code": 6003,
                        "message": "Invalid request headers",
                        "error_chain": [{"code": 6111, "message": "Invalid format for Authorization header"}],
                    }
                ],
            ),
            "400 (Invalid request headers, code 6003, Invalid format for Authorization header, code 6111)",
        ),
        (
            answer(403, errors=[{"code": 9109, "message": "Invalid access token"}]),
            "403 (Invalid access token, code 9109)",
        ),
        (answer(429, errors=[]), "answered 429 (no reason given): too many calls"),
        (answer(200, result=[]), "The token has no access to a zone lair.test"),
    ],
)
def test_a_refusal_names_its_remedy(response, message):
    assert message in cloudflare.cloudflare_refusal(response, ZONE)


def test_an_accessible_zone_is_no_refusal():
    assert cloudflare.cloudflare_refusal(answer(200, result=[{"id": "1"}]), ZONE) == ""
    assert cloudflare.cloudflare_refusal(answer(200, result=[]), ZONE, NAME) == ""


def test_an_alias_is_refused():
    response = answer(200, result=[record("CNAME", "old.test")])
    assert "rpm.lair.test is an alias of old.test (CNAME)" in cloudflare.cloudflare_refusal(response, ZONE, NAME)


def test_a_read_only_token_is_reported_once_for_all_items():
    result = {"failed": True, "results": [{"failed": True, "msg": FORBIDDEN}, {"failed": True, "msg": FORBIDDEN}, {}]}
    message = cloudflare.cloudflare_failure(result, ZONE)
    assert message.startswith(
        "The token can read the zone, but not write to it. It needs the permission Zone, DNS, Edit"
    )
    assert message.count("Status: 403") == 1
    assert cloudflare.cloudflare_failure({"failed": True, "msg": "a bad value"}, ZONE) == "a bad value"
