"""A repo host that serves another head than the one that the signer knows: every operation refuses it.

The attacker controls the repo host's disk. Some attacks also have a trusted key, as a thief of an older one has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package, Snapshot, Transaction
from pipeline.channel.changes import Change, added
from pipeline.channel.engine import Engine, Result, compose, sign_files, workplace
from pipeline.channel.heads import HeadRefused, Memory
from pipeline.channel.reader import Repository, State
from pipeline.channel.release_package import Request, provide
from pipeline.channel.repo_file import ChannelRow
from pipeline.channel.retention import Retention
from support import PROJECT
from support.signer_site import AGENT, STABLE, Site

OLD, BAD, GOOD, NEXT = (
    f"mistralrs-ada-{version}-1.fc43.x86_64.rpm" for version in ("0.9.0", "0.9.1", "0.9.2", "0.9.3")
)


@dataclass(frozen=True)
class Attacked:
    """A site whose signer knows its head; ``heads`` are all snapshots in order, the head last.

    0.9.0, 0.9.1 and 0.9.2 were published, then 0.9.1, ``bad``, was yanked. ``next`` is 0.9.3, to be published.
    """

    site: Site
    heads: tuple[str, ...]
    bad: Package
    next: Package

    @property
    def tree(self) -> Path:
        return self.site.root / STABLE

    @property
    def engine(self) -> Engine:
        return self.site.engine

    @property
    def watched(self) -> Repository:
        """The repository as the signer reads it."""
        return self.engine.repository

    @property
    def signer_option(self) -> dict[str, object]:
        """The modules' option ``signer``."""
        signer = self.site.signer
        return {"root": str(signer.root), "home": str(signer.home), "trusted_keys": str(signer.trusted_keys)}

    @property
    def repository_option(self) -> dict[str, object]:
        """The modules' option ``repository``."""
        agent = {"rsh": [*AGENT, "--config", str(self.site.folder / "publisher.json"), "--rsh"], "host": "local"}
        return {"channel": "stable", "location": str(self.tree), "agent": agent}

    def serve(self, snapshot: str) -> None:
        """The attack of one line: name another snapshot in the mirrorlist."""
        (self.tree / "mirrorlist").write_text(f"http://repo.invalid/{STABLE}/snapshots/{snapshot}/\n")

    def plant(self, parent: State, change: Change, moment: int) -> Snapshot:
        """Lay a snapshot signed by a stolen key into the tree, past the agent, and serve it."""
        stolen = self.site.signer_in(self.site.folder / "thief")
        with workplace(stolen.root) as work:
            made = compose(work, "stable", self.site.channel, parent, change, stolen, "planted", moment)
            (self.tree / "Packages").mkdir(exist_ok=True)
            for package in (work / "Packages").iterdir():
                shutil.copy(package, self.tree / "Packages")
            shutil.copytree(work / "snapshot", self.tree / "snapshots" / made.id)
        self.serve(made.id)
        return made

    def accepting(self, *heads: str) -> Engine:
        """The engine of a run with -e accept_head=."""
        signer = replace(self.site.signer, accept_head=heads)
        return replace(
            self.engine, repository=Repository(str(self.tree), signer.trusted_keys, self.memory(signer.accept_head))
        )

    def memory(self, accepted: tuple[str, ...] = ()) -> Memory:
        return replace(self.site.memory, accepted=accepted)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, list[Package]]:
    site = Site.make(tmp_path_factory.mktemp("prepared"))
    packages = [site.package(version) for version in ("0.9.0", "0.9.1", "0.9.2", "0.9.3")]
    for package in packages[:3]:
        site.publish(package)
    site.engine.remove([BAD], yank=True, reason="a token in its template")
    return site, packages


@pytest.fixture
def attacked(prepared: tuple[Site, list[Package]], tmp_path: Path) -> Attacked:
    """A copy of the site, whose head the signer has read."""
    original, packages = prepared
    site = original.another(tmp_path)
    heads = tuple(sorted(path.name for path in (site.root / STABLE / "snapshots").iterdir()))
    attacked = Attacked(site, heads, packages[1], packages[3])
    assert attacked.watched.read().yanked == (BAD,)
    return attacked


@pytest.fixture
def refused(attacked: Attacked) -> Iterator[Callable[[str, Callable[[], object]], str]]:
    """A function that asserts that an operation refuses the head; at the end nothing was changed on both sides."""
    before: list[dict[str, str]] = []

    def refused(message: str, operation: Callable[[], object]) -> str:
        before.append(state(attacked))
        with pytest.raises(HeadRefused, match=message) as error:
            operation()
        assert "Nothing was changed." in str(error.value)
        assert "docs/operate.md, A head that the signer refuses" in str(error.value)
        return str(error.value)

    yield refused
    assert before, "nothing was refused"
    assert state(attacked) == before[0]


