"""A site that changed hands or is down: dnf 4 with rpm 4 and dnf5 with rpm 6, with Fedora's dnf.conf and -y.

The other site is complete, with a key, packages and a release package of its own, at the same address. Whatever it
serves, a client imports no key, installs nothing, and fails: with Fedora's skip_if_unavailable=True alone, dnf prints
"Nothing to do" and exits with 0.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pipeline.channel.release_package import build
from pipeline.channel.repo_file import ChannelRow
from pipeline.hosts.loopback_site import Site, started, stopped
from pipeline.prove.sandbox import Client
from pipeline.prove.transcript import Transcript
from pipeline.sign.trust import CLIENT_KEYS, KEYS_NAME
from support import PROJECT, systems
from support.channel_maker import call
from support.rotation_site import CHANNELS, RELEASE, Operator
from support.signer_site import make_package

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a throw-away client")

FOLDER = CHANNELS["stable"]["path"]
REPO = "/etc/yum.repos.d/mistralrs.repo"
# The messages of dnf 4, then those of dnf5.
BAD_METADATA = (
    r"repomd\.xml GPG signature verification error: (Bad GPG signature|Signing key not found|Bad PGP signature)"
)
UNSIGNED_METADATA = r"GPG signature is not available|Status code: 404 for \S+/repomd\.xml\.asc"
BAD_PACKAGE = r"Public key for \S+ is not installed|GPG check FAILED|Import of the key didn't help, wrong key"
BAD_FILE = r"Public key for \S+ is not installed|does not have any OpenPGP keys configured"
UNSIGNED_PACKAGE = r"Package \S+ is not signed|The package is not signed"
NO_SITE = r"(Cannot|Failed to) (download|prepare internal mirrorlist)|[Cc]url error"
SHIMS = {
    # Programs of a user's machine that the trees lack. curl's only uses here are curl -f URL and curl -fo FILE URL.
    "sudo": 'exec "$@"',
    "curl": """exec python3 -c 'import sys, urllib.request as u
name = sys.argv[2] if sys.argv[1] == "-fo" else 1
open(name, "wb").write(u.urlopen(sys.argv[-1]).read())' "$@" """,
}


