"""Every step can be undone: a staged snapshot dropped, packages removed or yanked, the channel rolled back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package, Transaction
from pipeline.channel.agent_client import AgentClient
from pipeline.channel.engine import Engine, Result
from support.signer_site import STABLE, Site

VERSIONS = ("0.9.0", "0.9.1", "0.9.2")
OLD, MIDDLE, NEW = (f"mistralrs-ada-{version}-1.fc43.x86_64.rpm" for version in VERSIONS)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, list[Package]]:
    """A channel with three releases, each of one package, and these with a fourth."""
    site = Site.make(tmp_path_factory.mktemp("start"))
    packages = [site.package(version) for version in (*VERSIONS, "1.0.0")]
    for package in packages[:3]:
        site.publish(package)
    return site, packages


@pytest.fixture
def packages(prepared: tuple[Site, list[Package]]) -> list[Package]:
    return prepared[1]


@pytest.fixture
def site(prepared: tuple[Site, list[Package]], tmp_path: Path) -> Site:
    return prepared[0].another(tmp_path)


@pytest.fixture
def empty(prepared: tuple[Site, list[Package]], tmp_path: Path) -> Site:
    return prepared[0].another(tmp_path, empty=True)


@pytest.fixture
def heads(site: Site) -> list[str]:
    """The ids of the channel's snapshots, oldest first."""
    return sorted(path.name for path in (site.root / STABLE / "snapshots").iterdir())


def pool(site: Site) -> list[str]:
    return sorted(path.name for path in (site.root / STABLE / "Packages").iterdir())


def journal(site: Site) -> list[dict[str, object]]:
    return [json.loads(line) for line in (site.root / ".publisher/stable/journal").read_text().splitlines()]


def changes(done: Result) -> tuple[bool, tuple[str, ...], tuple[str, ...]]:
    return done.changed, done.added, done.removed


# Staged


def test_a_staged_snapshot_is_complete_and_not_the_head(empty: Site, packages: list[Package]) -> None:
    head = empty.publish(packages[0]).head
    staged = empty.stage(packages[1])
    assert staged.transaction
    assert staged.snapshot == staged.transaction.snapshot
    assert (staged.head, empty.channel.head(), staged.snapshot.parent) == (head, head, head)
    assert empty.names(staged.snapshot.id) == [OLD, MIDDLE]

    done = empty.engine.publish_staged(staged.transaction, packages[1:2])
    assert (changes(done), done.head) == ((True, (MIDDLE,), ()), staged.snapshot.id)
    assert empty.channel.head() == staged.snapshot.id, "the proved snapshot is the published one"
    again = empty.engine.publish_staged(staged.transaction, packages[1:2])
    assert (changes(again), again.head, again.after) == ((False, (), ()), done.head, (OLD, MIDDLE))


def test_a_staged_snapshot_is_composed_again_after_another_publication(empty: Site, packages: list[Package]) -> None:
    staged = empty.stage(packages[0])
    assert staged.transaction
    other = empty.publish(packages[1]).head
    done = empty.engine.publish_staged(staged.transaction, packages[:1])
    assert done.snapshot
    assert done.snapshot.parent == other
    assert empty.names() == [OLD, MIDDLE]
    assert not (empty.root / STABLE / "snapshots" / staged.transaction.snapshot.id).exists()


def test_staging_again_replaces_the_snapshot_of_a_killed_run(empty: Site, packages: list[Package]) -> None:
    first = empty.stage(packages[0])
    second = empty.stage(packages[0])
    assert first.transaction
    assert second.transaction
    assert first.transaction.id == second.transaction.id
    assert empty.engine.publish_staged(second.transaction, packages[:1]).changed
    assert [row["id"] for row in empty.agent.status("stable")["snapshots"]] == [second.transaction.snapshot.id]


