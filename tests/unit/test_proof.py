"""The decisions of a proof: its steps, a valid .repo file, the provider's capabilities, remedies for dnf's errors."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Flavour, Package
from pipeline.channel.repo_file import ChannelRow
from pipeline.prove.proof import (
    PrimaryMetadata,
    ProofOrder,
    leftovers,
    names_in,
    parse_fingerprints,
    provider_spec,
    read_primary,
    read_repo_file,
    remedy_for,
    repo_file_name,
    steps_of,
    upstream_version,
)
from pipeline.sign.trust import signer_of

URL = "http://127.0.0.1:8643"
REPO = ChannelRow("stable", "fedora/$releasever/$basearch", "mistralrs.repo").repo_file(URL, enabled=True)


SNAPSHOT = "20261121T130000Z-0123abcd"
FLAVOURS = (Flavour("ampere", "", "8.6"), Flavour("ada", "", "8.9"), Flavour("next", "", "12.0"), Flavour("cpu", ""))


def package(version: str, name: str = "mistralrs-ada") -> Package:
    return Package(name, version, "1.fc43", "x86_64", "", "", "0" * 64, 1)


def order(*packages: Package, previous: tuple[Package, ...] = (), **more: str) -> ProofOrder:
    return ProofOrder(URL, "stable", "key.asc", packages, "client.log", previous, flavours=FLAVOURS, **more)


def steps(order: ProofOrder) -> list[str]:
    return [str(step).replace("-1.fc43.x86_64", "").replace("mistralrs-", "") for step in steps_of(order)]


def test_without_a_previous_version_a_package_is_installed_run_and_removed() -> None:
    assert [str(step) for step in steps_of(order(package("0.9.2")))] == [
        "makecache",
        "provide",
        "install mistralrs-ada-0.9.2-1.fc43.x86_64",
        "run mistralrs-ada-0.9.2-1.fc43.x86_64",
        "remove mistralrs-ada-0.9.2-1.fc43.x86_64",
    ]


def test_with_a_previous_version_a_package_is_upgraded_and_downgraded() -> None:
    assert steps(order(package("0.9.2"), previous=(package("0.9.1"),)))[2:] == [
        "install ada-0.9.1",
        "upgrade ada-0.9.2",
        "run ada-0.9.2",
        "downgrade ada-0.9.1",
        "remove ada-0.9.1",
    ]


def test_several_packages_are_installed_side_by_side_at_the_end_and_the_newest_generation_is_removed_first() -> None:
    names = ("mistralrs-ada", "mistralrs-cpu", "mistralrs-next", "mistralrs-ampere")
    assert steps(order(*(package("0.9.2", name) for name in names)))[-5:] == [
        "install next-0.9.2 ada-0.9.2 ampere-0.9.2 cpu-0.9.2",
        "run next-0.9.2",
        "remove next-0.9.2",
        "run ada-0.9.2",
        "remove ada-0.9.2 ampere-0.9.2 cpu-0.9.2",
    ]


def test_several_packages_without_a_row_in_the_flavour_table_cannot_be_ranked() -> None:
    with pytest.raises(PipelineError, match="the flavour table has no row for mistralrs-other"):
        steps_of(order(package("0.9.2"), package("0.9.2", "mistralrs-other")))


def test_a_staged_snapshot_needs_only_the_previous_packages_of_the_published_head() -> None:
    new, old = package("0.9.2"), package("0.9.1")
    staged = {"snapshot": SNAPSHOT, "path": "fedora/43/x86_64"}
    assert steps(order(new, **staged))[:2] == [f"makecache {SNAPSHOT}", "provide"]
    assert steps(order(new, previous=(old,), **staged))[:3] == ["makecache", f"makecache {SNAPSHOT}", "provide"]


def test_a_previous_version_of_another_package_is_ignored() -> None:
    other = package("0.9.1", "mistralrs-cpu")
    assert steps_of(order(package("0.9.2"), previous=(other,))) == steps_of(order(package("0.9.2")))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"snapshot": SNAPSHOT}, "repository's path below the URL is missing"),
        ({"by": "baseurl"}, "repository's path below the URL is missing"),
        ({"snapshot": "../20261121T130000Z-0123abcd", "path": "p"}, "not the id of a snapshot"),
        ({"snapshot": "1001", "path": "p"}, "not the id of a snapshot"),
    ],
)
def test_a_staged_snapshot_needs_its_id_and_the_repositorys_path(more: dict[str, str], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        steps_of(order(package("0.9.2"), **more))


def test_an_order_without_packages_is_refused() -> None:
    with pytest.raises(PipelineError, match="there is no package to prove"):
        steps_of(order())


def test_another_baseurl_leaves_every_other_line_of_a_repo_file() -> None:
    moved = read_repo_file(REPO, URL, "mistralrs.repo").at(f"{URL}/elsewhere/")
    assert read_repo_file(moved, URL, "") == dataclasses.replace(read_repo_file(REPO, URL, ""), text=moved)
    assert "mirrorlist" not in moved
    assert f"baseurl = {URL}/elsewhere/\n" in moved
    assert {"metadata_expire = 6h", "gpgcheck = 1", "repo_gpgcheck = 1"} < set(moved.splitlines())


def test_a_valid_repo_file_gives_its_id() -> None:
    assert read_repo_file(REPO, URL, "mistralrs.repo").id == "mistralrs"
    assert read_repo_file(REPO.replace("\ngpgcheck", "\npkg_gpgcheck"), f"{URL}/", "").id == "mistralrs"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\ngpgcheck=1", "\ngpgcheck=0", "does not set gpgcheck=1"),
        ("\ngpgcheck=1", "\ngpgcheck=1\npkg_gpgcheck=0", "does not set gpgcheck=1"),
        ("repo_gpgcheck=1\n", "", "does not set repo_gpgcheck=1"),
        ("gpgcheck=1\nrepo_gpgcheck=1\n", "", "does not set gpgcheck=1 and repo_gpgcheck=1"),
        ("skip_if_unavailable=0\n", "", "does not set skip_if_unavailable=0: a bad signature would go unnoticed"),
        ("skip_if_unavailable=0", "skip_if_unavailable=True", "does not set skip_if_unavailable=0"),
        ("enabled=1", "enabled=0", "enables 0 repositories"),
        ("metadata_expire", "[other]\nname", "enables 2 repositories"),
        (f"mirrorlist={URL}", "mirrorlist=http://elsewhere", "refers to http://elsewhere/fedora"),
        (
            "file:///etc/pki",
            f"{URL}/pki",
            f"takes its keys from {URL}/pki/rpm-gpg/RPM-GPG-KEY-mistralrs, not from file:",
        ),
        ("RPM-GPG-KEY-mistralrs\n", f"RPM-GPG-KEY-mistralrs,{URL}/key\n", f"mistralrs,{URL}/key, not from file:"),
        ("RPM-GPG-KEY-mistralrs\n", f"RPM-GPG-KEY-mistralrs\n  {URL}/key\n", f"mistralrs {URL}/key, not from file:"),
        ("file:///etc/pki/rpm-gpg", "file:///tmp", "takes its keys from file:///tmp/RPM-GPG-KEY-mistralrs, not"),
        ("mirrorlist", "#mirrorlist", "neither mirrorlist nor baseurl"),
        ("gpgkey", "#gpgkey", "not a .repo file|keys from nothing"),
        ("gpgcheck=1", "gpgcheck=perhaps", "not a .repo file: Not a boolean: perhaps"),
        ("[mistralrs]", "<html>", "not a .repo file"),
    ],
)
def test_a_repo_file_that_checks_too_little_or_refers_elsewhere_is_refused(old: str, new: str, message: str) -> None:
    assert old in REPO
    with pytest.raises(PipelineError, match=message) as caught:
        read_repo_file(REPO.replace(old, new, 1), URL, "the/mistralrs.repo")
    assert caught.value.where == "the/mistralrs.repo"


@pytest.mark.parametrize(("channel", "name"), [("stable", "mistralrs.repo"), ("unstable", "mistralrs-unstable.repo")])
def test_each_channel_has_its_repo_file(channel: str, name: str) -> None:
    assert repo_file_name(channel) == name


@pytest.mark.parametrize(
    ("version", "upstream"),
    [("0.9.2", "0.9.2"), ("0.8.4~rc4", "0.8.4-rc4"), ("0.9.2^20260822.143813git9e92262", "0.9.2")],
)
def test_the_binary_prints_upstreams_version(version: str, upstream: str) -> None:
    assert upstream_version(package(version)) == upstream


@pytest.mark.parametrize(
    ("requirement", "names"),
    [
        ("libc.so.6(GLIBC_2.34)(64bit)", ["libc.so.6(GLIBC_2.34)(64bit)"]),
        ("/bin/sh", ["/bin/sh"]),
        ("(systemd >= 255 if systemd)", ["systemd", "systemd"]),
        ("(libcuda.so.1()(64bit) or nvidia-driver)", ["libcuda.so.1()(64bit)", "nvidia-driver"]),
        ("((a and b) unless c(x-y) = 1:2-3)", ["a", "b", "c(x-y)"]),
    ],
)
def test_a_rich_requirement_has_several_names(requirement: str, names: list[str]) -> None:
    assert list(names_in(requirement)) == names


def test_capabilities_of_the_repository_itself_are_not_provided() -> None:
    primary = b"""<?xml version="1.0"?>