def state(attacked: Attacked) -> dict[str, str]:
    """Every file of the repository, of the agent's state and of the signer's memory."""
    files = attacked.site.served()
    for folder in (attacked.site.root / ".publisher/stable", attacked.site.memory.folder):
        for path in folder.rglob("*"):
            if path.is_file() and path.name not in ("lock", ".lock"):
                files[str(path)] = path.read_bytes().hex()
    return files


def operations(attacked: Attacked) -> dict[str, Callable[[], object]]:
    """Every operation of the signer that reads a head."""
    engine, packages = attacked.engine, [attacked.next]
    rows = (ChannelRow.of("stable", {"path": STABLE, "repo": "mistralrs.repo"}),)
    root, signer = str(attacked.site.root), attacked.site.signer
    release = Request(rows, root, "http://repo.invalid", "43", signer, PROJECT / "rpm", ())
    return {
        "compare": attacked.watched.read,
        "publish": lambda: engine.publish(packages),
        "stage": lambda: engine.stage(packages),
        "remove": lambda: engine.remove([GOOD]),
        "yank": lambda: engine.remove([GOOD], yank=True),
        "roll back": lambda: engine.rollback(attacked.heads[0]),
        "roll back by one": engine.rollback,
        "prune": lambda: engine.prune(Retention(builds=1)),
        "release package": lambda: provide(release),
    }


def test_a_mirrorlist_that_is_set_back_is_refused_by_every_operation(attacked: Attacked, refused) -> None:
    shutil.copy(attacked.bad.path, attacked.tree / "Packages")
    attacked.serve(attacked.heads[2])
    for name, operation in operations(attacked).items():
        message = refused(f"the head {attacked.heads[2]} is older than the known head, {attacked.heads[3]}", operation)
        assert f"it lacks known yanks: {BAD}" in message, name
        assert f"accept it once: -e accept_head={attacked.heads[2]}" in message, name


def test_a_mirrorlist_that_is_set_back_fails_the_status_and_the_verification(attacked: Attacked, run_module) -> None:
    attacked.serve(attacked.heads[2])
    options = {"signer": attacked.signer_option, "repository": attacked.repository_option}
    before = state(attacked)
    result = run_module("repository_status", options)
    bad = {row["check"]: row for row in result["findings"] if not row["fits"]}
    assert f"is older than the known head, {attacked.heads[3]}" in bad["known head"]["found"]
    assert f"-e accept_head={attacked.heads[2]}" in bad["known head"]["remedy"]
    assert "known head wrong" in result["step"]["result"].replace(", pool", "")
    result = run_module("repository_snapshot", {"state": "verified", **options})
    assert result["failed"]
    assert "is older than the known head" in result["msg"]
    assert state(attacked) == before


def test_a_head_that_is_set_back_between_stage_and_publication_is_refused(attacked: Attacked, refused) -> None:
    """The engine would compose again on the older head, and so lose the yank."""
    staged = attacked.engine.stage([attacked.next])
    assert staged.transaction
    transaction: Transaction = staged.transaction
    attacked.serve(attacked.heads[1])
    refused("is older than the known head", lambda: attacked.engine.publish_staged(transaction, [attacked.next]))


def test_a_head_that_is_set_back_while_a_snapshot_is_composed_is_refused(attacked: Attacked, refused) -> None:
    """The agent reports a moved parent, so the engine starts again: with the memory."""
    upload = type(attacked.site.agent).upload

    class Racing(type(attacked.site.agent)):
        def upload(self, transaction: Transaction) -> None:
            upload(self, transaction)
            attacked.serve(attacked.heads[2])
            refused("is older than the known head", attacked.watched.read)

    racing = Racing(attacked.site.agent.rsh, attacked.site.agent.host)
    with pytest.raises(HeadRefused, match="is older than the known head"):
        replace(attacked.engine, agent=racing).publish([attacked.next])


def test_a_snapshot_that_is_rewritten_under_its_id_is_refused(attacked: Attacked, refused) -> None:
    """A thief of a trusted key signs the head's record again, without the yank."""
    folder = attacked.tree / "snapshots" / attacked.heads[-1]
    record = replace(attacked.site.channel.record(attacked.heads[-1]), yanked=(), reason="nothing happened")
    record.write(folder / "snapshot.json")
    sign_files([folder / "snapshot.json"], attacked.site.signer)
    assert attacked.site.channel.read().yanked == (), "clients and the agent accept it"
    for operation in operations(attacked).values():
        refused(f"the head {record.id} was rewritten: the known one has other content", operation)


