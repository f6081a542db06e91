"""One error names every missing or wrong input of a play's roles, before any change."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pipeline.plan.inputs import address_fault, origin

PROJECT = Path(__file__).resolve().parents[2]


def play(tmp_path, **variables):
    touched = tmp_path / "touched"
    content = [
        {
            "name": "Try the inputs",
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"project_root": str(PROJECT), "publisher_program": str(touched), **variables},
            "pre_tasks": [{"name": "Check all inputs", "role_inputs": {"roles": ["publisher", "cuda_toolkit"]}}],
            "tasks": [
                {"name": "Touch", "ansible.builtin.file": {"path": str(touched), "state": "touch", "mode": "0644"}}
            ],
        },
    ]
    file = tmp_path / "play.yml"
    file.write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-c", "local", file],
        cwd=PROJECT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, touched.exists()


def test_one_error_names_all_wrong_inputs_of_all_roles_and_nothing_changes(tmp_path):
    status, output, touched = play(
        tmp_path,
        publisher_reserve_mib="much",
        publisher_root="{{ a_folder_that_nobody_named }}",
        cuda_toolkit_source="{{ lookup('secret', 'source', folder='/nowhere') }}",
        cuda_toolkit_components="some",
    )
    assert status != 0
    assert "nothing was changed on localhost, its inputs are wrong" in output
    assert "publisher: argument 'publisher_reserve_mib' is of type str" in output
    assert "publisher: publisher_root: 'a_folder_that_nobody_named' is undefined" in output
    assert "cuda_toolkit: cuda_toolkit_source: There is no secret source: neither the file /nowhere/source" in output
    assert "cuda_toolkit: value of cuda_toolkit_components must be one of: compiler, full, got: some" in output
    assert not touched


@pytest.mark.parametrize("empty", ["", None, []])
def test_a_required_input_that_is_empty_is_missing(tmp_path, empty):
    specs = yaml.safe_load((PROJECT / "roles/publisher/meta/argument_specs.yml").read_text())
    required = [name for name, option in specs["argument_specs"]["main"]["options"].items() if option.get("required")]
    status, output, touched = play(tmp_path, **dict.fromkeys(required, empty))
    if required:
        assert status != 0
        assert all(name in output for name in required)
    assert touched == (not required)


def test_right_inputs_let_the_play_go_on(tmp_path):
    status, output, touched = play(tmp_path, publisher_trusted_keys="/etc/hostname", publisher_keys=[])
    assert status == 0, output
    assert "changed=1" in output
    assert touched


def remote_play(tmp_path: Path, **environment: str) -> str:
    """The output of the check for a host that is reached by ssh, and for its misspelt addresses."""
    variables = {
        "site_name": "rpm lair", "site_zone": "lair.cafe", "site_addresses": ["192.0.2.1", "1.2.3", "::1"],
        "cloudflare_dns_name": "{{ site_name }}", "cloudflare_dns_zone": "{{ site_zone }}",
        "cloudflare_dns_addresses": "{{ site_addresses }}", "cloudflare_dns_token": "x",
        "channel_url": "rpm.lair.cafe", "mistralrs_url": "{{ channel_url }}",
    }  # fmt: skip
    check = {"name": "Check all inputs", "role_inputs": {"roles": ["cloudflare_dns", "mistralrs"]}}
    file = tmp_path / "play.yml"
    file.write_text(
        yaml.safe_dump([{"name": "Try", "hosts": "all", "gather_facts": False, "vars": variables, "tasks": [check]}])
    )
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "web.example.invalid,", file],
        cwd=PROJECT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    return done.stdout + done.stderr


def test_wrong_addresses_are_named_by_the_variable_that_the_operator_sets(tmp_path):
    output = remote_play(tmp_path)
    assert "nothing was changed on web.example.invalid" in output
    assert "cloudflare_dns: cloudflare_dns_name: 'rpm lair' is no host's name; set site_name" in output
    assert (
        "cloudflare_dns: cloudflare_dns_addresses: '1.2.3' is no IPv4 or IPv6 address; ::1 is no address at which"
        " others reach a host; set site_addresses"
    ) in output
    assert (
        "mistralrs: mistralrs_url: 'rpm.lair.cafe' is no URL with http:// or https:// and a host; set channel" in output
    )
    assert "ansible_host: this machine has no address for web.example.invalid: " in output


def test_a_host_that_only_ssh_knows_is_found_as_ssh_finds_it(tmp_path):
    for setting in ("HostName 127.0.0.1", "ProxyJump gate.example.invalid", "ProxyCommand nc %h %p"):
        (tmp_path / "config").write_text(f"Host web.example.invalid\n  {setting}\n")
        assert "no address for" not in remote_play(tmp_path, ANSIBLE_SSH_COMMON_ARGS=f"-F {tmp_path}/config")


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("cloudflare_dns_addresses", ["192.0.2.1", "2001:db8::1", "10.0.0.5"], ""),
        (
            "cloudflare_dns_addresses",
            ["224.0.0.1", "192.0.2.256"],
            "224.0.0.1 is no address at which .*; '192.0.2.256' is no",
        ),
        ("cache_server_address", "10.0.0.5", ""),
        ("cache_server_address", "10.0.0", "'10.0.0' is no IPv4 or IPv6 address"),
        ("cache_server_address", "forge_1.lan", ""),
        ("rpm_site_name", "https://rpm.lair.cafe", "is no"),
        ("rpm_site_name", "rpm..lair", "is no host's name"),
        ("rpm_site_url", "https://rpm.lair.cafe:8443/x", ""),
        ("rpm_site_url", "http://[::1]:80", ""),
        ("rpm_site_url", "https://rpm lair", "is no host's name"),
        ("rpm_site_url", "https://rpm.lair.cafe:x", "is no URL: "),
        ("rpm_site_url", "ftp://rpm.lair.cafe", "is no URL with http"),
        ("gitea_runner_instance", "", ""),
        ("publisher_root", "/srv/rpm", ""),
    ],
)
def test_addresses(name, value, fault):
    found = address_fault(name, value)
    assert re.search(fault, found) if fault else not found


def test_the_variable_behind_an_input():
    variables = {
        "a": "{{ b }}",
        "b": ["{{ c }}"],
        "c": 1,
        "d": "{{ lookup('secret', c) }}",
        "e": "{{ b }}{{ c }}",
        "f": "{{ f }}",
    }
    assert [origin(name, variables, set("abcdef")) for name in "abcdefg"] == ["c", "c", "c", "d", "e", "f", "g"]
