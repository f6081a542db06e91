"""Repo hosts prepared for one command of the agent, which fault tests interrupt.

``Scenario.check_recovery`` asserts the invariants after an interruption at any point.
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
from .site_copies import copy_site

Item = TypeVar("Item")


@dataclass(frozen=True)
class Scenario:
    """``command`` is the next command for the agent of ``site``; it moves the head from ``old`` to ``new``."""

    name: str
    site: Site
    command: str
    old: str
    new: str
    complete: Callable[[Engine], object]
    """Does the same by the engine, from any state."""
    other: Package
    """The package of an independent transaction."""
    expected: frozenset[str]
    """SHA-256 of the head's packages after ``complete`` and the publication of ``other``."""

    def argv(self, site: Site) -> list[str]:
        return [*AGENT, "--config", str(site.folder / "publisher.json"), "--rsh", "local", self.command]

    def run(self, site: Site) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(site), capture_output=True, text=True, check=False)

    def check_recovery(self, site: Site, *, repeat: bool) -> None:
        """Check the invariants after an interruption. With ``repeat`` the command runs again first."""
        consistent(site)
        assert site.agent.head("stable") in {self.old, self.new}
        consistent(site)
        if repeat:
            done = self.run(site)
            assert done.returncode == 0, done.stderr
            consistent(site)
        site.engine.publish([self.other], reason="another transaction")
        consistent(site)
        self.complete(site.engine)
        consistent(site)
        verdict = site.engine.verify()
        assert verdict.findings == ()
        assert {package.sha256 for package in site.channel.read().packages} == self.expected


def consistent(site: Site) -> None:
    """Check the repository as clients read it, by mirrorlist and by baseurl: signed metadata, intact packages."""
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
    """Aborts a publication after its upload."""

    def stage(self, transaction: Transaction) -> NoReturn:
        kept = shutil.copytree(transaction.folder, tempfile.mkdtemp(), dirs_exist_ok=True)
        raise _Uploaded(replace(transaction, folder=kept))

    publish = stage


def upload_only(site: Site, act: Callable[[Engine], object]) -> Transaction:
    """Upload the transaction that ``act`` would publish, and stop there; its ``folder`` keeps the files."""
    try:
        act(replace(site.engine, agent=_UploadOnly(site.agent.rsh, site.agent.host)))
    except _Uploaded as uploaded:
        (transaction,) = uploaded.args
        assert isinstance(transaction, Transaction)
        kept = shutil.move(transaction.folder, site.folder / "upload")
        return replace(transaction, folder=str(kept))
    raise AssertionError("nothing was uploaded")


def make_scenarios(folder: Path) -> dict[str, Scenario]:
    """All scenarios by name.

    Packages 1 and 2 are in the channel, 0 was removed, 3 is new, 4 belongs to another transaction.
    In "first" the channel has no snapshot.
    """
    start = Site.make(folder / "start")
    packages = [start.package(f"0.9.{number}") for number in range(5)]
    empty = copy_site(start, folder / "empty")
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

    def scenario(
        name: str,
        site: Site,
        command: str,
        new: str,
        complete: Callable[[Engine], object],
        *expected: int,
        old: str = head,
    ) -> Scenario:
        digests = frozenset(packages[number].sha256 for number in expected)
        return Scenario(name, site, command, old, new, complete, packages[4], digests)

    begun = upload_only(empty, add)
    uploaded = copy_site(start, folder / "uploaded")
    upload = upload_only(uploaded, add)
    publish = f"publish stable {upload.id} --parent {head}"
    staged_site = copy_site(uploaded, folder / "staged")
    staged_site.agent.stage(upload)
    yanked_site = copy_site(start, folder / "yanked")
    yanking = upload_only(yanked_site, yank)
    pruned = copy_site(start, folder / "pruned", channels={
        "stable": {"path": STABLE, "snapshots": 1, "days": 0, "grace_hours": 0}
    })  # fmt: skip
    new = upload.snapshot.id
    scenarios = [
        scenario("first", empty, f"publish stable {begun.id} --parent -", begun.snapshot.id, add, 3, 4, old=""),
        scenario("stage", uploaded, f"stage stable {upload.id} --parent {head}", head, add, 1, 2, 3, 4),
        scenario("publish", uploaded, publish, new, add, 1, 2, 3, 4),
        scenario("publish of a staged", staged_site, publish, new, add, 1, 2, 3, 4),
        scenario("drop of an upload", uploaded, f"drop stable {upload.id}", head, drop, 1, 2, 4),
        scenario("drop of a staged", staged_site, f"drop stable {upload.id}", head, drop, 1, 2, 4),
        scenario("yank", yanked_site, f"publish stable {yanking.id} --parent {head}", yanking.snapshot.id, yank, 2, 4),
        scenario("prune", pruned, "prune stable", head, prune, 1, 2, 4),
    ]
    return {scenario.name: scenario for scenario in scenarios}


NAMES = ("first", "stage", "publish", "publish of a staged", "drop of an upload", "drop of a staged", "yank", "prune")


def each(points: Sequence[Item], trial: Callable[[int, Item], None]) -> None:
    """Run ``trial`` at all points, two at a time. Errors carry the point as a note."""
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(trial, number, point) for number, point in enumerate(points)]
        failed = []
        for point, future in zip(points, futures, strict=True):
            if error := future.exception():
                error.add_note(f"at {point}")
                failed.append(error)
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(points)} points", failed)
