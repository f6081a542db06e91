"""Snapshots, from composing to publishing by the real agent. Clients see the old state or the new one."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import re
import shutil
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import createrepo_c
import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package, Transaction, sha256_file
from pipeline.channel import engine
from pipeline.channel.agent_client import AgentClient, Busy, Look
from pipeline.channel.changes import added
from pipeline.channel.engine import Engine, workplace
from pipeline.channel.metadata import TYPES, entry_of
from pipeline.channel.reader import EMPTY
from pipeline.sign.keyring import opened
from support.signer_site import COMMIT, STABLE, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.make(tmp_path)


def composing(site: Site) -> list[str]:
    """The folders in which snapshots are composed."""
    return [path.name for path in (site.folder / "signer/compose").iterdir()]


def test_a_first_and_a_second_snapshot(site: Site) -> None:
    first, second = site.package("0.9.1"), site.package("0.9.2")
    one = site.publish(first)
    assert one.snapshot
    assert (one.snapshot.parent, one.snapshot.added) == ("", (first.filename,))

    two = site.publish(second)
    assert two.snapshot
    assert (two.snapshot.parent, two.snapshot.added) == (one.head, (second.filename,))
    assert (two.before, two.after, two.added) == (
        (first.filename,),
        (first.filename, second.filename),
        (second.filename,),
    )

    published = site.channel.read()
    assert published.head == two.head == two.snapshot.id
    assert published.packages == tuple(replace(package, path=package.filename) for package in (first, second))
    assert {package.commit for package in published.packages} == {COMMIT}
    assert published.revision > site.channel.read(one.head).revision
    assert composing(site) == [".lock"]


def test_the_records_of_a_published_package_never_change(site: Site) -> None:
    heads = [site.publish(site.package(version)).head for version in ("0.9.2", "0.9.1", "0.9.3")]
    for kind in TYPES:
        states = [site.channel.state(head) for head in heads]
        old, *_, new = [gzip.decompress(site.channel.packed(state, kind)).decode() for state in states]
        (record,) = re.findall(r"<package .*</package>\n", old, re.DOTALL)
        assert record in new
        order = re.findall(r'<version epoch="0" ver="(.*?)"', new)
        assert order == ["0.9.1", "0.9.2", "0.9.3"], "in the order of their file names"


def test_publishing_is_idempotent(site: Site) -> None:
    package = site.package()
    one = site.publish(package)
    before = site.served()
    again = site.publish(package)
    assert (again.changed, again.head, again.snapshot) == (False, one.head, None)
    assert site.served() == before


def test_the_same_name_with_other_bytes_is_refused(site: Site) -> None:
    site.publish(site.package())
    before = site.served()
    other = site.package(text="other")
    with pytest.raises(PipelineError, match="is published with other bytes: .*raise package_release"):
        site.publish(other)
    assert site.served() == before


def test_check_mode_returns_the_change_and_does_nothing(site: Site) -> None:
    package = site.package()
    planned = site.publish(package, check=True)
    assert (planned.changed, planned.before, planned.after) == (True, (), (package.filename,))
    assert site.served() == {}
    assert not (site.folder / "signer/compose").exists()


@dataclass(frozen=True)
class Overtaken(AgentClient):
    """A client of the agent that another publisher overtakes before each of its first publications."""

    engine: Engine
    others: list[Package]
    sent: list[Transaction] = field(default_factory=list)

    def upload(self, transaction: Transaction) -> None:
        self.sent.append(transaction)
        super().upload(transaction)

    def publish(self, transaction: Transaction) -> str:
        if self.others:
            self.engine.publish([self.others.pop()])
        return super().publish(transaction)


def overtaken(site: Site, others: list[Package], tries: int = 100) -> tuple[Engine, Overtaken]:
    agent = Overtaken(site.agent.rsh, site.agent.host, site.engine, list(others))
    return replace(site.engine, agent=agent, tries=tries), agent


def test_two_publishers_never_lose_each_others_packages(site: Site) -> None:
    others = [site.package("0.9.0"), site.package("0.9.1")]
    mine = site.package("0.9.2")
    engine, agent = overtaken(site, others)
    outcome = engine.publish([mine])
    names = sorted(package.filename for package in (*others, mine))
    assert (list(outcome.after), site.names()) == (names, names)
    assert len({transaction.id for transaction in agent.sent}) == 1, "the packages are not sent again"
    assert [len(transaction.snapshot.added) for transaction in agent.sent] == [1, 1, 1]


def test_published_packages_are_not_read(site: Site) -> None:
    published, mine = site.package("0.9.1"), site.package("0.9.2")
    site.publish(published)
    Path(published.path).unlink()
    assert site.publish(published, mine).added == (mine.filename,)


def test_the_entry_of_a_new_package_is_that_of_createrepo_c_from_the_whole_file(site: Site) -> None:
    package = site.package()
    read = createrepo_c.package_from_rpm(package.path, location_href=f"Packages/{package.filename}")
    read.time_file = read.time_build  # the package's own time, not that of the copy
    assert tuple(text.decode() for text in entry_of(package).texts.values()) == createrepo_c.xml_dump(read)


def test_a_package_that_another_publisher_adds_meanwhile_is_not_added_again(site: Site) -> None:
    mine = [site.package("0.9.1"), site.package("0.9.2")]
    engine, agent = overtaken(site, mine[:1])
    assert engine.publish(mine).added == (mine[1].filename,)
    assert site.names() == [package.filename for package in mine]
    assert [transaction.snapshot.added for transaction in agent.sent] == [
        tuple(package.filename for package in mine),
        (mine[1].filename,),
    ]


def test_a_publisher_that_is_always_overtaken_fails(site: Site) -> None:
    others = [site.package(f"0.9.{number}") for number in range(2)]
    with pytest.raises(PipelineError, match="other publishers were faster 2 times while this snapshot was composed"):
        overtaken(site, others, tries=2)[0].publish([site.package("1.0.0")])
    assert site.names() == [package.filename for package in others]


def test_a_busy_agent_is_retried(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Busy] = []
    upload = AgentClient.upload

    def busy(self: AgentClient, transaction: Transaction) -> None:
        if len(raised) < 2:
            raised.append(Busy("this transaction is being uploaded already", transaction.id, "Wait for it"))
            raise raised[-1]
        upload(self, transaction)

    monkeypatch.setattr(AgentClient, "upload", busy)
    with pytest.raises(PipelineError, match="is being uploaded already"):
        replace(site.engine, tries=1).publish([site.package()])
    assert site.served() == {}
    assert site.publish(site.package()).changed
    assert len(raised) == 2


def test_a_broken_upload_is_resumed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    package = site.package()
    seen: list[str] = []
    upload = AgentClient.upload

    def broken(self: AgentClient, transaction: Transaction) -> None:
        upload(self, transaction)
        seen.append(transaction.id)
        if len(seen) == 1:
            raise PipelineError("the line went down")

    monkeypatch.setattr(AgentClient, "upload", broken)
    with pytest.raises(PipelineError, match="the line went down"):
        site.publish(package)
    assert site.served() == {}
    assert site.publish(package).changed
    assert seen[0] == seen[1]


def test_without_room_on_the_repo_host_nothing_is_uploaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(self: AgentClient, channel: str) -> Look:
        return Look("", 1000)

    package = site.package()
    monkeypatch.setattr(AgentClient, "look", look)
    with pytest.raises(PipelineError, match=f"has room for 1,000 bytes, the packages need {package.size:,}.*prune"):
        site.publish(package)
    assert not list((site.root / ".publisher").rglob("tx-*"))


def test_a_signer_whose_clock_is_ahead_signs_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """rpm 6 and dnf5 would refuse the package and the snapshot until their clocks are there."""
    real = AgentClient._ask
    late: list[float] = [480]
    monkeypatch.setattr(
        AgentClient,
        "_ask",
        lambda self, *words, **more: (answer := real(self, *words, **more)) | {"time": answer.get("time", 0) - late[0]},
    )
    package = site.package()
    with pytest.raises(
        PipelineError, match="the signer's clock is 4[78][0-9] s ahead of the repo host's: .* UTC here, .* UTC"
    ):
        site.publish(package)
    assert site.served() == {}
    assert not (site.signer.root / "compose").exists(), "it was composed and signed"
    late[0] = -480
    assert site.publish(package).changed, "a signer that is behind publishes"
    late[0] = 480
    assert not site.publish(package).changed, "without a change nothing is signed"


def test_uploaded_files_need_no_more_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(self: AgentClient, channel: str) -> Look:
        return Look("", 0)

    def publish(self: AgentClient, transaction: Transaction) -> str:
        raise PipelineError("the line went down")

    package = site.package()
    monkeypatch.setattr(AgentClient, "publish", publish)
    with pytest.raises(PipelineError, match="the line went down"):
        site.publish(package)
    monkeypatch.undo()
    monkeypatch.setattr(AgentClient, "look", look)
    assert site.publish(package).changed


def test_the_same_inputs_give_the_same_metadata(site: Site) -> None:
    package = site.package()
    made = []
    for name in ("a", "b"):
        shutil.copy(package.path, copy := site.folder / name)  # with another time
        change = added(EMPTY, [replace(package, path=str(copy))])
        with workplace(site.folder / "work") as work:
            engine.compose(work, "stable", site.channel, EMPTY, change, site.signer, "test", 1_700_000_000)
            files = sorted(path for path in work.rglob("*") if path.is_file() and path.suffix != ".asc")
            made.append({str(path.relative_to(work)): sha256_file(path) for path in files})
    assert made[0] == made[1]
    assert len(made[0]) == len(TYPES) + 4


def test_a_killed_run_does_not_block_the_next(site: Site) -> None:
    """It is killed during its upload; the folder of a running one stays."""
    package = site.package()

    def upload(self: AgentClient, transaction: Transaction) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        AgentClient.upload = upload  # type: ignore[method-assign]
        site.publish(package)

    (killed := multiprocessing.get_context("fork").Process(target=run)).start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    (dead,) = (name for name in composing(site) if name != ".lock")
    with workplace(site.folder / "signer/compose") as living:
        assert dead not in composing(site)
        (living / "mine").touch()
        assert site.publish(package).changed
        assert (living / "mine").exists()
    assert composing(site) == [".lock"]


def damage_signature(site: Site, head: str) -> None:
    path = site.root / f"{STABLE}/snapshots/{head}/repodata/repomd.xml"
    path.write_text(path.read_text() + "\n")


def damage_metadata(site: Site, head: str) -> None:
    (path,) = (site.root / f"{STABLE}/snapshots/{head}/repodata").glob("*-filelists.xml.gz")
    path.write_bytes(b"damaged")


def damage_record(site: Site, head: str) -> None:
    path = site.root / f"{STABLE}/snapshots/{head}/snapshot.json"
    path.write_text(path.read_text().replace('"yanked": []', '"yanked": ["x.rpm"]'))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_signature, "the signature does not fit the file"),
        (damage_metadata, "does not have the digest that the signed repomd.xml gives"),
        (damage_record, r"the signature does not fit the file.*snapshot\.json"),
    ],
)
def test_nothing_is_composed_on_a_changed_parent(site: Site, damage, message: str) -> None:
    damage(site, site.publish(site.package("0.9.1")).head)
    before = site.served()
    with pytest.raises(PipelineError, match=message):
        site.publish(site.package("0.9.2"))
    assert site.served() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data + b"\0", "the package was changed after it was signed .* sign it again"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "not the one that the signed metadata names"),
    ],
    ids=["by the signer", "by the agent"],
)
def test_a_package_that_was_changed_after_signing_is_refused(site: Site, change, message: str) -> None:
    package = site.package()
    path = Path(package.path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(PipelineError, match=message):
        site.publish(package)
    assert site.served() == {}


def test_a_missing_file_and_a_file_of_another_kind_are_named(site: Site) -> None:
    package = site.package()
    (none := site.folder / "none.rpm").write_bytes(b"-" * package.size)
    for path in (site.folder / "gone.rpm", none):
        with pytest.raises(PipelineError, match=f"not a readable RPM package: .*{path}"):
            site.publish(replace(package, path=str(path)))
    assert site.served() == {}


def test_every_gpg_agent_ended(site: Site) -> None:
    with opened(site.signer.home) as keyring:
        keyring.signing_key()
    assert not list(site.signer.home.glob("S.*"))