@dataclass(frozen=True)
class Address:
    """One address, which two operators have served, and the sites that clients may see there."""

    honest: Operator
    other: Operator
    folder: Path

    @property
    def url(self) -> str:
        return self.honest.web.url

    def serve(self, root: Path) -> None:
        """Serve the files below ``root`` from now on."""
        link = self.folder / "seen.new"
        link.symlink_to(root)
        link.replace(self.folder / "seen")

    @contextmanager
    def serving(self, root: Path) -> Iterator[None]:
        """Serve the files below ``root`` in the block."""
        self.serve(root)
        try:
            yield
        finally:
            self.serve(self.honest.web.root)

    @property
    def site(self) -> Site:
        return replace(self.honest.web, root=self.folder / "seen")

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nothing listens in the block."""
        stopped(self.site.state_dir)
        try:
            yield
        finally:
            started(self.site)

    def copy(self) -> Path:
        """A copy of the honest site, to change."""
        root = self.folder / "changed"
        shutil.rmtree(root, ignore_errors=True)
        return Path(shutil.copytree(self.honest.web.root, root, symlinks=True))

    def compose(self, root: Path, rpms: list[Path], signer: Operator | None) -> None:
        """Make a snapshot of exactly these files the head below ``root``, whatever the agent would think of it."""
        snapshot = root / FOLDER / "snapshots/20991231T000000Z-00000000"
        for rpm in rpms:
            (snapshot / "Packages").mkdir(parents=True, exist_ok=True)
            shutil.copy(rpm, snapshot / "Packages")
        call(
            "createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz", "--revision=4102358400", snapshot
        )
        if signer:
            sign(signer, snapshot / "repodata/repomd.xml")
        (root / FOLDER / "mirrorlist").write_text(f"{self.url}/{FOLDER}/snapshots/{snapshot.name}/\n")


def sign(operator: Operator, path: Path) -> None:
    call("gpg", "--batch", "--yes", "--homedir", operator.home, "--armor", "--output", f"{path}.asc", "-b", path)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("address")
    honest = Operator.make(folder / "honest")
    other = Operator.make(folder / "other", honest.web.port)
    honest.publish("0.9.1")
    honest.publish_release()
    other.publish("0.9.9")
    other.publish("0.9.9", flavour="cpu")
    other.publish_release()
    address = Address(honest, other, folder)
    address.serve(honest.web.root)
    started(address.site)
    yield address
    stopped(address.site.state_dir)


class User:
    """A user of one system who followed docs/user.md."""

    def __init__(self, program: str, client: Client, url: str) -> None:
        self.program, self.client, self.url = program, client, url
        conf = client.read("/etc/dnf/dnf.conf").decode()
        assert "skip_if_unavailable=True\n" in conf
        client.write("/etc/dnf/dnf.conf", f"{conf}assumeyes=True\n")
        client.write("/etc/dnf/vars/releasever", "43\n")
        for name, text in SHIMS.items():
            self.shell(f"rm -f /usr/bin/{name}")
            client.write(f"/usr/bin/{name}", f"#!/bin/sh\n{text}\n")
            self.shell(f"chmod 755 /usr/bin/{name}")
        if program != "dnf":
            self.shell(f"ln -sf {program} /usr/bin/dnf")

    def shell(self, words: str) -> str:
        status, output = self.client.run("sh", "-ec", words)
        assert status == 0, output
        return output

    def documented(self, heading: str, block: int) -> str:
        """Run a block of commands of docs/user.md."""
        text = (PROJECT / "docs/user.md").read_text().split(f"\n{heading}\n")[1].split("\n#")[0]
        commands = re.findall(r"```\n(.*?)```", text, re.DOTALL)[block]
        return self.shell(commands.replace("URL", self.url))

    def dnf(self, *words: str, fails: bool = False) -> str:
        status, output = self.client.run(self.program, "-y", "--refresh", *words)
        assert (status != 0) is fails, output
        return output

    def state(self) -> str:
        """All installed packages and imported keys, and the files that decide whom the client trusts."""
        return self.shell(f"rpm -qa --qf '%{{NVRA}} %{{SHA256HEADER}}\\n' | sort; cat {CLIENT_KEYS} {REPO} || true")

    def packages(self) -> set[str]:
        """Names and versions of the installed packages."""
        return set(self.shell("rpm -qa --qf '%{NAME}-%{VERSION}\\n'").split())


@pytest.fixture(scope="module", params=systems.CLIENTS)
def system(
    request: pytest.FixtureRequest, address: Address, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Client]]:
    transcript = Transcript(tmp_path_factory.mktemp("client") / "transcript")
    with Client(transcript, (), systems.root_of(request.param), address.url) as client:
        yield request.param, client


@pytest.fixture(scope="module")
def user(system: tuple[str, Client], address: Address) -> User:
    """A user with the release package and a package of the honest site, by the commands of the first section."""
    user = User(*system, address.url)
    shown = user.documented("## Install", 0)
    assert address.honest.signs().subkey in shown
    user.documented("## Install", 1)
    assert "mistralrs-ada-0.9.1" in user.state()
    return user


@pytest.fixture(params=systems.CLIENTS)
def stranger(request: pytest.FixtureRequest, address: Address, tmp_path: Path) -> Iterator[User]:
    """A user who has had nothing to do with the site."""
    transcript = Transcript(tmp_path / "transcript")
    with Client(transcript, (), systems.root_of(request.param), address.url) as client:
        yield User(request.param, client, address.url)


# What the site serves. Each returns the root of a site.


def another_site(address: Address) -> Path:
    return address.other.web.root


def another_site_with_both_keys(address: Address) -> Path:
    root = address.folder / "changed"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(address.other.web.root, root, symlinks=True)
    keys = address.honest.public.read_text() + address.other.public.read_text()
    (root / KEYS_NAME).write_text(keys)
    return root


def other_package(address: Address) -> Path:
    (found,) = (address.other.web.root / FOLDER / "Packages").glob("mistralrs-ada-*")
    return found


def metadata_of_another_key(address: Address) -> Path:
    """It lists the other operator's package."""
    root = address.copy()
    address.compose(root, [other_package(address)], address.other)
    return root


def metadata_without_a_signature(address: Address) -> Path:
    root = address.copy()
    address.compose(root, [other_package(address)], None)
    return root


def metadata_with_the_signature_of_another_snapshot(address: Address) -> Path:
    root = address.copy()
    signature = (root / FOLDER / "repodata/repomd.xml.asc").read_bytes()
    address.compose(root, [other_package(address)], None)
    (root / FOLDER / "snapshots/20991231T000000Z-00000000/repodata/repomd.xml.asc").write_bytes(signature)
    return root


def metadata_with_both_signatures(address: Address) -> Path:
    """First one by the other key for this metadata, then the operator's for the previous metadata."""
    root = metadata_with_the_signature_of_another_snapshot(address)
    repomd = root / FOLDER / "snapshots/20991231T000000Z-00000000/repodata/repomd.xml"
    honest = Path(f"{repomd}.asc").read_text()
    sign(address.other, repomd)
    Path(f"{repomd}.asc").write_text(Path(f"{repomd}.asc").read_text() + honest)
    return root


def a_package_of_another_key_in_signed_metadata(address: Address) -> Path:
    root = address.copy()
    address.compose(root, [other_package(address)], address.honest)
    return root


def a_release_package_of_another_key_in_signed_metadata(address: Address) -> Path:
    """It would replace the key file and the .repo files."""
    root = address.copy()
    newer, _ = build(address.other.request().contents(), 2, address.folder / "newer", PROJECT / "rpm")
    address.compose(root, [Path(address.other.sign(newer).path)], address.honest)
    return root


def an_unsigned_package_in_signed_metadata(address: Address) -> Path:
    root = address.copy()
    package = make_package(address.folder / "unsigned", "0.9.9")
    address.compose(root, [Path(package.path)], address.honest)
    return root