def test_a_repository_that_is_emptied_is_refused(attacked: Attacked, refused) -> None:
    """Without a head the signer would build and publish all again, yanked packages included."""
    (attacked.tree / "mirrorlist").unlink()
    refused("the repository is empty, its known head is", attacked.watched.read)
    with pytest.raises(PipelineError, match="the mirrorlist names no snapshot"):  # the agent's own memory
        attacked.engine.publish([attacked.next])


def test_a_repo_host_that_is_emptied_is_refused(attacked: Attacked, run_module) -> None:
    shutil.rmtree(attacked.site.root)
    attacked.site.root.mkdir()
    known = attacked.memory().recall()
    for name in ("compare", "publish", "release package"):
        with pytest.raises(HeadRefused, match=r"the repository is empty, its known head is .* -e accept_head=empty"):
            operations(attacked)[name]()
    result = run_module(
        "repository_status", {"signer": attacked.signer_option, "repository": attacked.repository_option}
    )
    bad = {row["check"]: row for row in result["findings"] if not row["fits"]}
    assert "the repository is empty" in bad["known head"]["found"]
    assert "Back up and restore a repo host" in bad["known head"]["remedy"]
    assert "known head wrong" in result["step"]["result"]
    assert attacked.site.served() == {}
    assert attacked.memory().recall() == known


def test_a_forked_chain_is_refused(attacked: Attacked, refused) -> None:
    """A newer head with the known yank, which was composed beside the known head and lacks a package of it."""
    fork = attacked.site.channel.state(attacked.heads[1])
    now = attacked.site.channel.record(attacked.heads[-1]).time + 60
    planted = attacked.plant(fork, Change(fork, drop=frozenset([BAD]), yank=frozenset([BAD])), now)
    assert planted.yanked == (BAD,)
    refused("does not descend from the known head, .* is no snapshot after the known one", attacked.watched.read)
    refused("does not descend from the known head", lambda: attacked.engine.publish([attacked.next]))


def test_a_chain_with_a_hidden_link_is_refused(attacked: Attacked, refused) -> None:
    """A newer head whose parent the repository does not show: nobody can verify where it comes from."""
    known = attacked.site.channel.state(attacked.heads[-1])
    middle = attacked.plant(known, added(known, [attacked.next]), known.record.time + 10)
    last = attacked.site.channel.state(middle.id)
    attacked.plant(last, Change(last, drop=frozenset([GOOD])), known.record.time + 20)
    shutil.rmtree(attacked.tree / "snapshots" / middle.id)
    refused(f"has no snapshot {middle.id}, a parent of it", attacked.watched.read)


@pytest.mark.parametrize(
    ("first", "dropped"), [(False, True), (True, False)], ids=["its proof failed", "the first one, of a killed run"]
)
def test_a_staged_snapshot_is_refused_as_the_head(attacked: Attacked, first: bool, dropped: bool) -> None:
    """The signer signed it, and it descends from the known head: only the signer knows that it was not published."""
    if first:
        shutil.rmtree(attacked.site.root)
        attacked.site.root.mkdir()
        attacked.memory().path.unlink()
    staged = attacked.engine.stage([attacked.next])
    assert staged.transaction
    assert staged.snapshot
    if dropped:
        kept = attacked.site.folder / "kept"
        shutil.copytree(attacked.tree, kept, symlinks=True)
        attacked.engine.drop(staged.transaction)
        shutil.rmtree(attacked.tree)
        shutil.copytree(kept, attacked.tree, symlinks=True)
    attacked.serve(staged.snapshot.id)
    attacked.site.agent.head("stable")  # the agent finishes a transaction whose snapshot is the head
    before = state(attacked)
    for operation in (attacked.watched.read, lambda: attacked.engine.remove([GOOD, NEXT])):
        with pytest.raises(HeadRefused, match="was staged by this signer, but never published .*accept_head="):
            operation()
    assert state(attacked) == before


def test_a_head_dated_in_the_future_is_refused_even_at_first_contact(attacked: Attacked) -> None:
    """No later snapshot could be published on it."""
    known = attacked.site.channel.state(attacked.heads[-1])
    planted = attacked.plant(known, added(known, [attacked.next]), known.record.time + 10 * 86400)
    shutil.rmtree(attacked.site.memory.folder)
    before = attacked.site.served()
    for accepted in ((), (planted.id,)):
        with pytest.raises(HeadRefused, match=f"the head {planted.id} is dated in the future: .*Check the clocks"):
            attacked.accepting(*accepted).publish([attacked.next])
    assert attacked.site.served() == before
    assert not attacked.site.memory.folder.exists()


def test_a_repository_of_another_channel_is_refused_even_at_first_contact(attacked: Attacked) -> None:
    """The tree of stable, at the address of unstable."""
    place = attacked.tree / "unstable"
    shutil.copytree(attacked.tree, place, symlinks=True)
    memory = Memory.of(attacked.site.signer, "unstable", str(place))
    with pytest.raises(HeadRefused, match="is a snapshot of the channel stable, not unstable"):
        Repository(str(place), attacked.site.signer.trusted_keys, memory).read()
    assert memory.recall() is None