def test_a_dropped_snapshot_leaves_no_trace(empty: Site, packages: list[Package]) -> None:
    empty.publish(packages[0])
    before = empty.served()
    staged = empty.stage(packages[1])
    assert staged.transaction
    assert MIDDLE in pool(empty)
    assert empty.engine.drop(staged.transaction, check=True).changed
    assert MIDDLE in pool(empty)
    assert empty.engine.drop(staged.transaction).changed
    assert empty.served() == before
    assert not empty.engine.drop(staged.transaction).changed
    with pytest.raises(PipelineError):
        empty.engine.publish_staged(staged.transaction, packages[1:2])
    assert empty.served() == before


# Removed


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ([NEW], [OLD, MIDDLE]),
        ([NEW.removesuffix(".rpm"), OLD], [MIDDLE]),
        (["mistralrs-*-0.9.[12]-*"], [OLD]),
        ([OLD, MIDDLE, NEW], []),
    ],
)
def test_packages_are_removed_from_the_head_alone(
    site: Site, heads: list[str], patterns: list[str], left: list[str]
) -> None:
    gone = tuple(sorted({OLD, MIDDLE, NEW} - set(left)))
    before = site.served()
    assert changes(site.engine.remove(patterns, check=True)) == (True, (), gone)
    assert site.served() == before
    done = site.engine.remove(patterns, reason="superseded")
    assert changes(done) == (True, (), gone)
    assert site.names() == left
    assert site.names(heads[-1]) == [OLD, MIDDLE, NEW]
    assert pool(site) == [OLD, MIDDLE, NEW], "older snapshots stay installable"
    assert (journal(site)[-1]["removed"], journal(site)[-1]["reason"]) == (list(gone), "superseded")
    assert changes(site.engine.remove(patterns)) == (False, (), ())


def test_a_removed_package_can_be_added_again(site: Site, packages: list[Package], heads: list[str]) -> None:
    site.engine.remove([MIDDLE])
    assert changes(site.publish(packages[1])) == (True, (MIDDLE,), ())
    assert site.names() == [OLD, MIDDLE, NEW]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["mistralrs-adda-0.9.2-1.fc43.x86_64"], "no package of the channel matches mistralrs-adda-0.9.2"),
        ([NEW, "mistralrs-*-1.0-*"], r"no package of the channel matches mistralrs-\*-1\.0-\*"),
        (["mistralrs-ada"], "no package of the channel matches mistralrs-ada "),
        (["*"], r"\* would remove all 3 packages of the channel"),
        ([NEW, "*-0.9.[01]-*"], r"\*-0\.9\.\[01\]-\* would remove all 3 packages"),
        (["../../mirrorlist"], "no package of the channel matches"),
    ],
)
def test_a_pattern_that_matches_nothing_or_everything_is_refused(
    site: Site, heads: list[str], patterns: list[str], message: str
) -> None:
    before = site.served()
    for yank in (False, True):
        with pytest.raises(PipelineError, match=message):
            site.engine.remove(patterns, yank=yank)
    assert site.served() == before


# Yanked


def test_a_yanked_package_is_removed_and_its_name_is_never_reused(
    site: Site, packages: list[Package], heads: list[str]
) -> None:
    done = site.engine.remove(["*-0.9.1-*"], yank=True, reason="a token in its template")
    assert done.snapshot
    assert (changes(done), done.snapshot.yanked) == ((True, (), (MIDDLE,)), (MIDDLE,))
    assert pool(site) == [OLD, NEW]
    assert site.channel.read().yanked == (MIDDLE,)
    for again in (["*-0.9.1-*"], [MIDDLE]):
        assert changes(site.engine.remove(again, yank=True)) == (False, (), ())

    before = site.served()
    with pytest.raises(PipelineError, match=f"{MIDDLE} was yanked from this repository, .*Raise package_release"):
        site.publish(packages[1])
    assert site.served() == before
    site.publish(packages[3])
    assert site.channel.read().yanked == (MIDDLE,), "later snapshots remember it"


