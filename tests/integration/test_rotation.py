"""A key rotation with real clients, dnf 4 with rpm 4 and dnf5 with rpm 6: upgrading needs no manual step."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.records import sha256_file
from pipeline.channel.repo_file import ChannelRow
from pipeline.hosts.loopback_site import started, stopped
from pipeline.prove.sandbox import Client
from pipeline.prove.transcript import Transcript
from pipeline.sign.keyring import parse_keys
from pipeline.sign.trust import CLIENT_KEYS, KEYS_NAME, list_public_keys, read_certificates, signer_of
from support import systems
from support.channel_maker import call
from support.rotation_site import CHANNELS, RELEASE, Operator
from support.signer_site import make_package

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a throw-away client")

REPO_PATH = "/etc/yum.repos.d/mistralrs.repo"


class SiteHistory:
    """Copies of an operator's site at several moments; clients see one at a time under the same address."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.keys: dict[str, str] = {}
        self.signers: dict[str, str] = {}

    @property
    def site(self) -> str:
        return self.operator.web.url

    def record(self, moment: str) -> None:
        """Keep a copy of the current site."""
        keys = parse_keys(list_public_keys(self.operator.public))
        self.signers |= {key.subkey[-16:].lower(): key.fingerprint for key in keys}
        shutil.copytree(self.operator.web.root, self.operator.folder / moment, symlinks=True)

    def serve(self, moment: str) -> None:
        """Serve the copy of a moment from now on. nginx follows the link."""
        link = self.operator.folder / "seen.new"
        link.symlink_to(moment)
        link.replace(self.operator.folder / "seen")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteHistory]:
    """The moments of a rotation."""
    operator = Operator.make(tmp_path_factory.mktemp("history"))
    history = SiteHistory(operator)
    history.keys["old"] = operator.signs().fingerprint
    operator.publish("0.9.1")
    operator.publish("0.9.2^20260822.1", "unstable")
    operator.publish_release()
    history.record("before")
    operator.introduce()
    operator.schedule()
    operator.publish("0.9.2")
    history.record("overlap")
    history.keys["new"] = operator.switch()
    operator.publish("0.9.3")
    history.record("switched")
    operator.publish_release()
    history.record("settled")
    operator.engine().remove(["mistralrs-ada-0.9.[12]-*"], reason="compromised", yank=True)
    operator.engine("unstable").remove(["mistralrs-ada-*"], reason="compromised", yank=True)
    operator.retire(history.keys["old"])
    history.record("retired")
    yield from served(history)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteHistory]:
    """An expired key: with another expiry date, then replaced. Its old package was signed before it expired."""
    operator = Operator.make(tmp_path_factory.mktemp("ended"))
    history = SiteHistory(operator)
    operator.publish("0.9.0")
    history.keys["old"] = replaced_by_an_ended_key(operator)
    text = operator.public.read_text()
    history.record("ended")

    for row in CHANNELS.values():
        shutil.rmtree(operator.web.root / row["path"], ignore_errors=True)
    shutil.rmtree(operator.web.root / ".publisher")
    package = make_package(operator.folder / "of-old", "0.8.0")
    sign_in_2024(operator, Path(package.path))
    signed = replace(package, sha256=sha256_file(Path(package.path)), size=Path(package.path).stat().st_size)
    extend(operator, history.keys["old"])
    operator.engine().publish([signed], reason="of old")
    history.record("extended")

    operator.introduce()
    operator.schedule(0)
    operator.publish("0.9.3")
    history.keys["new"] = operator.signs().fingerprint
    # The file as it would be without the new date.
    certificates = read_certificates(operator.public)
    (operator.web.root / KEYS_NAME).write_text(text + certificates[history.keys["new"]])
    history.record("replaced")
    yield from served(history)


def served(history: SiteHistory) -> Iterator[SiteHistory]:
    site = replace(history.operator.web, root=history.operator.folder / "seen")
    (site.root).symlink_to(".")
    started(site)
    yield history
    stopped(site.state_dir)


