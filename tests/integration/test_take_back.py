"""Every step can be taken back: a staged snapshot dropped, packages removed or yanked, the channel rolled back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package, Transaction
from pipeline.channel.agent_client import Publisher
from pipeline.channel.engine import Engine, Outcome
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


def told(outcome: Outcome) -> tuple[bool, tuple[str, ...], tuple[str, ...]]:
    return outcome.changed, outcome.added, outcome.removed


# Staged


def test_what_is_staged_can_be_read_and_no_client_is_told_of_it(empty: Site, packages: list[Package]) -> None:
    head = empty.publish(packages[0]).head
    held = empty.publish(packages[1], hold=True)
    assert held.transaction
    assert held.snapshot == held.transaction.snapshot
    assert (held.head, empty.channel.head(), held.snapshot.parent) == (head, head, head)
    assert empty.names(held.snapshot.id) == [OLD, MIDDLE]

    done = empty.engine.commit(held.transaction, packages[1:2])
    assert (told(done), done.head) == ((True, (MIDDLE,), ()), held.snapshot.id)
    assert empty.channel.head() == held.snapshot.id, "what was proved is what is published"
    again = empty.engine.commit(held.transaction, packages[1:2])
    assert (told(again), again.head, again.after) == ((False, (), ()), done.head, (OLD, MIDDLE))


def test_what_was_staged_is_composed_again_where_somebody_else_published(empty: Site, packages: list[Package]) -> None:
    held = empty.publish(packages[0], hold=True)
    assert held.transaction
    other = empty.publish(packages[1]).head
    done = empty.engine.commit(held.transaction, packages[:1])
    assert done.snapshot
    assert done.snapshot.parent == other
    assert empty.names() == [OLD, MIDDLE]
    assert not (empty.root / STABLE / "snapshots" / held.transaction.snapshot.id).exists()


def test_staging_again_what_a_killed_run_staged_replaces_it(empty: Site, packages: list[Package]) -> None:
    first = empty.publish(packages[0], hold=True)
    second = empty.publish(packages[0], hold=True)
    assert first.transaction
    assert second.transaction
    assert first.transaction.id == second.transaction.id
    assert empty.engine.commit(second.transaction, packages[:1]).changed
    assert [row["id"] for row in empty.agent.status("stable")["snapshots"]] == [second.transaction.snapshot.id]


def test_a_dropped_snapshot_leaves_no_trace(empty: Site, packages: list[Package]) -> None:
    empty.publish(packages[0])
    before = empty.served()
    held = empty.publish(packages[1], hold=True)
    assert held.transaction
    assert MIDDLE in pool(empty)
    assert empty.engine.drop(held.transaction, check=True).changed
    assert MIDDLE in pool(empty)
    assert empty.engine.drop(held.transaction).changed
    assert empty.served() == before
    assert not empty.engine.drop(held.transaction).changed
    with pytest.raises(PipelineError):
        empty.engine.commit(held.transaction, packages[1:2])
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
    assert told(site.engine.remove(patterns, check=True)) == (True, (), gone)
    assert site.served() == before
    done = site.engine.remove(patterns, reason="superseded")
    assert told(done) == (True, (), gone)
    assert site.names() == left
    assert site.names(heads[-1]) == [OLD, MIDDLE, NEW]
    assert pool(site) == [OLD, MIDDLE, NEW], "older snapshots stay installable"
    assert (journal(site)[-1]["removed"], journal(site)[-1]["reason"]) == (list(gone), "superseded")
    assert told(site.engine.remove(patterns)) == (False, (), ())


def test_what_was_removed_can_be_added_again(site: Site, packages: list[Package], heads: list[str]) -> None:
    site.engine.remove([MIDDLE])
    assert told(site.publish(packages[1])) == (True, (MIDDLE,), ())
    assert site.names() == [OLD, MIDDLE, NEW]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["mistralrs-adda-0.9.2-1.fc43.x86_64"], "no package of the channel is called mistralrs-adda-0.9.2"),
        ([NEW, "mistralrs-*-1.0-*"], r"no package of the channel is called mistralrs-\*-1\.0-\*"),
        (["mistralrs-ada"], "no package of the channel is called mistralrs-ada "),
        (["*"], r"\* would leave nothing of the channel's 3 packages"),
        ([NEW, "*-0.9.[01]-*"], r"\*-0\.9\.\[01\]-\* would leave nothing"),
        (["../../mirrorlist"], "no package of the channel is called"),
    ],
)
def test_a_pattern_that_means_nothing_or_everything_is_refused(
    site: Site, heads: list[str], patterns: list[str], message: str
) -> None:
    before = site.served()
    for yank in (False, True):
        with pytest.raises(PipelineError, match=message):
            site.engine.remove(patterns, yank=yank)
    assert site.served() == before


# Yanked


def test_a_yanked_package_is_gone_and_never_comes_back(site: Site, packages: list[Package], heads: list[str]) -> None:
    done = site.engine.remove(["*-0.9.1-*"], yank=True, reason="a token in its template")
    assert done.snapshot
    assert (told(done), done.snapshot.yanked) == ((True, (), (MIDDLE,)), (MIDDLE,))
    assert pool(site) == [OLD, NEW]
    assert site.channel.read().yanked == (MIDDLE,)
    for again in (["*-0.9.1-*"], [MIDDLE]):
        assert told(site.engine.remove(again, yank=True)) == (False, (), ())

    before = site.served()
    with pytest.raises(PipelineError, match=f"{MIDDLE} was yanked from this channel, .*Raise package_release"):
        site.publish(packages[1])
    assert site.served() == before
    site.publish(packages[3])
    assert site.channel.read().yanked == (MIDDLE,), "later snapshots remember it"


def test_what_was_removed_before_can_still_be_yanked(site: Site, heads: list[str]) -> None:
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


def test_the_channel_goes_back_to_an_older_snapshot(site: Site, heads: list[str]) -> None:
    before = site.served()
    assert told(site.engine.rollback(heads[0], check=True)) == (True, (), (MIDDLE, NEW))
    assert site.served() == before
    done = site.engine.rollback(heads[0], reason="0.9.1 and later answer nonsense")
    assert done.snapshot
    assert (told(done), done.snapshot.parent) == ((True, (), (MIDDLE, NEW)), heads[-1])
    assert site.names() == [OLD]
    assert pool(site) == [OLD, MIDDLE, NEW]
    assert told(site.engine.rollback(heads[0])) == (False, (), ())


def test_a_second_rollback_takes_the_first_back(site: Site, heads: list[str]) -> None:
    assert told(site.engine.rollback()) == (True, (), (NEW,))
    assert told(site.engine.rollback()) == (True, (NEW,), ())
    assert site.names() == [OLD, MIDDLE, NEW]


def test_going_back_leaves_out_what_was_yanked_since(site: Site, heads: list[str]) -> None:
    site.engine.remove([OLD], yank=True)
    done = site.engine.rollback(heads[1])
    assert (told(done), done.notes) == ((True, (), (NEW,)), (f"left out, since they were yanked: {OLD}",))
    assert site.names() == [MIDDLE]
    with pytest.raises(PipelineError, match=f"nothing is left of the snapshot {heads[0]}: all its packages were"):
        site.engine.rollback(heads[0])


def test_an_unknown_snapshot_is_told_the_known(site: Site, packages: list[Package], heads: list[str]) -> None:
    staged = site.publish(packages[3], hold=True)
    assert staged.snapshot
    before = site.served()
    for unknown in ("20200101T000000Z-00000000", staged.snapshot.id):
        with pytest.raises(PipelineError) as error:
            site.engine.rollback(unknown)
        assert error.value.what == f"the channel has no snapshot {unknown}"
        assert f"The newest are {', '.join(reversed(heads))};" in error.value.remedy
    assert site.served() == before


def test_a_first_release_has_nothing_to_go_back_to(empty: Site, packages: list[Package]) -> None:
    for _ in range(2):
        with pytest.raises(PipelineError, match="the channel has no snapshot before its first"):
            empty.engine.rollback()
        empty.publish(packages[0])


def test_the_snapshot_before_the_head_is_that_of_the_start(site: Site, packages: list[Package]) -> None:
    """Somebody publishes meanwhile: the bad release, which is now the one before the head, does not stay."""
    done = meanwhile(site, lambda: site.publish(packages[3])).rollback()
    assert told(done) == (True, (), (NEW, packages[3].filename))
    assert site.names() == [OLD, MIDDLE]


def test_two_operators_at_once_do_not_undo_each_other(site: Site) -> None:
    done = meanwhile(site, lambda: site.engine.remove([MIDDLE])).remove([OLD])
    assert told(done) == (True, (), (OLD,))
    assert site.names() == [NEW]


def meanwhile(site: Site, act: Callable[[], object]) -> Engine:
    """An engine that ``act`` overtakes once, just before its commit."""
    agent, left = site.agent, [act]

    class Overtaken(Publisher):
        def commit(self, transaction: Transaction) -> str:
            if left:
                left.pop()()
            return super().commit(transaction)

    return replace(site.engine, agent=Overtaken(agent.rsh, agent.host))
