"""The stand-in for Cloudflare's API: its records, its updates of DNS, and its errors, in Cloudflare's format."""

from __future__ import annotations

import cloudflare
import pytest

TOKEN = "t" * 40
RECORDS = f"/zones/{cloudflare.ZONE_ID}/dns_records"
ADDRESS = {"type": "A", "name": "rpm.lair.test", "content": "192.0.2.1", "ttl": 300}


@pytest.fixture
def notified() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def zone(notified: list[tuple[str, str]]) -> cloudflare.Zone:
    return cloudflare.Zone("lair.test", {}, lambda kind, name: notified.append((kind, name)))


def ask(zone: cloudflare.Zone, method: str, path: str, wish=None, **query: str):
    return cloudflare.answer(zone, method, path, query, wish or {})[0]


def refusal(zone: cloudflare.Zone, method: str, path: str, wish=None) -> tuple[int, dict]:
    with pytest.raises(cloudflare.Refused) as refused:
        ask(zone, method, path, wish)
    return refused.value.status, refused.value.error


def test_a_zone_is_found_by_its_name_and_no_other_is(zone):
    assert [found["id"] for found in ask(zone, "GET", "/zones", name="lair.test")] == [cloudflare.ZONE_ID]
    assert ask(zone, "GET", "/zones", name="example.org") == []


def test_a_record_lives_from_post_to_delete_and_dns_gets_each_change(zone, notified):
    made = ask(zone, "POST", RECORDS, ADDRESS)
    assert ask(zone, "GET", RECORDS, type="A", name="rpm.lair.test") == [made]
    changed = ask(zone, "PUT", f"{RECORDS}/{made['id']}", ADDRESS | {"content": "192.0.2.2"})
    assert ask(zone, "GET", f"{RECORDS}/{made['id']}") == changed
    assert ask(zone, "PATCH", f"{RECORDS}/{made['id']}", {"ttl": 60})["content"] == "192.0.2.2"
    assert ask(zone, "DELETE", f"{RECORDS}/{made['id']}") == {"id": made["id"]}
    assert ask(zone, "GET", RECORDS) == []
    assert set(notified) == {("A", "rpm.lair.test")}


def test_filters_work_in_the_newer_notation_too(zone):
    ask(zone, "POST", RECORDS, {"type": "TXT", "name": "_acme-challenge.rpm", "content": "one"})
    ask(zone, "POST", RECORDS, {"type": "TXT", "name": "_acme-challenge.rpm", "content": "two"})
    query = {"name.exact": "_acme-challenge.rpm.lair.test", "content": "two"}
    assert [record["content"] for record in zone.find(query)] == ["two"]


def test_caa_is_sent_as_parts_and_read_as_one_string(zone):
    wish = {"type": "CAA", "name": "rpm", "data": {"flags": 0, "tag": "issue", "value": "letsencrypt.org"}}
    assert ask(zone, "POST", RECORDS, wish)["content"] == '0 issue "letsencrypt.org"'


def test_answers_come_in_pages():
    items = [{"id": number} for number in range(5)]
    part, facts = cloudflare.page_of(items, {"page": "2", "per_page": "2"})
    assert part == items[2:4]
    assert facts == {"page": 2, "per_page": 2, "count": 2, "total_count": 5, "total_pages": 3}


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [(None, 400, 9106), ("Bearer short", 400, 6003), (f"Bearer {'x' * 40}", 403, 9109)],
)
def test_a_token_that_is_missing_malformed_or_wrong_is_refused(header, status, code):
    with pytest.raises(cloudflare.Refused) as refused:
        cloudflare.check_token(header, TOKEN)
    assert (refused.value.status, refused.value.error["code"]) == (status, code)
    cloudflare.check_token(f"Bearer {TOKEN}", TOKEN)


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"content": "not an address"}, 9005),
        ({"content": "2001:db8::1"}, 9005),
        ({"type": "AAAA"}, 9006),
        ({"ttl": 5}, 1004),
        ({"type": "MX"}, 1004),
        ({"content": ""}, 9005),
    ],
)
def test_an_invalid_record_is_refused_and_nothing_changes(zone, notified, wish, code):
    status, error = refusal(zone, "POST", RECORDS, ADDRESS | wish)
    assert (status, error["code"]) == (400, code)
    assert zone.records == {}
    assert notified == []


def test_the_same_record_twice_is_refused(zone):
    ask(zone, "POST", RECORDS, ADDRESS)
    assert refusal(zone, "POST", RECORDS, ADDRESS)[1]["code"] == 81058


def test_unknown_records_and_other_zones_are_refused(zone):
    assert refusal(zone, "DELETE", f"{RECORDS}/{'0' * 32}") == (
        404,
        {"code": 81044, "message": "Record does not exist."},
    )
    assert refusal(zone, "GET", f"/zones/{'a' * 32}/dns_records")[0] == 403
    assert refusal(zone, "GET", "/zones/lair.test/dns_records")[1]["code"] == 7003
    assert refusal(zone, "PUT", RECORDS)[0] == 405