@pytest.fixture(params=systems.CLIENTS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Client]]:
    site = request.getfixturevalue("history" if "history" in request.fixturenames else "ended").site
    with Client(Transcript(tmp_path / "transcript"), (), systems.root_of(request.param), site) as client:
        yield request.param, client


@pytest.fixture
def user(client: tuple[str, Client], history: SiteHistory) -> User:
    history.serve("before")
    return User(*client, history)


class User:
    """A user who runs dnf with -y."""

    def __init__(self, program: str, client: Client, history: SiteHistory) -> None:
        self.client, self.program, self.history = client, program, history
        self.cache = {"dnf": "dnf", "dnf5": "libdnf5"}[program]

    def take_key(self) -> None:
        """curl -o: the trusted keys that the site has now."""
        self.client.write(CLIENT_KEYS, (self.history.operator.folder / "seen" / KEYS_NAME).read_text())

    def take_repo_file(self) -> None:
        """curl -o: the trusted keys and the .repo file of the site."""
        self.take_key()
        self.client.write(REPO_PATH, (self.history.operator.web.root / "mistralrs.repo").read_text())

    def take_earlier_repo_file(self) -> None:
        """A .repo file of the site from before, whose gpgkey= is an address."""
        text = ChannelRow.of("stable", CHANNELS["stable"]).repo_file(self.history.site, enabled=True)
        self.client.write(REPO_PATH, text.replace(f"file://{CLIENT_KEYS}", f"{self.history.site}/{KEYS_NAME}"))

    def take_release(self, *options: str) -> str:
        return self.dnf("install", *options, f"{self.history.site}/{RELEASE}")

    def dnf(self, *words: str, fails: bool = False) -> str:
        status, output = self.client.run(self.program, "-y", "--releasever=43", *words)
        assert (status != 0) is fails, output
        return output

    def upgrade(self) -> None:
        self.dnf("upgrade", "--refresh")

    def has(self, name: str = "mistralrs-ada") -> str:
        """The installed version and release; "" without."""
        status, output = self.client.run("rpm", "-q", "--qf", "%{VERSION}-%{RELEASE}", name)
        return "" if status else output

    def signed_by(self, name: str = "mistralrs-ada") -> str:
        """The history's key that signed an installed package, from rpm."""
        fingerprint = self.history.signers[signer_of(self.client.run("rpm", "-qi", name)[1])]
        return next(name for name, known in self.history.keys.items() if known == fingerprint)

    def knows(self) -> list[str]:
        """The history's keys that are in the file that mistralrs-release owns."""
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(self.client.run("cat", CLIENT_KEYS)[1])
            file.flush()
            certificates = read_certificates(Path(file.name))
        return [
            name for fingerprint in certificates for name, known in self.history.keys.items() if known == fingerprint
        ]


def test_a_user_of_the_release_package_gets_the_next_key_by_an_upgrade_before_it_signs(
    history: SiteHistory, user: User
) -> None:
    user.take_release()
    user.dnf("install", "mistralrs-ada")
    assert (user.has(), user.has("mistralrs-release"), user.knows()) == ("0.9.1-1.fc43", "43-1", ["old"])
    history.serve("overlap")
    user.upgrade()
    assert (user.has(), user.has("mistralrs-release"), user.knows()) == ("0.9.2-1.fc43", "43-2", ["old", "new"])
    assert user.signed_by("mistralrs-release") == user.signed_by() == "old"
    history.serve("switched")
    user.upgrade()
    assert (user.has(), user.signed_by()) == ("0.9.3-1.fc43", "new")
    history.serve("settled")
    user.upgrade()
    assert (user.has("mistralrs-release"), user.signed_by("mistralrs-release")) == ("43-3", "new")


def test_a_user_of_the_sites_repo_file_upgrades_through_the_rotation_with_the_next_key(
    history: SiteHistory, user: User
) -> None:
    user.take_repo_file()
    user.dnf("install", "mistralrs-ada")
    history.serve("overlap")
    user.upgrade()
    assert (user.has(), user.signed_by()) == ("0.9.2-1.fc43", "old")
    history.serve("switched")
    output = user.dnf("upgrade", "--refresh", fails=True)
    assert "repomd.xml GPG signature verification error" in output
    user.take_key()
    user.upgrade()
    assert (user.has(), user.signed_by()) == ("0.9.3-1.fc43", "new")


