"""A signing key that comes from elsewhere: provisioning imports it where there is none, and never later."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.run import run
from pipeline.sign.keyring import ensure, opened

PASSPHRASE = "correct hörse 100%"


class Signer:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.home, self.public, self.primary = folder / "gnupg", folder / "public.asc", folder / "primary"
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text(f"{PASSPHRASE}\n")

    def ensure(self, imported: str = "", *, check: bool = False) -> tuple[str, tuple[str, ...]]:
        """The fingerprint of the key that signs, and what was changed."""
        done = ensure(
            self.home, self.public, name="Test", email="test@localhost", primary=self.primary,
            passphrase_file=self.passphrase, algorithm="ed25519", imported=imported, check=check,
        )  # fmt: skip
        return done.key.fingerprint if done.key else "", done.changes

    def backup(self) -> str:
        with opened(self.home, self.passphrase) as keyring:
            return keyring.export_secret(keyring.signing_key().fingerprint, primary=False)

    def lose(self) -> None:
        run(["gpgconf", "--homedir", self.home, "--kill", "all"])
        shutil.rmtree(self.home)


@pytest.fixture
def old(tmp_path: Path) -> Signer:
    signer = Signer(tmp_path / "old")
    signer.ensure()
    return signer


def test_a_new_signer_takes_the_key_and_gets_no_primary(old: Signer, tmp_path: Path) -> None:
    new = Signer(tmp_path / "new")
    fingerprint, _ = old.ensure()
    assert new.ensure(old.backup(), check=True)[1]
    assert not new.public.exists()
    assert new.ensure(old.backup())[0] == fingerprint
    assert new.public.read_text() == old.public.read_text()
    assert not new.primary.exists()
    assert new.ensure(old.backup()) == (fingerprint, ())


def test_a_lost_key_comes_back_from_its_backup(old: Signer) -> None:
    fingerprint, _ = old.ensure()
    backup = old.backup()
    old.lose()
    with pytest.raises(PipelineError, match="the signing key is lost"):
        old.ensure()
    assert old.ensure(backup)[0] == fingerprint
    assert old.ensure(backup) == (fingerprint, ())


def test_another_key_is_not_taken_in_the_place_of_a_lost_one(old: Signer, tmp_path: Path) -> None:
    other = Signer(tmp_path / "other")
    other.ensure()
    old.lose()
    with pytest.raises(PipelineError, match="the signing key is lost"):
        old.ensure(other.backup())
    with pytest.raises(PipelineError, match="the signing key is lost"):
        old.ensure()


def test_a_key_that_is_there_stays(old: Signer, tmp_path: Path) -> None:
    other = Signer(tmp_path / "other")
    other.ensure()
    fingerprint, _ = old.ensure()
    assert old.ensure(other.backup()) == (fingerprint, ())


def test_a_key_under_another_passphrase_is_refused(old: Signer, tmp_path: Path) -> None:
    new = Signer(tmp_path / "new")
    new.passphrase.write_text("another\n")
    with pytest.raises(PipelineError, match="the passphrase is not that of the signing key"):
        new.ensure(old.backup())
    assert not new.public.exists()


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="gpg did not take the key") as error:
        Signer(tmp_path / "new").ensure("no key")
    assert error.value.where == "signing_key_import"
