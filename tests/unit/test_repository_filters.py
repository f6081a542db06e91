"""The filters of plugins/filter/repository.py: each channel's repository, and the .repo files."""

from __future__ import annotations

import configparser
import importlib.util
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("repository_filters", PROJECT / "plugins/filter/repository.py")
assert _spec
assert _spec.loader
filters = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(filters)

TABLE = (PROJECT / "inventory/group_vars/all/channels.yml").read_text().replace("{{ fedora_release }}", "43")
CHANNELS = yaml.safe_load(TABLE)["channels"]
KEY = "file:///etc/pki/rpm-gpg/RPM-GPG-KEY-mistralrs"


def section(text: str, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return dict(parser[name])


def test_each_channel_has_its_repository() -> None:
    agent = {"rsh": ["ssh"], "host": "repo"}
    assert filters.repositories(CHANNELS, "/srv/rpm", agent) == {
        "stable": {"channel": "stable", "location": "/srv/rpm/fedora/43/x86_64", "agent": agent},
        "unstable": {"channel": "unstable", "location": "/srv/rpm/fedora/43/x86_64/unstable", "agent": agent},
    }


def test_a_repo_file_checks_packages_and_metadata() -> None:
    text = filters.repo_file(CHANNELS["stable"], "stable", "https://rpm.example.org")
    assert section(text, "mistralrs") == {
        "name": "mistral.rs for Fedora, stable",
        "mirrorlist": "https://rpm.example.org/fedora/43/x86_64/mirrorlist",
        "enabled": "1",
        "gpgcheck": "1",
        "repo_gpgcheck": "1",
        "gpgkey": KEY,
        "metadata_expire": "6h",
    }


def test_a_row_decides_the_section_and_the_cache_time_of_its_repo_file() -> None:
    text = filters.repo_file(CHANNELS["unstable"], "unstable", "https://rpm.example.org", enabled=False)
    found = section(text, "mistralrs-unstable")
    assert (found["enabled"], found["metadata_expire"]) == ("0", "1h")