ATTACKS: dict[Callable[[Address], Path], str] = {
    another_site: BAD_METADATA,
    another_site_with_both_keys: BAD_METADATA,
    metadata_of_another_key: BAD_METADATA,
    metadata_without_a_signature: UNSIGNED_METADATA,
    metadata_with_the_signature_of_another_snapshot: BAD_METADATA,
    metadata_with_both_signatures: BAD_METADATA,
    a_package_of_another_key_in_signed_metadata: BAD_PACKAGE,
    a_release_package_of_another_key_in_signed_metadata: BAD_PACKAGE,
    an_unsigned_package_in_signed_metadata: UNSIGNED_PACKAGE,
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_upgrade_from_another_site_imports_no_key_and_installs_nothing(
    address: Address, user: User, attack: Callable[[Address], Path]
) -> None:
    before = user.state()
    with address.serving(attack(address)):
        output = user.dnf("upgrade", fails=True)
    assert re.search(ATTACKS[attack], output), output
    assert user.state() == before


@pytest.mark.parametrize("words", [("upgrade",), ("install", "mistralrs-ada")])
def test_a_site_that_is_down_fails_the_transaction(address: Address, user: User, words: tuple[str, ...]) -> None:
    before = user.state()
    with address.down():
        output = user.dnf(*words, fails=True)
    assert re.search(NO_SITE, output), output
    assert user.state() == before


def test_a_release_package_of_another_key_is_not_installed_at_the_first_contact(
    address: Address, stranger: User
) -> None:
    stranger.documented("## Install", 0)
    stranger.shell(f"rpm --import {KEYS_NAME}")
    before = stranger.state()
    with address.serving(address.other.web.root):
        output = stranger.dnf("install", "--setopt=localpkg_gpgcheck=1", f"{address.url}/{RELEASE}", fails=True)
    assert re.search(BAD_FILE, output), output
    assert stranger.state() == before


def damaged(honest: str, other: str) -> Iterator[str]:
    """Files in which gpg --show-keys shows the honest key alone, and rpm 4, rpm 6 or both find the other."""
    yield honest.rstrip("\n") + other
    yield honest + other.replace("-----BEGIN", " -----BEGIN").replace("-----END", " -----END")
    yield "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + other.replace("-----BEGIN", "- -----BEGIN") + honest


def test_rpm_imports_no_key_that_the_user_was_not_shown(address: Address, stranger: User) -> None:
    root = address.copy()
    other = address.other.signs().fingerprint[-8:].lower()
    hidden = []
    for text in damaged(address.honest.public.read_text(), address.other.public.read_text()):
        (root / KEYS_NAME).write_text(text)
        with address.serving(root):
            shown = stranger.documented("## Install", 0)
        assert re.findall(r"^pub .*\n +(\w+)$", shown, re.MULTILINE) == [address.honest.signs().fingerprint]
        stranger.client.write("/run/raw", text)
        known = [
            stranger.shell(
                f"rm -rf /run/db; mkdir /run/db; rpmkeys --dbpath /run/db --import {file} || true;"
                "rpm --dbpath /run/db -qa gpg-pubkey --qf '%{VERSION} '"
            )
            for file in ("/run/raw", KEYS_NAME)
        ]
        hidden.append(other in known[0])
        assert known[1].endswith(f"{address.honest.signs().fingerprint[-8:].lower()} ")
        assert len(known[1].split()) == 1
    assert any(hidden), "rpm reads such files like gpg now: user.md can become shorter"


def test_a_client_without_the_release_package_refuses_another_site(address: Address, stranger: User) -> None:
    stranger.documented("## Install", 0)
    shown = stranger.documented("### Without mistralrs-release", 0)
    wanted = {"gpgcheck=1", "repo_gpgcheck=1", "skip_if_unavailable=0", f"gpgkey=file://{CLIENT_KEYS}"}
    assert wanted <= set(shown.splitlines())
    before = stranger.state()
    assert "mistralrs-ada-0.9.1" in before
    with address.serving(address.other.web.root):
        output = stranger.dnf("upgrade", fails=True)
    assert re.search(BAD_METADATA, output), output
    assert stranger.state() == before


def test_a_client_that_names_the_key_by_its_address_refuses_another_site_once_its_file_is_replaced(
    address: Address, stranger: User
) -> None:
    """The last lines are the reason for gpgkey=file: with an address there, the other site wins."""
    old = ChannelRow.of("stable", CHANNELS["stable"]).repo_file(address.url, enabled=True)
    old = old.replace(f"file://{CLIENT_KEYS}", f"{address.url}/{KEYS_NAME}")
    stranger.client.write(REPO, old)
    stranger.dnf("install", "mistralrs-ada")
    stranger.documented("### A file from before", 0)
    before = stranger.state()
    assert f"gpgkey=file://{CLIENT_KEYS}" in before
    with address.serving(address.other.web.root):
        output = stranger.dnf("upgrade", fails=True)
        assert re.search(BAD_METADATA, output), output
        assert stranger.state() == before

        stranger.client.write(REPO, old)
        stranger.dnf("install", "mistralrs-cpu")
        assert "mistralrs-cpu-0.9.9" in stranger.packages()
