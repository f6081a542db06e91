"""The repo host loses power: the channel is the old snapshot or the new one, complete.

Its root is an ext4 file system. The agent is killed at a system call and all unflushed data is dropped; then the file
system is mounted again, as after a reboot.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.disks import after_reboot, cut_power, make_disk, mounted
from support.scenarios import NAMES, Scenario, consistent, each
from support.signer_site import STABLE, Site
from support.site_copies import copy_site
from support.sizes import Sizes
from support.syscalls import Point, killed, points, spread, traced

MIB = 32


def on_disk(scenario: Scenario, folder: Path) -> tuple[Site, Path]:
    """A copy of the site, and the image from which its root is to be mounted."""
    site = copy_site(scenario.site, folder, reserve_mib=0)
    make_disk(image := folder / "disk", MIB, site.root)
    subprocess.run(["rm", "-r", site.root], check=True)
    return site, image


@pytest.mark.parametrize("name", NAMES)
def test_a_power_loss_leaves_the_old_or_the_new_snapshot(
    scenarios: dict[str, Scenario], sizes: Sizes, tmp_path: Path, name: str
) -> None:
    scenario = scenarios[name]
    every = points(scenario.argv(copy_site(scenario.site, tmp_path / "whole")), tmp_path / "calls")

    def trial(number: int, point: Point) -> None:
        site, image = on_disk(scenario, tmp_path / str(number))
        with mounted(image, site.root):
            killed(scenario.argv(site), point, tmp_path / f"{number}.calls")
            cut_power(site.root)
        with mounted(after_reboot(image), site.root):
            scenario.check_recovery(site, repeat=number % 2 == 0)
        shutil.rmtree(site.folder)

    tried = spread(every, sizes.losses)
    print(f"{name}: lost power at {len(tried)} of {len(every)} system calls")
    each(tried, trial)


@pytest.mark.parametrize("name", NAMES)
def test_a_reported_publication_survives_a_power_loss(
    scenarios: dict[str, Scenario], tmp_path: Path, name: str
) -> None:
    scenario = scenarios[name]
    site, image = on_disk(scenario, tmp_path / "site")
    with mounted(image, site.root):
        assert scenario.run(site).returncode == 0
        cut_power(site.root)
    with mounted(after_reboot(image), site.root):
        assert site.agent.head("stable") == scenario.new
        consistent(site)
        assert site.engine.verify().findings == ()


def test_without_fsync_a_reported_publication_is_lost(scenarios: dict[str, Scenario], tmp_path: Path) -> None:
    """The control: it validates the method of these tests."""
    scenario = scenarios["publish"]
    site, image = on_disk(scenario, tmp_path / "site")
    calls = ["fsync", "fdatasync"]
    with mounted(image, site.root):
        done = traced(scenario.argv(site), tmp_path / "calls", calls, inject=f"{','.join(calls)}:retval=0")
        assert done.returncode == 0, done.stderr
        assert site.agent.head("stable") == scenario.new
        cut_power(site.root)
    with mounted(after_reboot(image), site.root):
        left = (site.root / STABLE / "mirrorlist").read_text()
    assert f"/{scenario.old}/" in left
