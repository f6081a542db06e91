"""The names of the repository hosts: their records at Cloudflare's stand-in, and the answers of DNS."""

from __future__ import annotations

import json

import pytest

testinfra_hosts = ["ansible://repo_host"]


@pytest.fixture
def site_name(host) -> str:
    return host.ansible.get_variables()["site_name"]


def records_of(state, name: str) -> list[dict]:
    zone = json.loads((state / "cloudflare.json").read_text())
    return [record for record in zone.values() if record["name"] == name]


def test_the_name_has_the_addresses_of_the_inventory_and_no_others(host, state, site_name):
    addresses = host.ansible.get_variables()["site_addresses"]
    found = [record["content"] for record in records_of(state, site_name) if record["type"] in {"A", "AAAA"}]
    assert sorted(found) == sorted(addresses)
    answered = host.check_output("getent ahosts %s", site_name)
    assert {line.split()[0] for line in answered.splitlines()} == set(addresses)


def test_only_the_hosts_own_account_may_get_certificates(host, state, site_name):
    (authority,) = [record["data"] for record in records_of(state, site_name) if record["type"] == "CAA"]
    account = json.loads(host.check_output("cat /etc/letsencrypt/accounts/*/dir/*/regr.json"))["uri"]
    assert authority == {"flags": 0, "tag": "issue", "value": f"letsencrypt.org; accounturi={account}"}


def test_the_records_have_the_roles_comment(state, site_name):
    assert {record["comment"] for record in records_of(state, site_name)} == {"Kept by Ansible (mistralrs-rpm)"}


def test_no_challenge_is_left(state, site_name):
    assert records_of(state, f"_acme-challenge.{site_name}") == []
