"""The life of a key, with real gpg: its files, the key that signs at each time, the steps of a rotation."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.run import run
from pipeline.sign import keyring, rotation
from pipeline.sign.key_checks import findings, key_states
from pipeline.sign.keyring import Keyring, opened, temporary
from pipeline.sign.rotation import DAY, Recipe, Rotation, ensure, introduce, retire, schedule
from pipeline.sign.signer import Signer
from pipeline.sign.trust import read_certificates, verify_detached
from support.channel_maker import Key
from support.signer_site import QuickFolder, make_quick

PASSPHRASE = "correct hörse 100%"


class Life:
    """A signer's folders, with a key."""

    def __init__(self, folder: Path, passphrase: str = "") -> None:
        self.folder = folder
        self.home, self.public, self.primary = folder / "gnupg", folder / "public.asc", folder / "offline"
        self.passphrase_file = None
        if passphrase:
            self.passphrase_file = folder / "passphrase"
            self.passphrase_file.write_text(f"{passphrase}\n")

    @property
    def signer(self) -> Signer:
        return Signer(self.folder / "signer", self.home, self.passphrase_file, self.public)

    @property
    def recipe(self) -> Recipe:
        return Recipe("Test", "test@localhost", self.primary, "ed25519")

    def ensure(self, expires: str = "2y") -> Rotation:
        if self.passphrase_file:
            make_quick(self.home)
        return ensure(self.signer, replace(self.recipe, expires=expires))

    def introduce(self, imported: Path | None = None, **more: bool) -> Rotation:
        return introduce(self.signer, self.recipe, imported=imported, **more)

    def schedule(self, days: int = 30, **more: bool) -> Rotation:
        return schedule(self.signer, overlap_days=days, **more)

    def signs(self) -> str:
        """The certificate that signs now; its signature is valid by the trusted keys."""
        with opened(self.home, self.passphrase_file) as gpg:
            key = gpg.signing_key()
            signature = gpg.sign(b"data", key)
        assert verify_detached(b"data", signature, self.public, "data") == key.subkey
        return key.fingerprint

    def all(self) -> dict[str, str]:
        """The text of every file except gpg's, and the secrets of the home."""
        files = (*self.folder.glob("offline/*"), self.public, self.home / "use-from.json")
        secrets = run(["gpg", "--homedir", self.home, "--batch", "--with-colons", "-K"]).stdout
        return {str(path): path.read_text() for path in files if path.is_file()} | {"secrets": secrets}


@pytest.fixture
def life(tmp_path: Path) -> Life:
    made = Life(tmp_path)
    made.ensure()
    return made


def secrets_in(home: Path) -> dict[str, bool]:
    """For each primary key and subkey of the home, true if its secret is there."""
    listed = run(["gpg", "--homedir", home, "--batch", "--with-colons", "-K"]).stdout.splitlines()
    return {line.split(":")[0]: line.split(":")[14] != "#" for line in listed if line[:3] in ("sec", "ssb")}


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE])
def test_the_home_gets_the_subkey_and_another_folder_the_primary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passphrase: str
) -> None:
    made_in: list[Path] = []

    class Noted(QuickFolder):  # other tests make keys in memory at the same time
        def __init__(self, **how: Any) -> None:
            super().__init__(**how)
            made_in.append(Path(self.name))

    monkeypatch.setattr(keyring.tempfile, "TemporaryDirectory", Noted)
    life = Life(tmp_path, passphrase)
    made = life.ensure()
    assert made.signing
    assert secrets_in(life.home) == {"sec": False, "ssb": True}
    assert life.signs() == made.signing.fingerprint

    secret, revocation = (life.primary / f"{made.signing.fingerprint}.{kind}" for kind in ("asc", "rev"))
    assert sorted(life.primary.iterdir()) == [secret, revocation]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (life.primary, secret, revocation)] == [0o700, 0o600, 0o600]
    assert "revocation certificate" in revocation.read_text()

    # With the primary's secret and the passphrase another home can certify.
    with temporary(life.passphrase_file) as gpg:
        gpg.add(secret.read_text())
        assert secrets_in(gpg.home) == {"sec": True, "ssb": True}
        gpg.run_gpg(*gpg.unlocked(), "--quick-set-expire", made.signing.fingerprint, "9y")
    in_memory = [path for path in made_in if path.parent == Path("/dev/shm")]
    assert in_memory
    assert not [path for path in in_memory if path.exists()], "a secret was left in memory"


def test_a_primary_key_that_cannot_be_stored_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "offline").write_text("in the way")
    life = Life(tmp_path)
    with pytest.raises(
        PipelineError, match="the primary key cannot be stored: .*/offline.* signing_primary .*no key was"
    ):
        life.ensure()
    assert secrets_in(life.home) == {}
    assert not life.public.exists()