def test_a_user_of_the_release_package_who_missed_the_overlap_gets_an_error_and_recovers_with_the_next_key(
    history: SiteHistory, user: User
) -> None:
    user.take_release()
    user.dnf("install", "mistralrs-ada")
    history.serve("settled")
    output = user.dnf("upgrade", "--refresh", fails=True)
    assert "repomd.xml GPG signature verification error" in output
    # The messages of dnf 4 and of dnf5.
    assert "Bad GPG signature" in output or "Signing key not found" in output
    assert user.has() == "0.9.1-1.fc43"

    # The commands of docs/keys.md.
    heal = ("--setopt=localpkg_gpgcheck=1", "--disablerepo=mistralrs*")
    user.dnf("install", *heal, f"{history.site}/{RELEASE}", fails=True)
    user.client.write("/run/key", (history.operator.folder / "settled" / KEYS_NAME).read_text())
    assert user.client.run("rpm", "--import", "/run/key")[0] == 0
    user.take_release(*heal)
    assert user.knows() == ["old", "new"]
    user.upgrade()
    assert user.has() == "0.9.3-1.fc43"


@pytest.mark.parametrize("way", ["take_release", "take_repo_file"])
def test_a_new_user_after_the_switch_installs_old_packages_and_new_ones(
    history: SiteHistory, user: User, way: str
) -> None:
    history.serve("settled")
    getattr(user, way)()
    user.dnf("install", "mistralrs-ada-0.9.1")
    assert user.signed_by() == "old"
    user.upgrade()
    assert (user.has(), user.signed_by()) == ("0.9.3-1.fc43", "new")
    user.dnf("downgrade", "mistralrs-ada-0.9.1")
    assert user.signed_by() == "old"


def test_an_existing_repo_file_stays_and_works_through_the_rotation(history: SiteHistory, user: User) -> None:
    user.take_earlier_repo_file()
    mine = user.client.read(REPO_PATH).decode()
    user.dnf("install", "mistralrs-ada", "mistralrs-release")
    assert user.client.read(REPO_PATH).decode() == mine
    assert "gpgkey=file:///etc/pki" in user.client.read(f"{REPO_PATH}.rpmnew").decode()
    history.serve("settled")
    user.upgrade()
    assert (user.has(), user.signed_by(), user.has("mistralrs-release")) == ("0.9.3-1.fc43", "new", "43-3")
    assert user.client.read(REPO_PATH).decode() == mine


def test_a_channel_that_the_user_enabled_stays_enabled_through_the_rotation(history: SiteHistory, user: User) -> None:
    user.take_release()
    file = "/etc/yum.repos.d/mistralrs-unstable.repo"
    assert "enabled=0" in user.client.read(file).decode()
    user.dnf("install", "mistralrs-ada")
    assert user.has() == "0.9.1-1.fc43"
    user.client.run("sed", "-i", "s/enabled=0/enabled=1/", file)
    user.upgrade()
    assert user.has().startswith("0.9.2^20260822.1")
    history.serve("overlap")
    user.upgrade()
    assert (user.has("mistralrs-release"), user.knows()) == ("43-2", ["old", "new"])
    assert "enabled=1" in user.client.read(file).decode()


def test_a_user_who_deletes_a_retired_key_needs_only_the_new_one(history: SiteHistory, user: User) -> None:
    user.take_release()
    user.dnf("install", "mistralrs-ada")
    history.serve("overlap")
    user.upgrade()
    history.serve("retired")
    user.upgrade()
    assert (user.has(), user.signed_by(), user.knows()) == ("0.9.3-1.fc43", "new", ["new"])
    assert len(user.client.run("rpm", "-qa", "gpg-pubkey*")[1].split()) == 2

    # The command of docs/keys.md; rpm 4 has no --delete.
    old = user.client.run("rpm", "-qa", "gpg-pubkey*", "--qf", "%{NVR} %{SUMMARY}\n")[1].split()[0]
    forget = ("rpmkeys", "--delete", history.keys["old"].lower()) if user.program == "dnf5" else ("rpm", "-e", old)
    assert user.client.run(*forget)[0] == 0
    assert user.client.run("sh", "-c", f"rm -r /var/cache/{user.cache}/mistralrs-*/pubring")[0] == 0
    user.dnf("makecache", "--refresh")
    user.dnf("reinstall", "mistralrs-ada")
    assert len(user.client.run("rpm", "-qa", "gpg-pubkey*")[1].split()) == 1


