"""The filters of plugins/filter/repository.py: each channel's repository, and the .repo files."""

from __future__ import annotations

import configparser
import importlib.util
import re
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
FOLDERS = ("module_utils", "molecule", "playbooks", "roles", "scripts")
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
        "skip_if_unavailable": "0",
        "metadata_expire": "6h",
    }


def test_each_repository_that_the_project_gives_to_a_client_must_be_there() -> None:
    """Fedora's own configuration lets dnf go on without it: "Nothing to do", exit 0."""
    files = [path for folder in FOLDERS for path in tracked(folder)]
    found = [
        path
        for path in files
        if path.name.endswith((".repo", ".repo.j2"))
        or re.search(r"yum_repository:$|^.*(?<!\w)(baseurl|mirrorlist|metalink)=", path.read_text(), re.MULTILINE)
    ]
    assert [path.name for path in found] == ["repo_file.py", "hosts.py", "install.yml", "channel.repo.j2"]
    for path in found:
        text = path.read_text()
        sections = len(re.findall(r"^\[mistralrs.*\]$", text, re.MULTILINE)) if path.suffix == ".j2" else 1
        assert len(re.findall(r"^\W*skip_if_unavailable(=0|: false)\b", text, re.MULTILINE)) == sections, path


def tracked(folder: str) -> list[Path]:
    """The text files of a folder, without those of caches."""
    paths = sorted(path for path in (PROJECT / folder).rglob("*") if path.is_file())
    hidden = [path for path in paths if "/." in str(path.relative_to(PROJECT))]
    return [path for path in paths if path not in hidden and path.suffix in {"", ".j2", ".py", ".repo", ".sh", ".yml"}]


def test_a_row_decides_the_section_and_the_cache_time_of_its_repo_file() -> None:
    text = filters.repo_file(CHANNELS["unstable"], "unstable", "https://rpm.example.org", enabled=False)
    found = section(text, "mistralrs-unstable")
    assert (found["enabled"], found["metadata_expire"]) == ("0", "1h")
