"""The agent and the signer, killed at each system call that changes a file.

Clients see the old snapshot or the new one, immediately and without any repair. The next transaction succeeds, and so
does a repetition of the interrupted one.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.scenarios import NAMES, Scenario, consistent, each
from support.signer_site import Site
from support.site_copies import copy_site, publish_argv
from support.sizes import Sizes
from support.syscalls import Point, killed, points, spread


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_agent_leaves_the_old_or_the_new_snapshot(
    scenarios: dict[str, Scenario], sizes: Sizes, tmp_path: Path, name: str
) -> None:
    scenario = scenarios[name]
    whole = copy_site(scenario.site, tmp_path / "whole")
    every = points(scenario.argv(whole), tmp_path / "calls")
    assert whole.agent.head("stable") == scenario.new

    def trial(number: int, point: Point) -> None:
        site = copy_site(scenario.site, tmp_path / str(number))
        killed(scenario.argv(site), point, tmp_path / f"{number}.calls")
        scenario.check_recovery(site, repeat=number % 2 == 0)
        shutil.rmtree(site.folder)

    tried = spread(every, sizes.points)
    print(f"{name}: killed at {len(tried)} of {len(every)} system calls")
    each(tried, trial)


def test_a_killed_signer_leaves_the_old_or_the_new_snapshot(
    scenarios: dict[str, Scenario], sizes: Sizes, tmp_path: Path
) -> None:
    start = scenarios["prune"].site  # no transaction is in progress there
    packages = [start.package("1.0"), start.package("1.1")]
    old = {package.sha256 for package in start.channel.read().packages}

    def signer(site: Site) -> list[str]:
        return publish_argv(site, packages[:1], site.agent, site.folder / "order.json")

    every = points(signer(copy_site(start, tmp_path / "whole")), tmp_path / "calls")

    def trial(number: int, point: Point) -> None:
        site = copy_site(start, tmp_path / str(number))
        killed(signer(site), point, tmp_path / f"{number}.calls")
        consistent(site)
        site.engine.publish(packages[1:], reason="another transaction")
        consistent(site)
        subprocess.run(signer(site), stdout=subprocess.DEVNULL, check=True)
        consistent(site)
        assert site.engine.verify().findings == ()
        held = {package.sha256 for package in site.channel.read().packages}
        assert held == {*old, *(package.sha256 for package in packages)}
        assert not list((site.folder / "signer/compose").glob("run-*")), "the killed signer's folder is removed"
        shutil.rmtree(site.folder)

    tried = spread(every, sizes.points)
    print(f"signer: killed at {len(tried)} of {len(every)} system calls")
    each(tried, trial)


def test_an_agent_killed_during_an_upload_does_not_publish_it(scenarios: dict[str, Scenario], tmp_path: Path) -> None:
    """Its rsync ends with the connection; until then the upload is locked."""
    scenario = scenarios["publish"]
    site = copy_site(scenario.site, tmp_path / "site")
    before = site.served()
    transaction = scenario.command.split()[2]
    argv = [*scenario.argv(site)[:-1], f"rsync --server -tre.iLsfxCIvu --partial . stable/{transaction}/"]
    receiving = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert receiving.stdin
    assert receiving.stdout
    with receiving:
        assert receiving.stdout.read(1), "rsync started"
        receiving.send_signal(signal.SIGKILL)
        receiving.wait()
        assert scenario.run(site).returncode == 4
        assert site.served() == before
    # The uploaded packages are kept. The snapshot is not: each upload sends it again.
    for _ in range(500):
        if (done := scenario.run(site)).returncode != 4:
            break
        time.sleep(0.01)
    assert done.returncode == 1
    assert "the upload is incomplete" in done.stderr
    scenario.check_recovery(site, repeat=False)
