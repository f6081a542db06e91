"""Prune: the head by the channel's retention, old snapshots and the pool by the agent's."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.channel.retention import Retention
from support.signer_site import STABLE, Site

NAMES = [f"mistralrs-ada-0.9.{number}-1.fc43.x86_64.rpm" for number in range(3)]
CPU = "mistralrs-cpu-0.9.0-1.fc43.x86_64.rpm"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Three releases of one flavour, one of another; the agent keeps the two newest snapshots, without grace time."""
    site = Site.make(tmp_path_factory.mktemp("start"), snapshots=2, days=0, grace_hours=0)
    site.publish(*(site.package("0.9.0", flavour=flavour) for flavour in ("ada", "cpu")))
    site.publish(site.package("0.9.1"))
    site.publish(site.package("0.9.2"))
    return site


@pytest.fixture
def site(start: Site, tmp_path: Path) -> Site:
    return start.another(tmp_path)


def pool(site: Site) -> list[str]:
    return sorted(path.name for path in (site.root / STABLE / "Packages").iterdir())


def snapshots(site: Site) -> list[str]:
    return sorted(path.name for path in (site.root / STABLE / "snapshots").iterdir())


def test_superseded_packages_leave_the_head_and_then_the_pool(site: Site) -> None:
    before = site.served()
    planned = site.engine.prune(Retention(versions=2), check=True)
    assert (planned.changed, planned.removed, len(planned.pruned["snapshots"])) == (True, (NAMES[0],), 1)
    assert site.served() == before

    done = site.engine.prune(Retention(versions=2))
    assert (done.changed, done.removed) == (True, (NAMES[0],))
    assert done.snapshot
    assert done.snapshot.reason == "retention"
    assert site.names() == [*NAMES[1:], CPU], "its only build stays"
    assert NAMES[0] in pool(site), "the snapshot before the head still names it"
    assert len(snapshots(site)) == 2

    site.publish(site.package("0.9.3"))
    again = site.engine.prune(Retention(builds=3))
    assert (again.changed, again.removed, again.snapshot) == (True, (), None)
    assert again.pruned["packages"] == [NAMES[0]]
    assert NAMES[0] not in pool(site)
    last = site.engine.prune(Retention(builds=3))
    assert (last.changed, last.pruned["packages"], last.pruned["snapshots"]) == (False, [], [])
    assert site.engine.verify().findings == ()


def test_an_unlimited_retention_only_lets_the_agent_prune(site: Site) -> None:
    done = site.engine.prune(Retention())
    assert (done.changed, done.snapshot, done.removed) == (True, None, ())
    assert len(done.pruned["snapshots"]) == 1
    assert site.names() == [*NAMES, CPU]


def test_a_retention_that_keeps_nothing_is_refused(site: Site) -> None:
    before = site.served()
    with pytest.raises(PipelineError, match="a retention of -1 versions and 0 builds keeps nothing"):
        site.engine.prune(Retention(versions=-1))
    assert site.served() == before