<metadata xmlns="http://linux.duke.edu/metadata/common"
 xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="2">
<package type="rpm"><name>mistralrs-ada</name><arch>x86_64</arch><version epoch="0" ver="0.9.2" rel="1.fc43"/>
 <checksum type="sha256" pkgid="YES">aa</checksum><format>
 <rpm:provides><rpm:entry name="mistralrs-ada" flags="EQ" ver="0.9.2"/></rpm:provides>
 <rpm:requires><rpm:entry name="/bin/sh"/><rpm:entry name="alternatives"/><rpm:entry name="mistralrs-common"/>
 <rpm:entry name="/usr/bin/common"/></rpm:requires>
 <file>/usr/bin/mistralrs-ada</file></format></package>
<package type="rpm"><name>mistralrs-common</name><arch>noarch</arch><version epoch="0" ver="1" rel="1"/>
 <checksum type="sha256" pkgid="YES">bb</checksum><format>
 <rpm:provides><rpm:entry name="mistralrs-common"/></rpm:provides>
 <file>/usr/bin/common</file></format></package>
</metadata>"""
    assert read_primary(primary) == PrimaryMetadata(
        {"mistralrs-ada-0.9.2-1.fc43.x86_64": "aa", "mistralrs-common-1-1.noarch": "bb"},
        {
            "mistralrs-ada-0.9.2-1.fc43.x86_64": frozenset({"/bin/sh", "alternatives"}),
            "mistralrs-common-1-1.noarch": frozenset(),
        },
    )


@pytest.mark.skipif(shutil.which("rpmspec") is None, reason="no rpmspec")
def test_rpm_reads_the_providers_spec(tmp_path: Path) -> None:
    names = {"libcudart.so.13()(64bit)", "/bin/sh", "libc.so.6(GLIBC_2.34)(64bit)", "100%sure"}
    (tmp_path / "p.spec").write_text(provider_spec(names))
    provides = subprocess.run(
        ["rpmspec", "-q", "--provides", str(tmp_path / "p.spec")], capture_output=True, text=True, check=True
    ).stdout
    assert names < set(provides.splitlines())


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("Signature   : EdDSA/SHA256, Sat Nov 21 2026, Key ID 428e98448f299494", "428e98448f299494"),
        (
            "Signature   :\n  RSA/SHA512, 2026, Key Fingerprint: 0123456789ABCDEF01234567428E98448F299494",
            "428e98448f299494",
        ),
        ("Signature   : (none)", ""),
    ],
)
def test_the_signers_key_is_read_from_both_generations_of_rpm(line: str, key: str) -> None:
    about = f"Name        : mistralrs-ada\n{line}\nSource RPM  : x\nDescription :\nKey ID 0000000000000000\n"
    assert signer_of(about) == key


def test_fingerprints_of_subkeys_belong_to_their_primary_key() -> None:
    colons = (
        "pub:-:255:22:AA:1:::-:::cESC:\nfpr:::::::::AAAA:\nuid:-::::1::H::a::::\n"
        "sub:-:255:22:BB:1::::::s:\nfpr:::::::::BBBB:\npub:-:255:22:CC:1:::-:::cESC:\nfpr:::::::::CCCC:\n"
    )
    assert parse_fingerprints(colons) == {"AAAA": ("BBBB",), "CCCC": ()}


def test_only_caches_logs_and_databases_may_remain() -> None:
    before = {"etc/yum.repos.d/mistralrs.repo"}
    after = before | {
        "var/cache/dnf/mistralrs-0123/repodata",
        "var/log/mistralrs.log",
        "root/.rpmdb/mistralrs",
        "usr/lib/sysimage/libdnf5/mistralrs",
        "etc/passwd",
        "etc/mistralrs",
        "etc/alternatives/mistralrs",
    }
    assert leftovers(before, after) == ["etc/alternatives/mistralrs", "etc/mistralrs"]


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("repomd.xml GPG signature verification error: Bad GPG signature", "publish a new snapshot"),
        ("Public key for mistralrs-ada.rpm is not installed\nError: GPG check FAILED", "raise package_release"),
        ("Error: nothing provides libx.so needed by mistralrs-ada", "lacks a package"),
        ("Curl error (7): Couldn't connect to server", "web server"),
        ("Segmentation fault", "Read the transcript"),
    ],
)
def test_a_known_error_of_dnf_has_a_remedy(output: str, remedy: str) -> None:
    assert remedy in remedy_for(output)
