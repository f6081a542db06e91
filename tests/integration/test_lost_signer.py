"""A signer that is lost without a backup: what is refused, and the recipe of docs/keys.md that replaces it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.sign import rotation
from pipeline.sign.key_checks import findings
from pipeline.sign.rpm_signature import verify_signed
from pipeline.sign.trust import KEYS_NAME, read_certificates
from support.loading import load
from support.rotation_site import Operator

PROJECT = Path(__file__).resolve().parents[2]
RECIPE = "docs/keys.md, A lost signer"


def lose(operator: Operator) -> None:
    for folder in (operator.home, operator.folder / "signer", operator.folder / "primary"):
        shutil.rmtree(folder, ignore_errors=True)
    operator.public.unlink()


def test_a_lost_signer_is_replaced_beginning_with_the_keys_that_clients_have(tmp_path: Path) -> None:
    operator = Operator.make(tmp_path)
    old = operator.signs().fingerprint
    package = operator.publish("0.9.1")
    lose(operator)

    # A rotation refuses before it makes a key.
    with pytest.raises(PipelineError, match=f"no key and no trusted keys, .*{RECIPE}"):
        operator.introduce()
    assert not operator.home.exists()
    assert not operator.public.exists()
    with pytest.raises(PipelineError, match=f"the trusted keys cannot be read.*{RECIPE}"):
        operator.names()

    # The recipe. The site's own provisioning refuses to make another first key.
    shutil.copy(operator.web.root / KEYS_NAME, operator.public)
    with pytest.raises(PipelineError, match=f"the signing key is lost: {old} is trusted.*{RECIPE}"):
        rotation.ensure(operator.signer, operator.recipe)
    begun = operator.introduce()
    operator.schedule()
    assert begun.signing
    new = begun.signing.fingerprint
    assert new != old
    for file in (operator.public, operator.web.root / KEYS_NAME, operator.folder / "trusted.asc"):
        assert list(read_certificates(file)) == [old, new]

    # Releases go on, and what the lost key signed stays valid.
    operator.publish("0.9.2")
    assert [name for name in operator.names() if "ada" in name] == [
        "mistralrs-ada-0.9.1-1.fc43.x86_64.rpm",
        "mistralrs-ada-0.9.2-1.fc43.x86_64.rpm",
    ]
    verify_signed(next(operator.web.root.rglob(f"Packages/{package.filename}")), operator.public)
    assert all(finding.fits for finding in findings(operator.signer))


def test_keys_that_lack_a_present_one_are_named(tmp_path: Path) -> None:
    lost_certificates = load(PROJECT / "plugins/filter/lost_certificates.py", "lost_certificates").lost_certificates
    first, second = Operator.make(tmp_path / "first"), Operator.make(tmp_path / "second")
    old, new = first.public.read_text(), second.public.read_text()
    fingerprint = first.signs().fingerprint
    assert lost_certificates(old, new) == [fingerprint]
    assert lost_certificates(old, old + new) == []
    assert lost_certificates(old, new, fingerprint.lower()) == []
    assert lost_certificates("", new) == [], "a first key"