def test_the_repository_of_another_fedora_release_is_refused(attacked: Attacked, prepared) -> None:
    """Its snapshots are signed and of the same channel, but of another chain."""
    other = attacked.site.another(attacked.site.folder / "44", empty=True)
    other.publish(attacked.next)
    shutil.rmtree(attacked.tree)
    shutil.copytree(other.root / STABLE, attacked.tree, symlinks=True)
    before = attacked.site.served()
    with pytest.raises(HeadRefused, match="does not descend from the known head, .*its chain begins with"):
        attacked.watched.read()
    assert attacked.site.served() == before


def damage(path: Path) -> None:
    path.write_text(path.read_text()[:40])


def link(path: Path) -> None:
    """To a file that another account may write."""
    path.rename(path.with_name("copy"))
    path.symlink_to(path.with_name("copy"))


@pytest.mark.parametrize("change", [damage, link])
def test_a_damaged_memory_is_refused_and_stays(attacked: Attacked, refused, change: Callable[[Path], None]) -> None:
    change(attacked.site.memory.path)
    for name in ("compare", "publish", "prune", "release package"):
        message = refused("memory of stable cannot be used: ", operations(attacked)[name])
        assert "Restore the file from a backup of this host" in message, name


# The operator's way out, and what stays allowed.


def test_an_accepted_head_is_yanked_again_by_the_next_snapshot(attacked: Attacked) -> None:
    """The repo host was restored from a backup: the yanked package is back in its pool and in its head."""
    backup = attacked.heads[2]
    package = attacked.tree / "Packages" / BAD
    for name in attacked.heads[3:]:
        shutil.rmtree(attacked.tree / "snapshots" / name)
    shutil.copy(attacked.bad.path, package)
    attacked.serve(backup)
    done: Result = attacked.accepting(backup).prune(Retention())
    assert done.snapshot
    assert (done.snapshot.parent, done.snapshot.yanked, done.removed) == (backup, (BAD,), (BAD,))
    assert "yanked again, since the accepted head lacks these yanks" in done.notes[0]
    assert not package.exists()
    assert attacked.site.names() == [OLD, GOOD]
    assert not attacked.engine.prune(Retention()).changed, "the next run needs no option"


def test_a_yank_is_known_after_an_empty_repository_was_accepted(attacked: Attacked) -> None:
    """The name is refused although the repository never had it."""
    shutil.rmtree(attacked.site.root)
    attacked.site.root.mkdir()
    assert attacked.accepting("empty").repository.read().yanked == (BAD,)
    with pytest.raises(PipelineError, match=f"{BAD} was yanked from this repository, and is never published again"):
        attacked.engine.publish([attacked.bad])
    assert attacked.engine.publish([attacked.next]).snapshot, "others are published again"
    assert attacked.watched.read().yanked == (BAD,)


def test_a_publication_that_was_killed_before_it_was_remembered_is_recognised(
    attacked: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Memory, record: Snapshot, repomd: str) -> None:
        raise KeyboardInterrupt

    staged = attacked.engine.stage([attacked.next])
    assert staged.transaction
    monkeypatch.setattr(Memory, "published", killed)
    with pytest.raises(KeyboardInterrupt):
        attacked.engine.publish_staged(staged.transaction, [attacked.next])
    monkeypatch.undo()
    notes: list[str] = []
    repository = Repository(
        str(attacked.tree), attacked.site.signer.trusted_keys, replace(attacked.memory(), note=notes.append)
    )
    assert NEXT in [package.filename for package in repository.read().packages]
    assert notes == []


def test_the_operators_rollback_goes_forward(attacked: Attacked) -> None:
    done = attacked.engine.rollback(attacked.heads[0])
    assert done.snapshot
    assert done.snapshot.parent == attacked.heads[-1]
    assert attacked.watched.read().packages[0].filename == OLD
    assert attacked.engine.rollback().changed


def test_two_signers_follow_each_other(attacked: Attacked) -> None:
    other = attacked.site.signer_in(attacked.site.folder / "other")
    theirs = Repository(str(attacked.tree), other.trusted_keys, Memory.of(other, "stable", str(attacked.tree)))
    second = replace(attacked.engine, repository=theirs, signer=other)
    second.publish([attacked.next])
    second.remove([NEXT], yank=True, reason="wrong")
    second.rollback(attacked.heads[0])
    assert attacked.engine.remove([OLD]).snapshot, "three snapshots after the known one"
    assert set(theirs.read().yanked) == {BAD, NEXT}
