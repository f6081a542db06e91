"""Invalid or missing variables of a builder or of its shared cache fail before any change of a host.

Each case runs the role's preflight on this machine; all of them run in one run of Ansible.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
RUNNER = {"builder_runner": True, "gitea_runner_instance": "https://git.example.org", "gitea_runner_token": "sesame"}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "valid": ({}, ""),
    "valid with a runner": (RUNNER, ""),
    "root builds": ({"builder_user": "root"}, 'builder_user ("root") is a dedicated account, not root'),
    "no account builds": ({"builder_user": ""}, 'builder_user ("") is a dedicated account, not root'),
    "no absolute path": ({"builder_root": "builder"}, 'builder_root ("builder") is an absolute path'),
    "a CUDA source": (
        {"cuda_toolkit_source": "cargo"},
        "must be one of: auto, wheels, system, dnf",
    ),
    "CUDA's components": (
        {"cuda_toolkit_components": "some"},
        "cuda_toolkit_components must be one of",
    ),
    "a Rust source": ({"rust_toolchain_source": "rustup"}, "rust_toolchain_source must be one of: dist, system"),
    "Rust's version": ({"rust_toolchain_version": ["1.95.0"]}, "rust_toolchain_version"),
    "a Rust without pins": ({"rust_toolchain_version": "1.0.0"}, "rust_toolchain_version 1.0.0"),
    "a CUDA without pins": (
        {"builder_cuda_versions": ["13.0", "14.9"], "cuda_toolkit_source": "wheels"},
        "CUDA 14.9 is not available",
    ),
    "an sccache without pins": ({"compile_cache_version": "0.1"}, "compile_cache_version 0.1"),
    "a shared level": ({"compile_cache_shared": "nfs"}, "compile_cache_shared must be one of: none, redis, s3, webdav"),
    "an incomplete shared level": ({"compile_cache_shared": "redis"}, "needs compile_cache_endpoint"),
    "an incomplete S3": (
        {"compile_cache_shared": "s3", "compile_cache_endpoint": "https://s3.example.org"},
        "needs compile_cache_endpoint and compile_cache_bucket",
    ),
    "a runner without an instance": ({"builder_runner": True}, "missing required arguments: gitea_runner_instance"),
    "a runner without a token": (RUNNER | {"gitea_runner_token": ""}, "gitea_runner_token is empty"),
    "a runner's capacity": (RUNNER | {"gitea_runner_capacity": "many"}, "gitea_runner_capacity"),
}
# Addresses that need no TLS. A host name may resolve to any address, whatever its prefix.
PRIVATE = (
    "10.0.0.5", "127.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.1.1", "169.254.1.1", "100.64.0.1", "100.127.0.1",
    "::1", "fd12:3456:789a::1", "FC00::1", "fe80::1%eth0", "febf::1", "localhost",
)  # fmt: skip
PUBLIC = (
    "fcache.example.org", "fd.example.org", "fe80.example.org", "feb.example.org", "fc00", "fd00:evil.example",
    "10.evil.example", "127.0.0.1.nip.io", "192.168.example.org", "192.168.1.1.example.org", "172.16.0.1.example.org",
    "100.64.example.org", "localhost.example.org", "10.0.0", "11.0.0.1", "172.15.0.1", "172.32.0.1", "192.169.0.1",
    "100.63.0.1", "100.128.0.1", "2001:db8::1", "fec0::1", "::11",
)  # fmt: skip


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Ansible's failed result of each refused case. Accepted cases are missing."""
    folder = tmp_path_factory.mktemp("refusals")
    play = []
    cases = [(name, "builder", variables) for name, (variables, _) in CASES.items()]
    for address in (*PRIVATE, *PUBLIC):
        users = [{"name": "builders", "password": "sesame"}]
        cases.append((address, "cache_server", {"cache_server_address": address, "cache_server_users": users}))
    for name, called, variables in cases:
        role = {"ansible.builtin.include_role": {"name": called, "tasks_from": "preflight"}, "vars": variables}
        defaults = {"builder_root": f"{folder}/builder", "gitea_runner_home": f"{folder}/runner"}
        note = {"refused": "{{ refused | default({}) | combine({case: ansible_failed_result}) }}"}
        play.append({
            "vars": defaults | {"case": name},
            "block": [role],
            "rescue": [{"ansible.builtin.set_fact": note}],
        })  # fmt: skip
    file = folder / "refused.json"
    play.append({"ansible.builtin.copy": {"content": "{{ refused | to_json }}", "dest": str(file), "mode": "0600"}})
    facts = ["!all", "!min", "distribution", "pkg_mgr", "platform"]
    book = [{"hosts": "localhost", "connection": "local", "gather_facts": True, "gather_subset": facts, "tasks": play}]
    (folder / "play.yml").write_text(json.dumps(book))
    words = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", folder / "play.yml"]
    environment = os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
    done = subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sesame" not in done.stdout + done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["play.yml", "refused.json"], (
        "the preflight creates no files"
    )
    return json.loads(file.read_text())


@pytest.mark.parametrize("case", CASES)
def test_the_error_names_the_invalid_variable(refused: dict[str, Any], case: str) -> None:
    _, message = CASES[case]
    if not message:
        assert case not in refused, refused.get(case)
    else:
        assert message in json.dumps(refused[case]).replace('\\"', '"')


def test_a_cache_without_tls_requires_a_private_address(refused: dict[str, Any]) -> None:
    assert not [address for address in PRIVATE if address in refused]
    for address in PUBLIC:
        assert f'cache_server_address ("{address}"), a private address unless both' in refused[address]["msg"]