# Keys that expire.


def test_packages_of_an_expired_key_can_still_be_installed(client: tuple[str, Client], ended: SiteHistory) -> None:
    """It was valid when it signed them; the new key signs the metadata."""
    ended.serve("replaced")
    user = User(*client, ended)
    user.take_repo_file()
    user.dnf("install", "mistralrs-ada-0.8.0")
    assert user.signed_by() == "old"
    user.upgrade()
    assert (user.has(), user.signed_by()) == ("0.9.3-1.fc43", "new")


def test_clients_accept_a_new_key_after_the_old_one_expired_but_dnf5_ignores_its_new_date(
    client: tuple[str, Client], ended: SiteHistory
) -> None:
    """The reason why a key is replaced and not extended."""
    ended.serve("ended")
    user = User(*client, ended)
    user.take_repo_file()
    user.dnf("makecache", "--refresh", fails=True)  # from now on it knows the key with its old date
    ended.serve("extended")
    user.take_key()
    output = user.dnf("makecache", "--refresh", fails=user.program == "dnf5")
    assert ("key has expired" in output) is (user.program == "dnf5")
    ended.serve("replaced")
    user.take_key()
    user.dnf("install", "--refresh", "mistralrs-ada")
    assert (user.has(), user.signed_by()) == ("0.9.3-1.fc43", "new")


def gpg(home: Path, *words: str, clock: str = "") -> str:
    faked = ("--faked-system-time", clock) if clock else ()
    return call("gpg", "--batch", "--yes", "--homedir", home, "--passphrase", "", *faked, *words)


def replaced_by_an_ended_key(operator: Operator) -> str:
    """Give the operator a key of 2024 instead; its fingerprint."""
    home, clock = operator.folder / "whole", "20240101T000000!"
    home.mkdir(mode=0o700)
    gpg(home, "--quick-generate-key", "Old <old@localhost>", "ed25519", "cert", "1y", clock=clock)
    listed = gpg(home, "--with-colons", "-K").splitlines()
    fingerprint = next(line.split(":")[9] for line in listed if line.startswith("fpr"))
    gpg(home, "--quick-add-key", fingerprint, "ed25519", "sign", "1y", clock=clock)
    take_over(operator, home)
    return fingerprint


def extend(operator: Operator, fingerprint: str) -> None:
    """Give the key another expiry date, in the home and in the trusted keys."""
    (key,) = parse_keys(list_public_keys(operator.public))
    for part in ((), (key.subkey,)):
        gpg(operator.folder / "whole", "--quick-set-expire", fingerprint, "2y", *part)
    take_over(operator, operator.folder / "whole")


def take_over(operator: Operator, home: Path) -> None:
    call("gpgconf", "--homedir", home, "--kill", "all")
    shutil.rmtree(operator.home)
    shutil.copytree(home, operator.home)
    operator.public.write_text(gpg(home, "--armor", "--export"))
    call("gpgconf", "--homedir", home, "--kill", "all")
    operator.trust()


def sign_in_2024(operator: Operator, rpm: Path) -> None:
    macros = {
        "__gpg": "/usr/bin/gpg",
        "_gpg_path": str(operator.folder / "whole"),
        "_gpg_name": "old@localhost",
        "_gpg_sign_cmd_extra_args": "--faked-system-time 20240601T000000!",
    }
    call("rpmsign", *(word for pair in macros.items() for word in ("--define", " ".join(pair))), "--addsign", rpm)
    call("gpgconf", "--homedir", operator.folder / "whole", "--kill", "all")
