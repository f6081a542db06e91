"""The DNS records of repo hosts: written at Cloudflare, kept, changed and refused, by the role's own tasks.

A run takes seconds, so each run has several hosts: one for each case.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.cloudflare_site import TOKEN, Site, cloudflare

BOTH = {"A 192.0.2.1", "AAAA 2001:db8::1"}
ADDRESSES, STALE = "Publish the addresses", "Remove stale addresses"
AUTHORITY = "Publish which authority may issue certificates"


@dataclass(frozen=True)
class Run:
    """The output, the tasks that changed something for each host, and the messages of failed hosts."""

    output: str
    changed: dict[str, list[str]]
    failed: dict[str, str]


@dataclass(frozen=True)
class Role:
    """The role cloudflare_dns against a stand-in's zone."""

    project: Path
    folder: Path
    site: Site

    def run(self, hosts: dict[str, dict[str, object]], *words: str) -> Run:
        """Applies the role for hosts that do not exist: nothing connects to them. Each has its name in the zone."""
        common = {
            "cloudflare_dns_zone": "lair.test",
            "cloudflare_dns_name": "{{ inventory_hostname }}.lair.test",
            "cloudflare_dns_addresses": ["192.0.2.1", "2001:DB8::0:1"],
            "cloudflare_dns_token": TOKEN,
            "cloudflare_dns_environment": self.site.environment,
        }
        inventory, playbook = self.folder / "inventory.yml", self.folder / "play.yml"
        inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
        play = {"hosts": "all", "gather_facts": False, "become": True, "roles": ["cloudflare_dns"]}
        playbook.write_text(json.dumps([play]))
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, playbook, *words],
            cwd=self.project,
            env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_STDOUT_CALLBACK": "default"},
            capture_output=True,
            text=True,
            check=False,
        )
        changed: dict[str, list[str]] = {host: [] for host in hosts}
        failed: dict[str, str] = {}
        for task in re.split(r"^TASK \[", done.stdout, flags=re.MULTILINE)[1:]:
            for host in dict.fromkeys(re.findall(r"^changed: \[(\w+)", task, re.MULTILINE)):
                changed[host].append(task.split("]")[0].split(" : ")[-1])
            for host, text in re.findall(r"^fatal: \[(\w+).*?\]: (.*?)(?=^\w|\Z)", task, re.MULTILINE | re.DOTALL):
                failed[host] = " ".join(text.split()).replace("''", "'")
        return Run(done.stdout + done.stderr, changed, failed)


@pytest.fixture
def role(project: Path, tmp_path: Path) -> Role:
    return Role(project, tmp_path, Site(tmp_path))


def caa(account: str = "") -> str:
    return f'CAA 0 issue "letsencrypt.org{account and f"; accounturi={account}"}"'


def test_names_get_their_records_as_check_mode_predicted_and_lose_stale_ones(role):
    site, account = role.site, "https://acme.test/account/1"
    for kind, content in (("A", "192.0.2.1"), ("A", "192.0.2.2"), ("AAAA", "2001:db8::2"), ("TXT", "kept")):
        site.add(kind, "used.lair.test", content)
    for authority in ("letsencrypt.org", "other.test"):
        site.add("CAA", "used.lair.test", "", data={"flags": 0, "tag": "issue", "value": authority})
    site.add("A", "other.lair.test", "192.0.2.9")
    hosts = {"new": {}, "used": {"cloudflare_dns_account_uri": account}}
    before = site.zone.find({})

    predicted = role.run(hosts, "--check", "--diff")
    assert predicted.failed == {}, predicted.output
    assert site.zone.find({}) == before

    done = role.run(hosts, "-vvv")
    assert done.failed == {}, done.output
    assert done.changed == predicted.changed == {"new": [ADDRESSES, AUTHORITY], "used": [ADDRESSES, AUTHORITY, STALE]}
    assert TOKEN not in done.output
    assert site.of("new.lair.test") == BOTH | {caa()}
    assert site.of("used.lair.test") == BOTH | {caa(account), "TXT kept"}
    assert site.of("other.lair.test") == {"A 192.0.2.9"}

    assert role.run(hosts).changed == {"new": [], "used": []}

    moved = {
        "new": {"cloudflare_dns_authority": "", "cloudflare_dns_addresses": ["192.0.2.3"]},
        "used": {"cloudflare_dns_account_uri": "https://acme.test/account/2"},
    }
    assert role.run(moved).changed == {"new": [ADDRESSES, STALE], "used": [AUTHORITY]}
    assert site.of("new.lair.test") == {"A 192.0.2.3", caa()}
    assert site.of("used.lair.test") == BOTH | {caa("https://acme.test/account/2"), "TXT kept"}


def test_errors_name_their_cause_and_nothing_is_written(role, monkeypatch):
    add = role.site.zone.add

    def guarded(wish: dict[str, object]) -> dict[str, object]:
        if wish["name"] == "reader.lair.test":
            raise cloudflare.Refused(403, 10000, "Authentication error")
        return add(wish)

    monkeypatch.setattr(role.site.zone, "add", guarded)
    role.site.add("CNAME", "alias.lair.test", "old.lair.test")
    before = role.site.zone.find({})
    expected = {
        "unknown": ({"cloudflare_dns_token": "w" * 40}, "refused the token: 403 (Invalid access token, code 9109)"),
        "malformed": ({"cloudflare_dns_token": "short"}, "refused the token: 400 (Invalid request headers, code 6003"),
        "reader": ({}, "can read the zone, but not write to it. It needs the permission Zone, DNS, Edit"),
        "alias": ({}, "alias.lair.test is an alias of old.lair.test (CNAME)"),
        "elsewhere": ({"cloudflare_dns_zone": "test"}, "The token has no access to a zone test"),
        "outside": ({"cloudflare_dns_name": "rpm.other.test"}, "rpm.other.test is not in the zone lair.test"),
        "empty": ({"cloudflare_dns_addresses": []}, "has no address: list its addresses in cloudflare_dns_addresses"),
        "bad": ({"cloudflare_dns_addresses": ["192.0.2.300"]}, "does not appear to be an IPv4 or IPv6 address"),
        "typed": ({"cloudflare_dns_environment": 5}, "cloudflare_dns_environment"),
        "away": (
            {"cloudflare_dns_environment": {"https_proxy": "http://127.0.0.1:1"}},
            "The controller cannot reach Cloudflare's API",
        ),
    }
    done = role.run({host: variables for host, (variables, _) in expected.items()})
    for host, (_, message) in expected.items():
        assert message in done.failed.get(host, ""), (host, done.output)
    assert role.site.zone.find({}) == before
