"""Folders, addresses and the hosts of the inventories."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[2]
STATE = PROJECT / ".local/molecule"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mistralrs-rpm")
INVENTORY = PROJECT / "molecule/inventory"

BRIDGE = "mrpm0"
CONTROLLER = "10.203.43.1"
NETWORK = f"{CONTROLLER}/24"
ZONE = "lair.test"

PIDS = STATE / "pids"
LOGS = STATE / "logs"
WWW = STATE / "www"
CA = STATE / "ca.pem"
PEBBLE_ROOT = STATE / "pebble-root.pem"
SSH_CONFIG = STATE / "ssh_config"
KEY = STATE / "id_ed25519"
KNOWN_HOSTS = STATE / "known_hosts"


@dataclass(frozen=True)
class Host:
    """A test host of an inventory."""

    name: str
    address: str
    platform: str

    @property
    def fqdn(self) -> str:
        return f"{self.name}.{ZONE}"


def hosts(folder: Path = INVENTORY) -> dict[str, Host]:
    """The hosts of all inventories that have a platform; ValueError if two share a name or an address."""
    found: dict[str, Host] = {}
    for file in sorted(folder.glob("*.yml")):
        for name, facts in _hosts_of(yaml.safe_load(file.read_text()) or {}):
            if "molecule_platform" not in facts:
                continue
            host = Host(name, str(facts["ansible_host"]), str(facts["molecule_platform"]))
            taken = [other.name for other in found.values() if name == other.name or host.address == other.address]
            if taken:
                raise ValueError(f"{file}: {name} has the name or the address of {taken[0]}")
            found[name] = host
    return found


def _hosts_of(group: dict) -> list[tuple[str, dict]]:
    pairs = []
    for key, value in group.items():
        if key == "hosts":
            pairs += [(name, facts or {}) for name, facts in (value or {}).items()]
        elif key != "vars" and isinstance(value, dict):
            pairs += _hosts_of(value)
    return pairs
