"""The agent and the signer, killed at each system call that changes something.

The channel is the old snapshot or the new one, for clients at once and without anybody's help; the next
transaction of anybody goes through, and so does the one that was broken off.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.kills import Point, killed, points, spread
from support.plots import NAMES, Plot, consistent, each
from support.signer_site import Site
from support.sizes import Sizes
from support.twins import publisher, twin


@pytest.mark.parametrize("name", NAMES)
def test_the_agent(plots: dict[str, Plot], sizes: Sizes, tmp_path: Path, name: str) -> None:
    plot = plots[name]
    whole = twin(plot.site, tmp_path / "whole")
    every = points(plot.argv(whole), tmp_path / "calls")
    assert whole.agent.head("stable") == plot.new

    def trial(number: int, point: Point) -> None:
        site = twin(plot.site, tmp_path / str(number))
        killed(plot.argv(site), point, tmp_path / f"{number}.calls")
        plot.survived(site, repeat=number % 2 == 0)
        shutil.rmtree(site.folder)

    tried = spread(every, sizes.points)
    print(f"{name}: killed at {len(tried)} of {len(every)} system calls")
    each(tried, trial)


def test_the_signer(plots: dict[str, Plot], sizes: Sizes, tmp_path: Path) -> None:
    start = plots["prune"].site  # nothing is on its way there
    packages = [start.package("1.0"), start.package("1.1")]
    old = {package.sha256 for package in start.channel.read().packages}

    def signer(site: Site) -> list[str]:
        return publisher(site, packages[:1], site.agent, site.folder / "order.json")

    every = points(signer(twin(start, tmp_path / "whole")), tmp_path / "calls")

    def trial(number: int, point: Point) -> None:
        site = twin(start, tmp_path / str(number))
        killed(signer(site), point, tmp_path / f"{number}.calls")
        consistent(site)
        site.engine.publish(packages[1:], reason="another transaction")
        consistent(site)
        subprocess.run(signer(site), stdout=subprocess.DEVNULL, check=True)
        consistent(site)
        assert site.engine.verify().findings == ()
        held = {package.sha256 for package in site.channel.read().packages}
        assert held == {*old, *(package.sha256 for package in packages)}
        assert not list((site.folder / "signer/compose").glob("run-*")), "what the killed one left"
        shutil.rmtree(site.folder)

    tried = spread(every, sizes.points)
    print(f"signer: killed at {len(tried)} of {len(every)} system calls")
    each(tried, trial)


def test_the_agent_while_it_receives(plots: dict[str, Plot], tmp_path: Path) -> None:
    """Its rsync ends with the connection, and till then nobody takes the upload for complete."""
    plot = plots["publish"]
    site = twin(plot.site, tmp_path / "site")
    before = site.served()
    transaction = plot.words.split()[2]
    argv = [*plot.argv(site)[:-1], f"rsync --server -tre.iLsfxCIvu --partial . stable/{transaction}/"]
    receiving = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert receiving.stdin
    assert receiving.stdout
    with receiving:
        assert receiving.stdout.read(1), "rsync has begun"
        receiving.send_signal(signal.SIGKILL)
        receiving.wait()
        assert plot.say(site).returncode == 4
        assert site.served() == before
    # The packages that were there are kept; of the snapshot nothing is, since it was to come again.
    for _ in range(500):
        if (done := plot.say(site)).returncode != 4:
            break
        time.sleep(0.01)
    assert done.returncode == 1
    assert "the upload is incomplete" in done.stderr
    plot.survived(site, repeat=False)
