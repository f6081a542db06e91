"""Repo hosts on the brink of a call of the agent, for trials that break the call off.

What must hold afterwards, wherever it broke off, is ``Plot.survived``.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NoReturn, TypeVar

from pipeline.base.records import Package, Transaction
from pipeline.channel.agent_client import AgentClient
from pipeline.channel.engine import Engine
from pipeline.channel.reader import Repository

from .signer_site import AGENT, STABLE, Site
from .twins import twin

Place = TypeVar("Place")


@dataclass(frozen=True)
class Plot:
    """``words`` are about to be said to the agent of ``site``; they lead from the head ``old`` to ``new``."""

    name: str
    site: Site
    words: str
    old: str
    new: str
    wanted: Callable[[Engine], object]
    """Does by the engine what the words do, from whatever state."""
    other: Package
    held: frozenset[str]
    """The packages of the head when ``wanted`` and the publishing of ``other`` were done, by SHA-256."""

    def argv(self, site: Site) -> list[str]:
        return [*AGENT, "--config", str(site.folder / "publisher.json"), "--rsh", "local", self.words]

    def say(self, site: Site) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(site), capture_output=True, text=True, check=False)

    def survived(self, site: Site, *, repeat: bool) -> None:
        """What must hold when the words were broken off. ``repeat``: they are said again before all else."""
        consistent(site)
        assert site.agent.head("stable") in {self.old, self.new}
        consistent(site)
        if repeat:
            done = self.say(site)
            assert done.returncode == 0, done.stderr
            consistent(site)
        site.engine.publish([self.other], reason="another transaction")
        consistent(site)
        self.wanted(site.engine)
        consistent(site)
        verdict = site.engine.verify()
        assert verdict.findings == ()
        assert {package.sha256 for package in site.channel.read().packages} == self.held


def consistent(site: Site) -> None:
    """Clients by mirrorlist and clients by baseurl read signed metadata whose packages are all there."""
    folder = site.root / STABLE
    plain = folder / "repodata"
    channel = Repository(str(folder), site.signer.trusted_keys)
    for snapshot in {channel.head(), plain.readlink().parts[1] if plain.is_symlink() else ""}:
        for package in channel.read(snapshot).packages:
            data = (folder / "snapshots" / snapshot / "Packages" / package.path).read_bytes()
            assert sha256(data).hexdigest() == package.sha256


class _Uploaded(Exception):
    pass


class _UploadOnly(AgentClient):
    """Breaks a publishing off when all is uploaded."""

    def stage(self, transaction: Transaction) -> NoReturn:
        kept = shutil.copytree(transaction.folder, tempfile.mkdtemp(), dirs_exist_ok=True)
        raise _Uploaded(replace(transaction, folder=kept))

    publish = stage


def upload_only(site: Site, act: Callable[[Engine], object]) -> Transaction:
    """What ``act`` uploads to publish it, and no more; its files stay in ``folder``."""
    try:
        act(replace(site.engine, agent=_UploadOnly(site.agent.rsh, site.agent.host)))
    except _Uploaded as uploaded:
        (transaction,) = uploaded.args
        assert isinstance(transaction, Transaction)
        kept = shutil.move(transaction.folder, site.folder / "upload")
        return replace(transaction, folder=str(kept))
    raise AssertionError("nothing was uploaded")


def make_plots(folder: Path) -> dict[str, Plot]:
    """By name. The channel holds 1 and 2, after 0 was removed from it; 3 is new, and 4 is another's.

    In "first" it has no snapshot yet.
    """
    start = Site.make(folder / "start")
    packages = [start.package(f"0.9.{number}") for number in range(5)]
    empty = twin(start, folder / "empty")
    for package in packages[:3]:
        start.publish(package)
    start.engine.remove([packages[0].filename], reason="superseded")
    head = start.agent.head("stable")

    def add(engine: Engine) -> object:
        return engine.publish([packages[3]], reason="new")

    def yank(engine: Engine) -> object:
        return engine.remove([packages[1].filename], reason="it deletes files", yank=True)

    def prune(engine: Engine) -> object:
        return engine.agent.prune("stable")

    def drop(engine: Engine) -> object:
        return engine.agent.drop("stable", upload.id)

    def plot(
        name: str, site: Site, words: str, new: str, wanted: Callable[[Engine], object], *held: int, old: str = head
    ) -> Plot:
        digests = frozenset(packages[number].sha256 for number in held)
        return Plot(name, site, words, old, new, wanted, packages[4], digests)

    begun = upload_only(empty, add)
    uploaded = twin(start, folder / "uploaded")
    upload = upload_only(uploaded, add)
    publish = f"publish stable {upload.id} --parent {head}"
    staged_site = twin(uploaded, folder / "staged")
    staged_site.agent.stage(upload)
    yanked_site = twin(start, folder / "yanked")
    yanking = upload_only(yanked_site, yank)
    pruned = twin(start, folder / "pruned", channels={
        "stable": {"path": STABLE, "snapshots": 1, "days": 0, "grace_hours": 0}
    })  # fmt: skip
    new = upload.snapshot.id
    plots = [
        plot("first", empty, f"publish stable {begun.id} --parent -", begun.snapshot.id, add, 3, 4, old=""),
        plot("stage", uploaded, f"stage stable {upload.id} --parent {head}", head, add, 1, 2, 3, 4),
        plot("publish", uploaded, publish, new, add, 1, 2, 3, 4),
        plot("publish of a staged", staged_site, publish, new, add, 1, 2, 3, 4),
        plot("drop of an upload", uploaded, f"drop stable {upload.id}", head, drop, 1, 2, 4),
        plot("drop of a staged", staged_site, f"drop stable {upload.id}", head, drop, 1, 2, 4),
        plot("yank", yanked_site, f"publish stable {yanking.id} --parent {head}", yanking.snapshot.id, yank, 2, 4),
        plot("prune", pruned, "prune stable", head, prune, 1, 2, 4),
    ]
    return {plot.name: plot for plot in plots}


NAMES = ("first", "stage", "publish", "publish of a staged", "drop of an upload", "drop of a staged", "yank", "prune")


def each(points: Sequence[Place], trial: Callable[[int, Place], None]) -> None:
    """Try all points, two at a time; the error names the point."""
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(trial, number, point) for number, point in enumerate(points)]
        failed = []
        for point, future in zip(points, futures, strict=True):
            if error := future.exception():
                error.add_note(f"at {point}")
                failed.append(error)
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(points)} points", failed)
