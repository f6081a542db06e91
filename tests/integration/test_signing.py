"""Keys and signed packages, with real gpg and rpm. An error leaves nothing below the signer's root."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package, sha256_file
from pipeline.base.run import run
from pipeline.sign.keyring import opened
from pipeline.sign.rotation import Recipe, ensure, introduce, retire, schedule
from pipeline.sign.rpm_signature import Signed, sign_package, verify_signed
from pipeline.sign.signer import Signer
from pipeline.sign.trust import read_certificates
from support.channel_maker import Key
from support.signer_site import make_package, make_signer

PASSPHRASE = "correct hörse 100%"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """A key with a passphrase, in a home too deep for a socket's path, with characters special to rpm's macros."""
    folder = tmp_path_factory.mktemp("signer") / ("deep " * 25) / "100%{x}"
    return make_signer(folder, PASSPHRASE)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("unsigned"))


def sign(package: Package, root: Path, signer: Signer, *, check: bool = False) -> Signed:
    return sign_package(package, dataclasses.replace(signer, root=root), check=check)


def test_a_key_is_made_once_with_private_modes(tmp_path: Path) -> None:
    home, public = tmp_path / "gnupg", tmp_path / "public.asc"
    signer = Signer(tmp_path / "signer", home, None, public)
    recipe = Recipe("Test", "test@localhost", tmp_path / "primary", "ed25519", "90d")

    planned = ensure(signer, recipe, check=True)
    assert planned.signing is None
    assert len(planned.changes) == 2
    assert list(tmp_path.iterdir()) == []

    made = ensure(signer, recipe)
    assert made.signing
    assert len(made.changes) == 2
    assert made.signing.subkey != made.signing.fingerprint
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(public.stat().st_mode) == 0o644

    before = public.read_bytes()
    again = ensure(signer, recipe)
    assert (again.signing, again.changes) == (made.signing, ())
    assert public.read_bytes() == before
    assert not list(home.glob("S.*")), "gpg-agent still runs"


def test_the_primary_key_certifies_only(signer: Signer) -> None:
    listed = run(
        ["gpg", "--homedir", signer.home, "--with-colons", "--show-keys", signer.trusted_keys]
    ).stdout.splitlines()
    capabilities = {line.split(":")[0]: line.split(":")[11] for line in listed if line[:3] in ("pub", "sub")}
    assert capabilities == {"pub": "cSC", "sub": "s"}


def test_a_subkey_signs_without_its_primary_key(tmp_path: Path, package: Package) -> None:
    whole = make_signer(tmp_path / "whole")
    with opened(whole.home) as keyring:
        subkeys = run(["gpg", "--homedir", keyring.home, "--armor", "--export-secret-subkeys"]).stdout
    half = dataclasses.replace(whole, home=tmp_path / "half")
    half.home.mkdir(mode=0o700)
    with opened(half.home) as keyring:
        run(["gpg", "--homedir", keyring.home, "--batch", "--import"], stdin=subkeys)
    assert sign(package, tmp_path / "root", half).changed


def test_a_package_is_signed_once_and_its_original_stays(tmp_path: Path, package: Package, signer: Signer) -> None:
    planned = sign(package, tmp_path / "root", signer, check=True)
    assert planned.changed
    assert not (tmp_path / "root").exists()

    first = sign(package, tmp_path / "root", signer)
    assert first.changed
    path = Path(first.package.path)
    assert path.name == package.filename
    assert (first.package.sha256, first.package.size) == (sha256_file(path), path.stat().st_size)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    verify_signed(path, signer.trusted_keys)
    assert sha256_file(Path(package.path)) == package.sha256 != first.package.sha256

    second = sign(package, tmp_path / "root", signer)
    assert (second.changed, second.package) == (False, first.package)


def test_a_signature_stays_when_another_key_signs_and_is_replaced_when_its_key_is_retired(
    tmp_path: Path, package: Package
) -> None:
    """The package may be published by then; another signature would be other bytes under its name."""
    signer = make_signer(tmp_path / "keys")
    old = sign(package, tmp_path / "root", signer).package
    recipe = Recipe("Test", "test@localhost", tmp_path / "primary", "ed25519")
    introduce(signer, recipe)
    schedule(signer, overlap_days=0)
    assert sign(package, tmp_path / "root", signer) == Signed(False, old)

    (first, _) = read_certificates(signer.trusted_keys)
    retire(signer, first)
    new = sign(package, tmp_path / "root", signer)
    assert new.changed
    assert new.package.sha256 != old.sha256
    verify_signed(Path(new.package.path), signer.trusted_keys)


def test_a_damaged_result_is_made_again(tmp_path: Path, package: Package, signer: Signer) -> None:
    done = sign(package, tmp_path, signer).package
    Path(done.path).write_bytes(b"cut off")
    again = sign(package, tmp_path, signer)
    assert again.changed
    verify_signed(Path(again.package.path), signer.trusted_keys)


def test_a_signature_from_the_future_is_made_again(tmp_path: Path, package: Package, signer: Signer) -> None:
    """It was made before the clock was set right, and clients refuse it."""
    early = sign(package, tmp_path, signer).package
    assert not sign(package, tmp_path, signer).changed
    os.utime(Path(early.path).parent / "package.json", (time.time() + 480,) * 2)
    assert sign(package, tmp_path, signer).changed
    assert not sign(package, tmp_path, signer).changed


def test_a_passphrase_is_in_no_argument(
    tmp_path: Path, package: Package, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    for program in ("gpg", "rpmsign", "gpgconf"):
        script = tmp_path / program
        script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {log}\nexec {shutil.which(program)} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sign(package, tmp_path / "root", signer)
    assert "--passphrase-file" in log.read_text()
    assert PASSPHRASE not in log.read_text()


def wrong_passphrase(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    (folder / "wrong").write_text("guess\n")
    return package, dataclasses.replace(signer, passphrase_file=folder / "wrong")


def no_passphrase(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    return package, dataclasses.replace(signer, passphrase_file=None)


def empty_passphrase(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    (folder / "empty").write_text("\n")
    return package, dataclasses.replace(signer, passphrase_file=folder / "empty")


def no_home(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    return package, dataclasses.replace(signer, home=folder / "nowhere", passphrase_file=None)


def no_key(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    (folder / "empty").mkdir(mode=0o700)
    return package, dataclasses.replace(signer, home=folder / "empty", passphrase_file=None)


def expired_key(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    key = Key.make(folder / "expired", clock="20200101T000000", expire="1y")
    return package, Signer(signer.root, key.home, None, key.public)


def untrusted_key(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    return package, dataclasses.replace(signer, trusted_keys=make_signer(folder / "other").trusted_keys)


def changed_package(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    data = Path(package.path).read_bytes()
    (path := folder / package.filename).write_bytes(data[:-3] + b"xyz")
    return dataclasses.replace(package, path=str(path)), signer


def damaged_package(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    changed, _ = changed_package(package, signer, folder)
    return dataclasses.replace(changed, sha256=sha256_file(Path(changed.path))), signer


def no_package(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    return dataclasses.replace(package, path=str(folder / "none.rpm")), signer


def signed_package(package: Package, signer: Signer, folder: Path) -> tuple[Package, Signer]:
    return sign(package, folder / "before", make_signer(folder / "other")).package, signer


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (wrong_passphrase, "the passphrase is not that of the signing key [0-9A-F]{40} (.*/wrong)"),
        (no_passphrase, "the signing key [0-9A-F]{40} needs a passphrase .* Set signing_passphrase_file"),
        (empty_passphrase, "the passphrase is empty, or begins or ends with a space (.*/empty)"),
        (no_home, "there is no signing key: this GnuPG home does not exist .*/nowhere.* module signing_key makes one"),
        (no_key, "there is no signing key .*/empty.* module signing_key makes one"),
        (expired_key, "the signing key [0-9A-F]{40} expired on 2020-12-31 .*rotate_key.yml"),
        (untrusted_key, "rpm does not accept the signature: .*NOKEY.* is the public half of the key"),
        (
            changed_package,
            "the package was changed after it was made: its SHA-256 is .* Build the package again",
        ),
        (damaged_package, "rpm finds the package damaged: .*: BAD .* Build the package again"),
        (no_package, "the package to sign does not exist .*/none.rpm"),
        (signed_package, "the package is signed already: .*key ID .* Pass the unsigned package"),
    ],
)
def test_an_error_names_the_cause_and_leaves_nothing(
    tmp_path: Path,
    package: Package,
    signer: Signer,
    fault: Callable[[Package, Signer, Path], tuple[Package, Signer]],
    message: str,
) -> None:
    given, by = fault(package, signer, tmp_path)
    with pytest.raises(PipelineError, match=message):
        sign(given, tmp_path / "root", by)
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert sha256_file(Path(package.path)) == package.sha256


def test_a_missing_rpmsign_is_named(
    tmp_path: Path, package: Package, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("gpg", "gpgconf", "rpmkeys"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PipelineError, match="the program rpmsign is not installed"):
        sign(package, tmp_path / "root", signer)
    assert list((tmp_path / "root").rglob("*.rpm")) == []


def test_the_modules_make_a_key_and_sign(run_module, tmp_path: Path, package: Package) -> None:
    signer = {
        "root": str(tmp_path),
        "home": str(tmp_path / "gnupg"),
        "passphrase_file": "",
        "trusted_keys": str(tmp_path / "public.asc"),
    }
    new = {"signer": signer, "name": "Test", "email": "test@localhost", "algorithm": "ed25519"}
    assert run_module("signing_key", new, check=True)["changed"]
    made = run_module("signing_key", new)
    assert made["changed"]
    assert made["trusted_keys"] == signer["trusted_keys"]
    again = run_module("signing_key", new)
    assert (again["changed"], again["fingerprint"]) == (False, made["fingerprint"])

    own = tmp_path / "packages/0123" / Path(package.path).name
    own.parent.mkdir(parents=True)
    shutil.copy(package.path, own)
    arguments = {"signer": signer, "package": {**package.to_dict(), "path": str(own)}}
    assert run_module("rpm_signature", arguments, check=True)["changed"]
    signed = run_module("rpm_signature", arguments)
    assert signed["changed"]
    assert signed["step"]["flavour"] == "ada"
    assert not run_module("rpm_signature", arguments)["changed"]

    unbuilt = {**package.to_dict(), "path": "", "sha256": ""}
    assert run_module("rpm_signature", {**arguments, "package": unbuilt}, check=True)["changed"]
    failed = run_module("rpm_signature", {**arguments, "package": signed["package"]})
    assert failed["failed"]
    assert "is no package that this signer made" in failed["msg"]
