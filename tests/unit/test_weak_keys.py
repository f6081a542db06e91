"""Keys that gpg accepts and clients refuse are refused at import, at rotation, at signing and by the status."""

from __future__ import annotations

import functools
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.sign.key_checks import findings
from pipeline.sign.keyring import SigningKey, opened
from pipeline.sign.rotation import Recipe, ensure, introduce, schedule
from pipeline.sign.signer import Signer
from pipeline.sign.strength import weaknesses
from pipeline.sign.trust import read_certificates, verify_detached
from support.weak_keys import KINDS, WeakKey

Make = Callable[[str], WeakKey]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Each kind of certificate, made once."""
    folder = tmp_path_factory.mktemp("keys")
    made: list[WeakKey] = []

    @functools.cache
    def make(name: str) -> WeakKey:
        made.append(WeakKey.make(folder / name.replace(" ", "-"), name))
        return made[-1]

    yield make
    for key in made:
        key.stop()


@dataclass(frozen=True)
class Host:
    """A signer's folders; the recipe is of a key that it would make itself."""

    folder: Path

    @property
    def signer(self) -> Signer:
        return Signer(self.folder, self.folder / "gnupg", None, self.folder / "public.asc")

    @property
    def recipe(self) -> Recipe:
        return Recipe("Test", "test@localhost", self.folder / "primary", "ed25519")

    def imports_by_hand(self, text: str) -> None:
        """docs/keys.md: gpg --import, and the public key among the trusted ones."""
        self.signer.home.mkdir(mode=0o700)
        with opened(self.signer.home) as ring:
            ring.add(text)
            self.signer.trusted_keys.write_text(ring.export(ring.signing_keys()[0].fingerprint))

    def keys(self) -> list[SigningKey]:
        with opened(self.signer.home) as ring:
            return ring.signing_keys()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_a_certificate_is_as_strong_as_its_weakest_part(made: Make, name: str) -> None:
    key = made(name)
    found = weaknesses(key.gpg("--list-packets", stdin=key.public(name).encode()).decode())
    assert len(found) == 2
    primary, subkey = found.items()
    assert primary[0] == key.fingerprint[-16:]
    if KINDS[name].refused:
        assert re.search(KINDS[name].refused, subkey[1])
    else:
        assert (primary[1], subkey[1]) == ("", "")


@pytest.mark.parametrize("name", ["SHA-1 in the user id", "no back signature", "short subkey"])
def test_a_weak_key_is_not_imported(made: Make, host: Host, name: str) -> None:
    text = made(name).secret(name)
    message = f"the file holds no key that may sign: key [0-9A-F]{{16}} is refused by clients: .*{KINDS[name].refused}"
    with pytest.raises(PipelineError, match=f"{message}.*signing_key_import.*Make a new certificate"):
        ensure(host.signer, host.recipe, imported=text)
    assert not host.signer.trusted_keys.exists()
    assert host.keys() == []


def test_a_weak_key_is_not_the_next_one(made: Make, host: Host) -> None:
    ensure(host.signer, host.recipe)
    before = host.keys(), host.signer.trusted_keys.read_text()
    (host.folder / "next.asc").write_text(made("SHA-1 in the binding").secret("SHA-1 in the binding"))
    with pytest.raises(PipelineError, match="the binding of the subkey .* is signed by SHA1.*next.asc"):
        introduce(host.signer, host.recipe, imported=host.folder / "next.asc")
    assert (host.keys(), host.signer.trusted_keys.read_text()) == before


def test_a_strong_key_made_elsewhere_signs(made: Make, host: Host) -> None:
    done = ensure(host.signer, host.recipe, imported=made("SHA-1 superseded").secret("SHA-1 superseded"))
    assert done.signing
    assert done.signing.fingerprint == made("SHA-1 superseded").fingerprint
    assert all(finding.fits for finding in findings(host.signer))


def test_a_weak_key_that_was_imported_by_hand_signs_nothing_and_the_next_one_replaces_it(
    made: Make, host: Host
) -> None:
    host.imports_by_hand(made("SHA-1 in the user id").secret("SHA-1 in the user id"))
    weak = host.keys()[0]
    with (
        opened(host.signer.home) as ring,
        pytest.raises(PipelineError, match="is refused by clients: .* SHA1") as error,
    ):
        ring.signing_key()
    assert "rotate_key.yml" in error.value.remedy
    found = [finding for finding in findings(host.signer) if not finding.fits]
    assert [finding.check for finding in found] == ["signing key"]
    assert "signed by SHA1" in found[0].found

    done = introduce(host.signer, host.recipe)
    assert done.signing, "the next key waits, and nothing can be signed meanwhile"
    assert done.signing.fingerprint != weak.fingerprint
    assert list(read_certificates(host.signer.trusted_keys)) == [weak.fingerprint, done.signing.fingerprint]
    schedule(host.signer, overlap_days=30)
    found = [finding for finding in findings(host.signer) if not finding.fits]
    assert [finding.check for finding in found] == ["strength of keys"]
    assert "signing_retire" in found[0].remedy


def test_a_revoked_and_an_expired_key_are_refused_by_name(made: Make, host: Host) -> None:
    key = made("ed25519")
    past = WeakKey(host.folder / "past")
    past.home.mkdir(mode=0o700)
    past.gpg("--faked-system-time", "1500000000", "--quick-generate-key", "S <s@x>", "ed25519", "cert", "1d")
    past.gpg("--faked-system-time", "1500000000", "--quick-add-key", past.fingerprint, "ed25519", "sign", "1d")
    with pytest.raises(PipelineError, match="no key that may sign: key [0-9A-F]{16} expired on 2017-07-15"):
        ensure(host.signer, host.recipe, imported=past.secret(""))
    past.stop()
    revoked = WeakKey(host.folder / "revoked")
    shutil.copytree(key.home, revoked.home, ignore=shutil.ignore_patterns("S.*"))
    (text,) = (revoked.home / "openpgp-revocs.d").glob("*.rev")
    revoked.gpg("--import", stdin=text.read_bytes().replace(b"\n:-----BEGIN", b"\n-----BEGIN"))
    with pytest.raises(PipelineError, match="no key that may sign: it is revoked"):
        ensure(host.signer, host.recipe, imported=revoked.secret(""))
    revoked.stop()


def test_a_key_from_the_future_does_not_sign(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(host.signer, host.recipe)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.sign.keyring.time.time", lambda: time.time_ns() / 1e9 - 480)
        with opened(host.signer.home) as ring, pytest.raises(PipelineError, match="is dated in the future.*clock"):
            ring.signing_key()
    found = findings(host.signer, time.time() - 480)
    assert "is dated in the future" in found[0].found


def test_a_signature_by_sha1_is_refused(made: Make, tmp_path: Path) -> None:
    key = made("rsa2048")
    (public := tmp_path / "public.asc").write_text(key.public("rsa2048"))
    signature = key.gpg("--digest-algo", "SHA1", "--armor", "--detach-sign", stdin=b"text")
    with pytest.raises(PipelineError, match="the signature is by SHA1, which clients refuse .*repomd.xml.*gpg.conf"):
        verify_detached(b"text", signature, public, "repomd.xml")
    strong = key.gpg("--digest-algo", "SHA256", "--armor", "--detach-sign", stdin=b"text")
    assert verify_detached(b"text", strong, public, "repomd.xml")
