"""The test hosts and their repositories come from the inventories and the roles."""

from __future__ import annotations

from pathlib import Path

import mirror
import pytest
import settings
import stand_in
import yaml

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def roles(tmp_path: Path) -> Path:
    for name, text in {
        "one": "__one_packages: [nginx, {name: gcc}]\n__one_other: [not-a-package]\n",
        "two": '__two_packages: nginx\n__two_more_packages: ["{{ two_version }}", git]\n',
    }.items():
        (tmp_path / name / "vars").mkdir(parents=True)
        (tmp_path / name / "vars/debian.yml").write_text(text)
    return tmp_path


def test_the_packages_are_those_of_the_roles(roles):
    assert mirror.package_names("debian", roles) == ["gcc", "git", "nginx"]
    assert mirror.package_names("redhat", roles) == []


def test_pins_have_the_format_of_sha256sum():
    digest = "0" * 64
    assert mirror.pinned(f"# a comment\n{digest}  a.tar.xz\n{digest} *b.tar.xz\n") == {
        "a.tar.xz": digest,
        "b.tar.xz": digest,
    }


def test_rusts_archives_come_from_rustups_server_else_from_the_roles_default(tmp_path, monkeypatch):
    (tmp_path / "defaults").mkdir()
    (tmp_path / "defaults/main.yml").write_text("rust_toolchain_url: https://rust.example.org/dist\n")
    monkeypatch.delenv("RUSTUP_DIST_SERVER", raising=False)
    assert mirror.rust_archives(tmp_path) == "https://rust.example.org/dist"
    monkeypatch.setenv("RUSTUP_DIST_SERVER", "https://mirror.example.org")
    assert mirror.rust_archives(tmp_path) == "https://mirror.example.org/dist"


def test_the_name_of_a_part_changes_with_its_inputs():
    assert mirror.digest(["a"]) == mirror.digest(["a"])
    assert mirror.digest(["a"]) != mirror.digest(["b"])


def test_fedoras_names_are_sorted_and_each_folder_of_files_has_a_row():
    table = yaml.safe_load(stand_in.FEDORA_TABLE.read_text())
    assert list(table) == sorted(table)
    assert {folder.name for folder in stand_in.FEDORA_FILES.iterdir() if folder.is_dir()} <= set(table)


def test_a_debian_package_is_carried_once_and_never_if_the_tree_has_it():
    table = {"git": ["git", "git-man"], "git-core": ["git"], "python3": ["python3"]}
    assert stand_in.owners(table, {"python3"}) == {"git": "git", "git-man": "git"}


def test_an_rpm_requires_the_rpms_of_its_dependencies():
    status = """Package: g++
Version: 4:15
Depends: gcc (= 15), libstdc++-dev (>= 1)

Package: libstdc++-dev
Depends: libc6-dev

Package: gcc
Pre-Depends: base
Depends: cpp | other-cpp, binutils (>= 2)
"""
    needs = stand_in.dependencies(status)
    assert needs["gcc"] == {"base", "cpp", "other-cpp", "binutils"}
    owner = {"g++": "gcc-c++", "gcc": "gcc", "binutils": "binutils", "unrelated": "unrelated"}
    assert stand_in.required(["g++"], owner, needs) == {"gcc-c++", "gcc", "binutils"}


def test_every_host_of_the_inventories_has_a_name_an_address_and_a_platform():
    found = settings.hosts()
    assert {host.platform for host in found.values()} == {"debian-12", "fedora-43"}
    assert all(host.address.startswith("10.203.43.") for host in found.values())


def test_two_hosts_with_one_address_are_an_error(tmp_path):
    hosts = {name: {"ansible_host": "192.0.2.1", "molecule_platform": "debian-12"} for name in ("one", "two")}
    (tmp_path / "x.yml").write_text(yaml.safe_dump({"all": {"children": {"molecule": {"hosts": hosts}}}}))
    with pytest.raises(ValueError, match="two has the name or the address of one"):
        settings.hosts(tmp_path)