def test_a_lost_key_is_not_replaced_silently(life: Life, tmp_path: Path) -> None:
    life.home.rename(tmp_path / "lost")
    before = life.public.read_text()
    with pytest.raises(
        PipelineError, match="the signing key is lost: [0-9A-F]{40} is trusted.* docs/keys.md, A lost signer"
    ):
        life.ensure()
    assert life.public.read_text() == before
    # A rotation replaces it. No other key can sign, so the new one signs immediately.
    stands = life.introduce()
    assert stands.signing
    assert life.signs() == stands.signing.fingerprint
    assert list(read_certificates(life.public)) == [*read_certificates_of(before, tmp_path), stands.signing.fingerprint]


def read_certificates_of(text: str, folder: Path) -> list[str]:
    (folder / "keys.asc").write_text(text)
    return list(read_certificates(folder / "keys.asc"))


def test_a_rotation_from_its_beginning_to_the_day_when_the_next_key_signs(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = life.signs()
    before = life.all()
    planned = life.introduce(check=True)
    assert (planned.changes, planned.successor) == (
        ("the next signing key of Test <test@localhost>", str(life.public)),
        None,
    )
    assert life.all() == before

    begun = life.introduce()
    assert begun.successor
    new = begun.successor.fingerprint
    assert list(read_certificates(life.public)) == [old, new]
    assert str(begun) == f"key {old[-16:]} signs; key {new[-16:]} is being distributed to the clients"
    assert life.signs() == old, "the next key signed before clients had it"

    assert life.schedule(check=True).changes
    assert life.signs() == old
    timed = life.schedule()
    assert timed.successor
    assert timed.successor.use_from == pytest.approx(time.time() + 30 * DAY, abs=60)

    # Another run meanwhile reports this and changes nothing.
    before = life.all()
    again = life.introduce()
    assert (again.changes, life.schedule().changes) == ((), ())
    assert str(again).endswith(f"then key {new[-16:]}")
    assert life.all() == before
    assert life.signs() == old

    day = time.time() + 31 * DAY
    monkeypatch.setattr(keyring.time, "time", lambda: day)
    with opened(life.home) as gpg:
        assert gpg.signing_key().fingerprint == new
    # Soon after the switch a run is a repetition; much later it is the next rotation.
    assert life.introduce(check=True).changes == ()
    assert life.introduce(again=True, check=True).changes
    monkeypatch.setattr(keyring.time, "time", lambda: day + 30 * DAY)
    assert life.introduce(check=True).changes


def test_without_overlap_the_next_key_signs_immediately_and_a_rotation_can_be_shortened(life: Life) -> None:
    life.introduce()
    slow = life.schedule(30)
    assert slow.successor
    assert life.signs() != slow.successor.fingerprint
    assert life.schedule(40).changes == (), "a scheduled day moved to a later one"
    done = life.schedule(0)
    assert done.successor is None
    assert life.signs() == slow.successor.fingerprint


def test_the_overlap_ends_before_the_old_key_does(tmp_path: Path) -> None:
    life = Life(tmp_path)
    made = life.ensure(expires="10d")
    assert made.signing
    life.introduce()
    timed = life.schedule(30)
    assert timed.successor
    assert timed.successor.use_from == made.signing.expires - DAY


STEPS = ("write_private", "Keyring.use_from", "Keyring.add", "write_certificates")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rotation_killed_at_any_step_leaves_the_old_key_signing_and_continues(
    life: Life, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    class Killed(BaseException):
        pass

    def killing(real: Callable[..., object]) -> Callable[..., object]:
        def call(*words: object, **more: object) -> None:
            # Calls in the temporary home are another step.
            elsewhere = isinstance(words[0], Keyring) and words[0].name != str(life.home)
            if when == "after" or elsewhere:
                real(*words, **more)
            if not elsewhere:
                raise Killed

        return call

    old = life.signs()
    owner, _, name = step.rpartition(".")
    with monkeypatch.context() as patch:
        where = getattr(rotation, owner) if owner else rotation
        patch.setattr(where, name, killing(getattr(where, name)))
        with pytest.raises(Killed):
            life.introduce()
    assert life.signs() == old
    assert life.ensure().signing.fingerprint == old  # type: ignore[union-attr]

    stands = life.introduce()
    assert stands.successor
    assert stands.successor.use_from is None
    assert life.signs() == old
    assert list(read_certificates(life.public)) == [old, stands.successor.fingerprint]
    life.schedule(0)
    assert life.signs() == stands.successor.fingerprint


def test_a_key_made_elsewhere_is_imported_without_its_primary(life: Life, tmp_path: Path) -> None:
    elsewhere = Life(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    other = elsewhere.ensure().signing
    assert other
    file = elsewhere.primary / f"{other.fingerprint}.asc"  # with the primary's secret, by mistake
    old = life.signs()

    begun = life.introduce(imported=file)
    assert begun.successor
    assert (begun.successor.fingerprint, begun.successor.use_from) == (other.fingerprint, None)
    assert secrets_in(life.home) == {"sec": False, "ssb": True}
    assert sorted(path.stem for path in life.primary.iterdir()) == [old, old]
    assert life.introduce(imported=file).changes == ()
    life.schedule(0)
    assert life.signs() == other.fingerprint
    assert life.introduce(imported=file).changes == ()


def two_keys(life: Life, folder: Path) -> Path:
    file = folder / "two.asc"
    texts = []
    for name in ("a", "b"):
        other = Life(folder / name)
        other.folder.mkdir()
        other.ensure()
        texts += [path.read_text() for path in other.primary.glob("*.asc")]
    file.write_text("".join(texts))
    return file


def another_subkey(life: Life, folder: Path) -> Path:
    """A new subkey of the certificate that clients know."""
    (primary,) = life.primary.glob("*.asc")
    with temporary(None) as gpg:
        gpg.add(primary.read_text())
        old = gpg.signing_keys()[0]
        gpg.run_gpg("--yes", "--passphrase", "", "--pinentry-mode", "loopback", "--quick-add-key", old.fingerprint,
                     "ed25519", "sign", "1y")  # fmt: skip
        fresh = next(key for key in gpg.signing_keys() if key.subkey != old.subkey)
        (folder / "sub.asc").write_text(gpg.run_gpg("--armor", "--export-secret-subkeys", f"{fresh.subkey}!"))
    return folder / "sub.asc"


def a_stranger(life: Life, folder: Path) -> Path:
    life.introduce()
    other = Life(folder / "c")
    other.folder.mkdir()
    other.ensure()
    return next(other.primary.glob("*.asc"))


def with_a_passphrase(life: Life, folder: Path) -> Path:
    other = Life(folder, PASSPHRASE)
    other.home, other.public, other.primary = folder / "h", folder / "p.asc", folder / "o"
    with mock.patch.object(keyring.tempfile, "TemporaryDirectory", QuickFolder):
        other.ensure()
    return next(other.primary.glob("*.asc"))


def self_signing(life: Life, folder: Path) -> Path:
    key = Key.make(folder / "one")
    key.gpg("--armor", "--output", folder / "one.asc", "--export-secret-keys")
    return folder / "one.asc"


def public_only(life: Life, folder: Path) -> Path:
    return life.public


def nothing(life: Life, folder: Path) -> Path:
    return folder / "nowhere.asc"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (two_keys, "the file holds 2 keys that can sign instead of one .*two.asc"),
        (another_subkey, "clients know the certificate [0-9A-F]{40} already, and they accept no other subkey"),
        (a_stranger, "a rotation is under way: .* is being distributed to the clients"),
        (with_a_passphrase, "the signing key [0-9A-F]{40} needs a passphrase"),
        (self_signing, "the primary key of this certificate signs itself"),
        (public_only, "the file holds 0 keys that can sign"),
        (nothing, "the next key cannot be read: .*nowhere.asc"),
    ],
)
def test_an_unsuitable_next_key_is_refused(
    life: Life, tmp_path: Path, given: Callable[[Life, Path], Path], message: str
) -> None:
    file = given(life, tmp_path)
    before = life.all()
    with pytest.raises(PipelineError, match=message):
        life.introduce(imported=file)
    assert life.all() == before


def test_a_retired_key_is_gone_and_the_one_that_signs_stays(life: Life) -> None:
    old = life.signs()
    with pytest.raises(PipelineError, match=f"{old} cannot be retired: no other key signs .*rotate_key.yml first"):
        retire(life.signer, old)
    waiting = life.introduce().successor
    assert waiting
    with pytest.raises(PipelineError, match="no other key signs"):
        retire(life.signer, old)
    # A waiting key can be retired.
    assert len(retire(life.signer, waiting.fingerprint).changes) == 2
    assert list(read_certificates(life.public)) == [old]
    assert (life.home / "use-from.json").read_text() == "{}\n"
    life.introduce()
    life.schedule(0)
    new = life.signs()

    assert len(retire(life.signer, old, check=True).changes) == 2
    assert list(read_certificates(life.public)) == [old, new]
    assert len(retire(life.signer, old).changes) == 2
    assert list(read_certificates(life.public)) == [new]
    assert [key.fingerprint for key in key_states(life.signer, time.time())] == [new]
    assert retire(life.signer, old).changes == ()
    assert life.signs() == new


def test_the_states_of_the_keys(life: Life) -> None:
    old = life.signs()
    begun = life.introduce()
    assert begun.successor
    new = begun.successor
    rows = {row.fingerprint: row for row in key_states(life.signer, time.time())}
    assert [(row.signs_now, row.secret_here, row.trusted) for row in rows.values()] == [
        (True, True, True),
        (False, True, True),
    ]
    assert rows[old].use_from == 0
    assert rows[new.fingerprint].use_from is None
    assert rows[old].uid == "Test <test@localhost>"
    assert rows[old].expires == rows[old].created + 2 * 365 * DAY
    # On a host that has the trusted keys only.
    elsewhere = key_states(replace(life.signer, home=life.folder / "none"), time.time())
    assert {(row.signs_now, row.secret_here, row.trusted) for row in elsewhere} == {(False, False, True)}


def unfit(life: Life, now: float | None = None) -> list[str]:
    return [finding.check for finding in findings(life.signer, now) if not finding.fits]


def test_findings_are_a_key_that_expires_one_that_is_not_trusted_and_a_stopped_rotation(life: Life) -> None:
    assert unfit(life) == []
    soon = time.time() + (2 * 365 - 59) * DAY
    assert unfit(life, soon) == ["signing key"]
    assert "rotate_key.yml now" in findings(life.signer, soon)[0].remedy
    gone = findings(life.signer, time.time() + 3 * 365 * DAY)
    assert [(finding.check, finding.fits) for finding in gone] == [("signing key", False)]
    assert "expired on" in gone[0].found

    life.introduce()
    assert unfit(life) == ["rotation"]
    life.schedule()
    assert unfit(life) == []

    # An old copy of the trusted keys was restored.
    certificates = read_certificates(life.public)
    life.public.write_text(next(iter(certificates.values())))
    assert unfit(life) == ["trusted keys"]
    life.public.unlink()
    assert unfit(life) == ["trusted keys"]
    life.home.rename(life.folder / "lost")
    assert unfit(life) == ["signing key"]


def test_a_key_that_expires_soon_is_no_finding_with_a_successor(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.ensure(expires="40d")
    assert unfit(life) == ["signing key"]
    life.introduce()
    life.schedule()
    assert unfit(life) == []


def test_an_unreadable_use_from_file_is_an_error_and_a_finding(life: Life) -> None:
    (life.home / "use-from.json").write_text('{"x": "tomorrow"}')
    with pytest.raises(
        PipelineError, match="does not map keys to the times from which they sign: .*/gnupg/use-from.json.* Correct it"
    ):
        life.signs()
    assert unfit(life) == ["signing key"]


def test_a_revoked_key_does_not_sign(life: Life) -> None:
    (revocation,) = life.primary.glob("*.rev")
    with opened(life.home) as gpg:
        gpg.add(revocation.read_text().replace("\n:-----BEGIN", "\n-----BEGIN"))
        assert gpg.signing_keys() == []


def test_two_certificates_in_one_block_are_refused(life: Life) -> None:
    life.introduce()
    with opened(life.home) as gpg:
        life.public.write_text(gpg.run_gpg("--armor", "--export"))
    with pytest.raises(PipelineError, match="a block of this file holds 2 certificates, of which rpm reads only one"):
        life.ensure()


def test_a_rotation_by_the_module(run_module, life: Life) -> None:
    paths = {"root": str(life.signer.root), "home": str(life.home), "trusted_keys": str(life.public)}
    home = {"signer": paths}
    new = home | {"name": "Test", "email": "test@localhost", "primary": str(life.primary), "algorithm": "ed25519"}
    old = run_module("signing_key", new)
    assert not old["changed"]

    for check in (True, False):
        begun = run_module("signing_key", new | {"state": "next"}, check=check)
        assert begun["changed"]
    assert "is being distributed to the clients" in begun["step"]["result"]
    assert not run_module("signing_key", new | {"state": "next"})["changed"]
    for check in (True, False):
        timed = run_module("signing_key", home | {"state": "scheduled", "overlap_days": 0}, check=check)
        assert timed["changed"]
    assert timed["fingerprint"] == begun["successor"]
    assert not run_module("signing_key", home | {"state": "scheduled", "overlap_days": 0})["changed"]
    refused = run_module("signing_key", home | {"state": "retired", "fingerprint": timed["fingerprint"]})
    assert "cannot be retired" in refused["msg"]
    for check in (True, False):
        gone = run_module("signing_key", home | {"state": "retired", "fingerprint": old["fingerprint"]}, check=check)
        assert gone["changed"]
    assert str(life.public) in gone["diff"]["after"]
    assert run_module("signing_key", {**home, "state": "next"})["failed"]