def test_a_removed_package_can_still_be_yanked(site: Site, heads: list[str]) -> None:
    site.engine.remove([MIDDLE])
    site.engine.remove([OLD])
    before = site.names()
    for pattern, gone in (("*-0.9.0-*", OLD), (MIDDLE, MIDDLE)):  # by the last snapshot, and by the pool
        done = site.engine.remove([pattern], yank=True)
        assert done.changed
        assert gone not in pool(site)
    assert site.names() == before
    assert site.channel.read().yanked == (OLD, MIDDLE)


# Rolled back


def test_a_channel_is_rolled_back_to_an_older_snapshot(site: Site, heads: list[str]) -> None:
    before = site.served()
    assert changes(site.engine.rollback(heads[0], check=True)) == (True, (), (MIDDLE, NEW))
    assert site.served() == before
    done = site.engine.rollback(heads[0], reason="0.9.1 and later answer nonsense")
    assert done.snapshot
    assert (changes(done), done.snapshot.parent) == ((True, (), (MIDDLE, NEW)), heads[-1])
    assert site.names() == [OLD]
    assert pool(site) == [OLD, MIDDLE, NEW]
    assert changes(site.engine.rollback(heads[0])) == (False, (), ())


def test_a_second_rollback_undoes_the_first(site: Site, heads: list[str]) -> None:
    assert changes(site.engine.rollback()) == (True, (), (NEW,))
    assert changes(site.engine.rollback()) == (True, (NEW,), ())
    assert site.names() == [OLD, MIDDLE, NEW]


def test_a_rollback_omits_packages_yanked_since(site: Site, heads: list[str]) -> None:
    site.engine.remove([OLD], yank=True)
    done = site.engine.rollback(heads[1])
    assert (changes(done), done.notes) == ((True, (), (NEW,)), (f"omitted because they were yanked: {OLD}",))
    assert site.names() == [MIDDLE]
    with pytest.raises(PipelineError, match=f"all packages of the snapshot {heads[0]} were yanked"):
        site.engine.rollback(heads[0])


def test_the_error_for_an_unknown_snapshot_lists_the_known_ones(
    site: Site, packages: list[Package], heads: list[str]
) -> None:
    staged = site.stage(packages[3])
    assert staged.snapshot
    before = site.served()
    for unknown in ("20200101T000000Z-00000000", staged.snapshot.id):
        with pytest.raises(PipelineError) as error:
            site.engine.rollback(unknown)
        assert error.value.what == f"the channel has no snapshot {unknown}"
        assert f"The newest are {', '.join(reversed(heads))};" in error.value.remedy
    assert site.served() == before


def test_a_first_release_cannot_be_rolled_back(empty: Site, packages: list[Package]) -> None:
    for _ in range(2):
        with pytest.raises(PipelineError, match="the channel has no snapshot before its first"):
            empty.engine.rollback()
        empty.publish(packages[0])


def test_a_rollback_goes_to_the_parent_of_the_head_as_it_was_at_the_start(site: Site, packages: list[Package]) -> None:
    """Another publication meanwhile: the bad release, now the parent of the head, does not stay."""
    done = meanwhile(site, lambda: site.publish(packages[3])).rollback()
    assert changes(done) == (True, (), (NEW, packages[3].filename))
    assert site.names() == [OLD, MIDDLE]


def test_two_concurrent_operators_do_not_undo_each_other(site: Site) -> None:
    done = meanwhile(site, lambda: site.engine.remove([MIDDLE])).remove([OLD])
    assert changes(done) == (True, (), (OLD,))
    assert site.names() == [NEW]


def meanwhile(site: Site, act: Callable[[], object]) -> Engine:
    """An engine that ``act`` overtakes once, just before it publishes."""
    agent, left = site.agent, [act]

    class Overtaken(AgentClient):
        def publish(self, transaction: Transaction) -> str:
            if left:
                left.pop()()
            return super().publish(transaction)

    return replace(site.engine, agent=Overtaken(agent.rsh, agent.host))
