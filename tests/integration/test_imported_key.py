"""A signing key created elsewhere: provisioning imports it into an empty home only."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.run import run
from pipeline.sign.keyring import opened
from pipeline.sign.rotation import Recipe, ensure
from pipeline.sign.signer import Signer

PASSPHRASE = "correct hörse 100%"


class Host:
    """A host with a signer's folders; all keys have the same passphrase."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.home, self.public, self.primary = folder / "gnupg", folder / "public.asc", folder / "primary"
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text(f"{PASSPHRASE}\n")
        self.signer = Signer(folder / "signer", self.home, self.passphrase, self.public)

    def ensure(self, imported: str = "", *, check: bool = False) -> tuple[str, tuple[str, ...]]:
        """The fingerprint of the key that signs, and the changes."""
        recipe = Recipe("Test", "test@localhost", self.primary, "ed25519")
        done = ensure(self.signer, recipe, imported=imported, check=check)
        return done.signing.fingerprint if done.signing else "", done.changes

    def backup(self) -> str:
        with opened(self.home, self.passphrase) as keyring:
            return keyring.export_secret(keyring.signing_key().fingerprint, primary=False)

    def lose(self) -> None:
        run(["gpgconf", "--homedir", self.home, "--kill", "all"])
        shutil.rmtree(self.home)


@pytest.fixture
def old(tmp_path: Path) -> Host:
    host = Host(tmp_path / "old")
    host.ensure()
    return host


def test_a_new_signer_imports_the_key_without_its_primary(old: Host, tmp_path: Path) -> None:
    new = Host(tmp_path / "new")
    fingerprint, _ = old.ensure()
    assert new.ensure(old.backup(), check=True)[1]
    assert not new.public.exists()
    assert new.ensure(old.backup())[0] == fingerprint
    assert new.public.read_text() == old.public.read_text()
    assert not new.primary.exists()
    assert new.ensure(old.backup()) == (fingerprint, ())


def test_a_lost_key_is_restored_from_its_backup(old: Host) -> None:
    fingerprint, _ = old.ensure()
    backup = old.backup()
    old.lose()
    with pytest.raises(PipelineError, match="the signing key is lost"):
        old.ensure()
    assert old.ensure(backup)[0] == fingerprint
    assert old.ensure(backup) == (fingerprint, ())


def test_another_key_does_not_replace_a_lost_one(old: Host, tmp_path: Path) -> None:
    other = Host(tmp_path / "other")
    other.ensure()
    old.lose()
    with pytest.raises(PipelineError, match="the signing key is lost"):
        old.ensure(other.backup())
    with pytest.raises(PipelineError, match="the signing key is lost"):
        old.ensure()


def test_an_existing_key_stays(old: Host, tmp_path: Path) -> None:
    other = Host(tmp_path / "other")
    other.ensure()
    fingerprint, _ = old.ensure()
    assert old.ensure(other.backup()) == (fingerprint, ())


def test_a_key_under_another_passphrase_is_refused(old: Host, tmp_path: Path) -> None:
    new = Host(tmp_path / "new")
    new.passphrase.write_text("another\n")
    with pytest.raises(PipelineError, match="the passphrase is not that of the signing key"):
        new.ensure(old.backup())
    assert not new.public.exists()


def test_a_text_that_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="gpg did not import the key") as error:
        Host(tmp_path / "new").ensure("no key")
    assert error.value.where == "signing_key_import"
