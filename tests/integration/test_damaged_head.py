"""A head whose files are damaged: what the messages say, and that a rollback leaves it without losing a yank."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package
from support.signer_site import STABLE, Site

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, list[Package]]:
    """0.9.0 was yanked; then 0.9.1 and 0.9.2 were published."""
    site = Site.make(tmp_path_factory.mktemp("prepared"))
    packages = [site.package(version) for version in ("0.9.0", "0.9.1", "0.9.2")]
    site.publish(packages[0])
    site.publish(packages[1])
    site.engine.remove([packages[0].filename], yank=True, reason="a token")
    site.publish(packages[2])
    return site, packages


def file_of(head: Path, name: str) -> Path:
    """A file of the snapshot, or its metadata of a kind: the folder has older snapshots' files too."""
    if name not in ("primary", "other"):
        return head / name
    found = re.search(rf"repodata/[0-9a-f]+-{name}\.xml\.gz", (head / "repodata/repomd.xml").read_text())
    assert found
    return head / found[0]


def gone(name: str) -> Damage:
    return lambda head: file_of(head, name).unlink()


def cut(name: str) -> Damage:
    def damage(head: Path) -> None:
        data = (path := file_of(head, name)).read_bytes()
        path.unlink()  # other snapshots may have the same file
        path.write_bytes(data[: len(data) // 2])

    return damage


DAMAGE: dict[str, tuple[Damage, str]] = {
    "signature gone": (gone("repodata/repomd.xml.asc"), "repomd.xml.asc is missing"),
    "signature cut": (cut("repodata/repomd.xml.asc"), "the file has no readable signature .*repomd.xml"),
    "repomd.xml cut": (cut("repodata/repomd.xml"), "the signature does not fit the file.*repomd.xml"),
    "snapshot.json cut": (cut("snapshot.json"), "the signature does not fit the file.*snapshot.json"),
    "primary cut": (cut("primary"), "primary.xml.gz does not have the digest"),
    "other gone": (gone("other"), "other.xml.gz is missing"),
    "all gone": (lambda head: [path.unlink() for path in head.rglob("*") if path.is_file()], "repomd.xml is missing"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_rollback_leaves_a_damaged_head(prepared: tuple[Site, list[Package]], tmp_path: Path, name: str) -> None:
    original, (bad, good, late) = prepared
    site = original.another(tmp_path)
    known = site.engine.repository.read().head  # the signer knows this head
    damage, message = DAMAGE[name]
    damage(site.root / STABLE / "snapshots" / known)
    before = site.served()
    # Other operations name the damage and the way out, and change nothing.
    with pytest.raises(PipelineError, match=rf"{message}.*rollback.yml \(docs/operate.md, A damaged snapshot\)"):
        site.engine.remove([late.filename])
    assert site.served() == before

    done = site.engine.rollback()
    assert done.snapshot
    assert (done.snapshot.parent, done.snapshot.yanked) == (known, (bad.filename,))
    assert site.names() == [good.filename]


def test_after_a_damaged_head_releases_go_on(prepared: tuple[Site, list[Package]], tmp_path: Path) -> None:
    original, (bad, good, late) = prepared
    site = original.another(tmp_path)
    known = site.engine.repository.read().head
    head = site.root / STABLE / "snapshots" / known
    DAMAGE["all gone"][0](head)
    row = site.agent.status("stable")["snapshots"][0]
    assert (row["id"], row["packages"], row["staged"]) == (known, 0, False)
    assert row["reason"].startswith("damaged: ")

    before = site.served()
    assert site.engine.rollback(check=True).changed
    assert site.served() == before
    (note,) = site.engine.rollback().notes
    assert f"the head {known} is damaged: repomd.xml is missing ({head}/repodata/repomd.xml)" in note
    with pytest.raises(PipelineError, match="was yanked"):
        site.publish(bad)
    assert site.publish(late).changed
    assert site.names() == [good.filename, late.filename]

    # Retention stops at the damaged snapshot until somebody decides what becomes of it.
    with pytest.raises(PipelineError, match="a snapshot is damaged: .*Restore it from a backup.*move the damaged one"):
        site.agent.prune("stable")
    shutil.rmtree(head)
    site.agent.prune("stable")


def test_a_damaged_head_that_the_signer_does_not_know_stays(
    prepared: tuple[Site, list[Package]], tmp_path: Path
) -> None:
    """Another signer published it, or an attacker: only its signature would say which packages were yanked."""
    site = prepared[0].another(tmp_path)
    DAMAGE["snapshot.json cut"][0](site.root / STABLE / "snapshots" / site.channel.head())
    before = site.served()
    with pytest.raises(PipelineError, match="the signature does not fit the file.*Restore the file"):
        site.engine.rollback()
    assert site.served() == before


def test_a_rollback_trusts_no_name_of_a_damaged_head_and_no_snapshot_that_was_only_staged(
    prepared: tuple[Site, list[Package]], tmp_path: Path
) -> None:
    """The repo host chooses both: what its list of files says, and which snapshots it calls published."""
    original, (_, good, late) = prepared
    site = original.another(tmp_path)
    staged = site.engine.stage([site.package("0.9.3")], reason="its proof fails")
    assert staged.snapshot
    known = site.engine.repository.read().head
    head = site.root / STABLE / "snapshots" / known
    gone("repodata/repomd.xml.asc")(head)
    with (head / "packages.txt").open("a") as stream:
        stream.write(f"{'0' * 64}  ../../up-1.0-1.noarch.rpm\n{'1' * 64}  \x1b[2J-1.0-1.noarch.rpm\n")
    real = type(site.agent).status

    def every_snapshot_published(self: object, channel: str) -> dict[str, object]:
        answer = real(self, channel)
        return answer | {"snapshots": [row | {"staged": False} for row in answer["snapshots"]]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(site.agent), "status", every_snapshot_published)
        with pytest.raises(PipelineError, match=f"the channel has no snapshot {staged.snapshot.id}"):
            site.engine.rollback(staged.snapshot.id)
        done = site.engine.rollback()
    assert done.snapshot
    assert done.snapshot.removed == (late.filename,)
    assert site.names() == [good.filename]
