"""A key rotation by the playbooks, in this order: release, rotation, release by the next key, retiring the old key."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from pipeline.sign.trust import read_certificates

NEXT = {"signing_overlap_days": 0}


@pytest.fixture(scope="module", autouse=True)
def settings(pipeline) -> None:
    """Secrets of the primary keys go to an offline folder; the overlap has its default length."""
    pipeline.settings |= {"signing_primary": str(pipeline.root / "offline"), "signing_overlap_days": 30}


def trusted(pipeline) -> list[str]:
    """The certificates on the site, newest last."""
    return list(read_certificates(pipeline.root / "srv/rpm/RPM-GPG-KEY-mistralrs"))


def test_a_rotation_begins_and_a_second_run_changes_nothing(pipeline):
    run = pipeline.run("release", version="0.9.1")
    assert run.status == 0, run.output
    (old,) = trusted(pipeline)

    run = pipeline.run("rotate_key")
    assert run.status == 0, run.output
    assert re.search(rf"key {old[-16:]} signs until \d{{4}}-\d\d-\d\d, then key [0-9A-F]{{16}}", run.output)
    assert trusted(pipeline)[0] == old
    assert len(trusted(pipeline)) == 2
    new = trusted(pipeline)[1]
    assert sorted(path.name for path in (pipeline.root / "offline").glob(f"{new}*")) == [f"{new}.asc", f"{new}.rev"]

    before = pipeline.state()
    again = pipeline.run("rotate_key")
    assert (again.status, again.changed) == (0, 0), again.output
    assert "published" in again.row("release")
    assert pipeline.state() == before


def test_without_overlap_the_next_key_signs_immediately(pipeline):
    old, new = trusted(pipeline)
    run = pipeline.run("rotate_key", **NEXT)
    assert run.status == 0, run.output
    assert f"key {new[-16:]} signs since" in run.output
    # The same run signs the heads by the new key.
    assert "to be signed by the present key" in run.output
    again = pipeline.run("rotate_key", **NEXT)
    assert (again.status, again.changed) == (0, 0), again.output
    assert trusted(pipeline) == [old, new]


def test_a_client_upgrades_from_a_package_of_the_old_key_to_one_of_the_new_key(pipeline):
    run = pipeline.run("release", version="0.9.2")
    assert run.status == 0, run.output
    assert "upgraded" in run.row("prove", "ada")
    pool = pipeline.channel / "Packages"
    signers = [
        re.search(
            r"Key ID ([0-9a-f]+)",
            subprocess.run(
                ["rpm", "-qpi", "--nosignature", pool / f"mistralrs-ada-{version}-1.fc43.x86_64.rpm"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout,
        )[1]
        for version in ("0.9.1", "0.9.2")
    ]
    assert signers[0] != signers[1]


def test_a_key_that_published_packages_need_is_not_retired(pipeline):
    old, new = trusted(pipeline)
    before = pipeline.state()
    run = pipeline.run("rotate_key", signing_retire=old)
    assert run.status != 0
    assert f"{old} cannot be retired: 1 published packages are signed by it" in run.message
    assert "stable: mistralrs-ada-0.9.1-1.fc43.x86_64.rpm" in run.message
    run = pipeline.run("rotate_key", signing_retire=new)
    assert f"{new} cannot be retired: no other key signs" in run.message
    assert "not a whole fingerprint" in pipeline.run("rotate_key", signing_retire=new[-16:]).message
    assert pipeline.state() == before


def test_an_unneeded_key_is_retired(pipeline):
    old, new = trusted(pipeline)
    names = "mistralrs-ada-0.9.1-1.fc43.x86_64"
    assert pipeline.run("yank", names=names, reason="its key is not trusted any more").status == 0
    for changes in (True, False):
        run = pipeline.run("rotate_key", signing_retire=old)
        assert run.status == 0, run.output
        assert (run.changed > 0) is changes, run.output
        assert trusted(pipeline) == [new]
    assert pipeline.run("status").status == 0
    assert list(read_certificates(Path(pipeline.root, "signer/public.asc"))) == [new]
