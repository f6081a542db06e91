"""Snapshots, from composing to the commit of the real agent. Clients see the old state or the new."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from pipeline import snapshot
from pipeline.errors import PipelineError
from pipeline.keys import opened
from pipeline.publisher import Publisher
from pipeline.records import Package, Transaction, sha256_file
from signer_site import COMMIT, STABLE, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.make(tmp_path)


def test_a_first_and_a_second_snapshot(site: Site) -> None:
    first, second = site.package("0.9.1"), site.package("0.9.2")
    one = site.publish(first)
    assert one.snapshot
    assert (one.snapshot.parent, one.snapshot.added) == ("", (first.filename,))

    two = site.publish(second)
    assert two.snapshot
    assert (two.snapshot.parent, two.snapshot.added) == (one.head, (second.filename,))
    assert (two.before, two.after) == ((first.filename,), (first.filename, second.filename))

    published = site.channel.read()
    assert published.head == two.head == two.snapshot.id
    assert published.packages == tuple(
        dataclasses.replace(package, path=package.filename) for package in (first, second)
    )
    assert {package.commit for package in published.packages} == {COMMIT}
    assert published.revision > site.channel.read(one.head).revision
    old, new = ({entry.filename: entry for entry in site.channel.entries(head)[1]} for head in (one.head, two.head))
    assert new[first.filename] == old[first.filename], "the records of a published package never change"
    assert not list((site.folder / "signer/compose/stable").iterdir())


def test_what_is_published_is_not_published_again(site: Site) -> None:
    package = site.package()
    one = site.publish(package)
    before = site.served()
    again = site.publish(package)
    assert (again.changed, again.head, again.snapshot) == (False, one.head, None)
    assert site.served() == before


def test_published_packages_are_not_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = site.package("0.9.1"), site.package("0.9.2")
    site.publish(first)
    Path(first.path).unlink()
    read: list[str] = []
    entry_of = snapshot.entry_of
    monkeypatch.setattr(snapshot, "entry_of", lambda path, name: (read.append(name), entry_of(path, name))[1])
    assert site.publish(first, second).snapshot
    assert read == [second.filename]


def test_the_same_name_with_other_bytes_is_refused(site: Site) -> None:
    site.publish(site.package())
    before = site.served()
    other = site.package(text="other")
    with pytest.raises(PipelineError, match="is published with other bytes: .*raise package_release"):
        site.publish(other)
    assert site.served() == before


def test_check_mode_tells_and_changes_nothing(site: Site) -> None:
    package = site.package()
    planned = site.publish(package, check=True)
    assert (planned.changed, planned.before, planned.after) == (True, (), (package.filename,))
    assert site.served() == {}
    assert not (site.folder / "signer/compose").exists()


@dataclasses.dataclass(frozen=True)
class Busy:
    """The agent, while others publish just before each of the first commits."""

    site: Site
    others: list[Package]

    def head(self, channel: str) -> str:
        return self.site.agent.head(channel)

    def upload(self, transaction: Transaction) -> None:
        self.site.agent.upload(transaction)

    def commit(self, transaction: Transaction) -> str:
        if self.others:
            self.site.publish(self.others.pop())
        return self.site.agent.commit(transaction)


def test_two_publishers_never_lose_each_others_packages(site: Site) -> None:
    others = [site.package("0.9.0"), site.package("0.9.1")]
    names = {package.filename for package in others}
    mine = site.package("0.9.2")
    outcome = site.publish(mine, agent=Busy(site, others))
    assert set(outcome.after) == {*names, mine.filename}
    assert {package.filename for package in site.channel.read().packages} == {*names, mine.filename}


def test_a_publisher_that_never_gets_its_turn_says_so(site: Site) -> None:
    others = [site.package(f"0.9.{number}") for number in range(2)]
    names = {package.filename for package in others}
    with pytest.raises(PipelineError, match="others published 2 times while this snapshot was composed"):
        site.publish(site.package("1.0.0"), agent=Busy(site, others), tries=2)
    assert {package.filename for package in site.channel.read().packages} == names


def test_a_broken_upload_is_gone_on_with(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    package = site.package()
    seen: list[str] = []
    upload = Publisher.upload

    def broken(self: Publisher, transaction: Transaction) -> None:
        upload(self, transaction)
        seen.append(transaction.id)
        if len(seen) == 1:
            raise PipelineError("the line went down")

    monkeypatch.setattr(Publisher, "upload", broken)
    with pytest.raises(PipelineError, match="the line went down"):
        site.publish(package)
    assert site.served() == {}
    assert site.publish(package).changed
    assert seen[0] == seen[1]


def test_the_same_inputs_give_the_same_metadata(site: Site) -> None:
    package = site.package()
    made = []
    for name in ("a", "b"):
        shutil.copy(package.path, copy := site.folder / name)  # its time differs
        transaction = snapshot.compose(
            "stable",
            "",
            [],
            [dataclasses.replace(package, path=str(copy))],
            signer=site.signer,
            root=site.folder / "signer",
            reason="test",
            moment=1_700_000_000,
        )
        folder = Path(transaction.folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".asc")
        assert all(path.stat().st_mode & 0o777 == 0o644 for path in files)
        made.append({str(path): sha256_file(path) for path in files})
    assert made[0] == made[1]


def spoil_signature(site: Site, head: str) -> None:
    path = site.root / STABLE / f"snapshots/{head}/repodata/repomd.xml"
    path.write_text(path.read_text() + "\n")


def spoil_metadata(site: Site, head: str) -> None:
    (path,) = (site.root / STABLE / f"snapshots/{head}/repodata").glob("*-filelists.xml.gz")
    path.write_bytes(b"spoilt")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_signature, "the signature does not fit the file"),
        (spoil_metadata, "does not have the digest that the signed repomd.xml gives"),
    ],
)
def test_nothing_is_composed_on_a_parent_that_was_changed(site: Site, spoil, message: str) -> None:
    spoil(site, site.publish(site.package("0.9.1")).head)
    before = site.served()
    with pytest.raises(PipelineError, match=message):
        site.publish(site.package("0.9.2"))
    assert site.served() == before


def test_a_package_that_was_changed_after_signing_is_refused(site: Site) -> None:
    package = site.package()
    path = Path(package.path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(PipelineError, match="the package was changed after it was signed"):
        site.publish(package)
    assert site.served() == {}


def test_the_modules_compare_and_publish(run_module, site: Site, flavours: dict[str, dict[str, object]]) -> None:
    package = site.package()
    location = str(site.root / STABLE)
    release = {
        "location": location,
        "channel": "stable",
        "packages": [package.to_dict()],
        "root": str(site.folder / "signer"),
        "home": str(site.signer.home),
        "public_key": str(site.signer.public_key),
        "publisher": {"rsh": list(site.agent.rsh), "host": "local"},
        "reason": "release 0.9.2",
    }
    source = {
        "url": "https://example.org/up.git",
        "ref": "v0.9.2",
        "kind": "tag",
        "commit": COMMIT,
        "commit_time": 1,
        "version": "0.9.2",
        "rpm_version": "0.9.2",
    }
    wanted = {
        "location": location,
        "channel": "stable",
        "key": str(site.signer.public_key),
        "source": source,
        "flavours": list(flavours.values()),
        "flavour": "ada",
        "dist": ".fc43",
    }
    compared = run_module("channel_packages", wanted)
    assert (compared["head"], compared["packages"]) == ("", [])
    assert [row["name"] for row in compared["missing"]] == ["ada"]
    assert compared["wanted"] == compared["missing"]

    planned = run_module("channel_snapshot", release, check=True)
    assert (planned["changed"], planned["head"], planned["added"]) == (True, "", [package.filename])
    assert planned["diff"] == {"before": "", "after": f"{package.filename}\n"}
    done = run_module("channel_snapshot", release)
    assert done["changed"]
    assert done["url"] == f"{location}/snapshots/{done['head']}/"
    assert done["snapshot"]["reason"] == "release 0.9.2"
    again = run_module("channel_snapshot", release)
    assert (again["changed"], again["head"], again["packages"]) == (False, done["head"], [package.to_dict()])

    compared = run_module("channel_packages", wanted)
    assert (compared["head"], compared["missing"]) == (done["head"], [])
    assert [row["path"] for row in compared["present"]] == [package.filename]
    moved = run_module("channel_packages", {**wanted, "source": {**source, "commit": "f" * 40}})
    assert "tag v0.9.2 moved" in moved["msg"]


def test_every_agent_of_gpg_ended(site: Site) -> None:
    with opened(site.signer.home) as keyring:
        keyring.signing_key()
    assert not list(site.signer.home.glob("S.*"))
