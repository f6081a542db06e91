"""The repo host loses its power: the channel is the old snapshot or the new one, with all its bytes.

Its root is an ext4 file system of its own. The agent is killed at a system call, and at once all that is not
on the disk is gone; then the file system is mounted again, as at the next start.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.disks import as_it_is, cut_power, make_disk, mounted
from support.kills import Point, killed, points, spread, traced
from support.plots import NAMES, Plot, consistent, each
from support.signer_site import STABLE, Site
from support.sizes import Sizes
from support.twins import twin

MIB = 32


def on_disk(plot: Plot, folder: Path) -> tuple[Site, Path]:
    """A twin whose root is to be mounted from the image."""
    site = twin(plot.site, folder, reserve_mib=0)
    make_disk(image := folder / "disk", MIB, site.root)
    subprocess.run(["rm", "-r", site.root], check=True)
    return site, image


@pytest.mark.parametrize("name", NAMES)
def test_at_each_step(plots: dict[str, Plot], sizes: Sizes, tmp_path: Path, name: str) -> None:
    plot = plots[name]
    every = points(plot.argv(twin(plot.site, tmp_path / "whole")), tmp_path / "calls")

    def trial(number: int, point: Point) -> None:
        site, image = on_disk(plot, tmp_path / str(number))
        with mounted(image, site.root):
            killed(plot.argv(site), point, tmp_path / f"{number}.calls")
            cut_power(site.root)
        with mounted(as_it_is(image), site.root):
            plot.survived(site, repeat=number % 2 == 0)
        shutil.rmtree(site.folder)

    tried = spread(every, sizes.losses)
    print(f"{name}: lost power at {len(tried)} of {len(every)} system calls")
    each(tried, trial)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_answered_stays(plots: dict[str, Plot], tmp_path: Path, name: str) -> None:
    plot = plots[name]
    site, image = on_disk(plot, tmp_path / "site")
    with mounted(image, site.root):
        assert plot.say(site).returncode == 0
        cut_power(site.root)
    with mounted(as_it_is(image), site.root):
        assert site.agent.head("stable") == plot.new
        consistent(site)
        assert site.engine.verify().findings == ()


def test_this_can_tell(plots: dict[str, Plot], tmp_path: Path) -> None:
    """Where fsync does nothing, the answer is given and the snapshot is gone."""
    plot = plots["publish"]
    site, image = on_disk(plot, tmp_path / "site")
    calls = ["fsync", "fdatasync"]
    with mounted(image, site.root):
        done = traced(plot.argv(site), tmp_path / "calls", calls, inject=f"{','.join(calls)}:retval=0")
        assert done.returncode == 0, done.stderr
        assert site.agent.head("stable") == plot.new
        cut_power(site.root)
    with mounted(as_it_is(image), site.root):
        left = (site.root / STABLE / "mirrorlist").read_text()
    assert f"/{plot.old}/" in left
