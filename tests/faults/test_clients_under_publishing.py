"""No client fails while snapshots are published twice a second.

A control validates the test: the same clients fail on a folder that createrepo_c and gpg update in place at the same
rate.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pipeline.base.records import Package, sha256_file
from pipeline.hosts import loopback_site
from pipeline.prove.sandbox import Client
from pipeline.prove.transcript import Transcript
from pipeline.sign.keyring import opened
from support.faulty_proxy import FaultyProxy
from support.ports import free_port
from support.signer_site import STABLE, Site
from support.site_copies import copy_site
from support.sizes import Sizes
from support.systems import systems

DELAYS = (0, 0.05, 0.3)  # seconds for each request
PACE = 0.5  # target of seconds between snapshots; the control uses the interval that the engine reached
HELD = 6  # packages in a snapshot
IN_PLACE = "in-place"
INSTALL_EVERY = 3  # refreshes
PUBLISHED = 10  # minimum of snapshots in a round
REPO = """\
[trial]
name=trial
{source}
proxy=http://127.0.0.1:{port}
gpgcheck=1
repo_gpgcheck=1
gpgkey=file:///etc/trial.asc
skip_if_unavailable=0
"""


@dataclass
class History:
    """The digest of each published repomd.xml with the time of its publication; the last one is current."""

    heads: list[tuple[str, float]] = field(default_factory=list)

    def fits(self, sha256: str, begun: float) -> bool:
        """Whether a client that refreshed at ``begun`` may have received this repomd.xml."""
        ends = [until for _, until in self.heads[1:]] + [float("inf")]
        return any(sha256 == head and begun <= until for (head, _), until in zip(self.heads, ends, strict=True))


@dataclass
class Tally:
    """The results of the clients of one kind behind one delay."""

    refreshes: int = 0
    installs: int = 0
    failures: list[str] = field(default_factory=list)


Round = dict[tuple[str, float], Tally]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, list[Package]]:
    """A site, and packages signed by its signer."""
    site = Site.make(tmp_path_factory.mktemp("packages"))
    return site, [site.package(f"0.9.{number}") for number in range(HELD + 4)]


@contextmanager
def repeated(step: Callable[[], object], pace: float) -> Iterator[tuple[list[float], threading.Event]]:
    """Repeat ``step`` in a thread; yields the intervals in seconds, and an event that is set when the thread ends."""
    over = threading.Event()
    passed: list[float] = []

    def loop() -> None:
        try:
            while not over.is_set():
                begun = time.monotonic()
                step()
                over.wait(max(0, begun + pace - time.monotonic()))
                passed.append(time.monotonic() - begun)
        finally:
            over.set()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(loop)
        try:
            yield passed, over
        finally:
            over.set()
        future.result()


def by_engine(site: Site, packages: Sequence[Package], history: History) -> Callable[[], None]:
    """Publish by the engine and the agent: alternately add and remove one package."""
    held = list(packages[:HELD])
    waiting = list(packages[HELD:])

    def record(head: str) -> None:
        repomd = site.root / STABLE / "snapshots" / head / "repodata/repomd.xml"
        history.heads.append((sha256_file(repomd), time.time()))

    record(site.publish(*held).head)

    def step() -> None:
        if len(held) == HELD:
            held.append(waiting.pop(0))
            outcome = site.engine.publish(held[-1:], reason="one more")
        else:
            waiting.append(held.pop(0))
            outcome = site.engine.remove([waiting[-1].filename], reason="one less")
        record(outcome.head)

    return step


def in_place(site: Site, packages: Sequence[Package], history: History) -> Callable[[], None]:
    """The control: change the folder, run createrepo_c in it, sign repomd.xml."""
    folder = site.root / IN_PLACE
    folder.mkdir()
    turn = itertools.cycle(range(len(packages)))

    def step() -> None:
        first = next(turn)
        names = {Path(packages[(first + more) % len(packages)].path) for more in range(HELD)}
        for path in folder.glob("*.rpm"):
            path.unlink()
        for path in names:
            os.link(path, folder / path.name)
        repomd = folder / "repodata/repomd.xml"
        subprocess.run(["createrepo_c", "--quiet", "--no-database", folder], check=True)
        with opened(site.signer.home) as keyring:
            repomd.with_name("repomd.xml.asc").write_bytes(keyring.sign(repomd.read_bytes(), keyring.signing_key()))
        history.heads.append((sha256_file(repomd), time.time()))

    step()
    return step


@dataclass
class User:
    """A client that refreshes and installs without pause."""

    client: Client
    program: str
    tally: Tally
    seen: list[tuple[float, str]] = field(default_factory=list)

    def run_until(self, over: Callable[[], bool]) -> None:
        while not over():
            self.refresh()
            if self.tally.refreshes % INSTALL_EVERY == 0:
                self.install()

    def refresh(self) -> None:
        begun = time.time()
        status, output = self.client.run("nice", self.program, "-y", "makecache", "--refresh")
        self.tally.refreshes += 1
        if status:
            self.tally.failures.append(f"makecache ended with {status}: {output[-500:]}")
        else:
            self.seen.append((begun, self.cached()))

    def cached(self) -> str:
        (repomd,) = self.client.paths("/var/cache/*/trial-*/repodata/repomd.xml")
        return hashlib.sha256(self.client.read(repomd)).hexdigest()

    def install(self) -> None:
        status, output = self.client.run("nice", self.program, "-y", "install", "mistralrs-ada")
        self.tally.installs += 1
        missing, name = self.client.run("rpm", "-q", "mistralrs-ada")
        if status or missing:
            self.tally.failures.append(f"install ended with {status}, {name.strip()}: {output[-500:]}")
        if not missing:
            self.client.run("rpm", "-e", "mistralrs-ada")

    def judge(self, history: History) -> None:
        for begun, sha256 in self.seen:
            if not history.fits(sha256, begun):
                self.tally.failures.append(f"has {sha256[:8]}, which was not the head since the refresh began")


def play_round(
    site: Site, source: str, step: Callable[[], None], pace: float, history: History, seconds: float, log: Path
) -> tuple[Round, float]:
    """Publish by ``step`` for at least ``seconds`` and PUBLISHED times, under one client of each kind and delay.

    Returns the results of the clients and the mean interval between snapshots in seconds.
    """
    tallies: Round = {}
    web = loopback_site.Site(site.root, free_port(), log / "nginx")
    with ExitStack() as stack:
        loopback_site.started(web)
        stack.callback(loopback_site.stopped, web.state_dir)
        users = []
        for delay in DELAYS:
            proxy = stack.enter_context(FaultyProxy(web.port, delay=delay))
            for program, root in systems():
                transcript = Transcript(log / f"{program}-{delay}.log")
                client = Client(transcript, system=root, site=f"http://127.0.0.1:{proxy.port}")
                user = User(stack.enter_context(client), program, tallies.setdefault((program, delay), Tally()))
                client.write("/etc/yum.repos.d/trial.repo", REPO.format(source=source, port=proxy.port))
                client.write("/etc/trial.asc", site.signer.trusted_keys.read_text())
                users.append(user)
        pool = stack.enter_context(ThreadPoolExecutor(len(users)))
        with repeated(step, pace) as (passed, broken):
            until = time.monotonic() + seconds

            def over() -> bool:
                return broken.is_set() or (time.monotonic() > until and len(passed) >= PUBLISHED)

            for future in [pool.submit(user.run_until, over) for user in users]:
                future.result()
    pace = sum(passed) / len(passed)
    print(f"{log.name}: {len(passed)} snapshots, one every {pace:.2f} s")
    for user in users:
        user.judge(history)
    return tallies, pace


def test_no_client_fails_while_snapshots_are_published(
    packages: tuple[Site, list[Package]], sizes: Sizes, tmp_path: Path
) -> None:
    known, built = packages
    ours: Round = {}
    control: Round = {}
    for number in itertools.count():
        site = copy_site(known, tmp_path / str(number))
        pace = PACE
        for way, source, into in (
            (by_engine, f"mirrorlist=http://repo.invalid/{STABLE}/mirrorlist", ours),
            (in_place, f"baseurl=http://repo.invalid/{IN_PLACE}/", control),
        ):
            history = History()
            log = tmp_path / f"{number}-{way.__name__}"
            log.mkdir()
            step = way(site, built, history)
            results, pace = play_round(site, source, step, pace, history, sizes.round_seconds, log)
            for arm, tally in results.items():
                total = into.setdefault(arm, Tally())
                total.refreshes += tally.refreshes
                total.installs += tally.installs
                total.failures += tally.failures
        shutil.rmtree(site.folder)
        if sum(tally.refreshes + tally.installs for tally in ours.values()) >= sizes.refreshes:
            break
    print(table(ours, control))
    assert [failure for tally in ours.values() for failure in tally.failures] == []
    assert any(tally.failures for tally in control.values()), "no client of the control failed: the test proves nothing"


def table(ours: Round, control: Round) -> str:
    lines = [f"{'client':8} {'delay':>6} {'refreshes':>9} {'installs':>8} {'failed':>6}   control: the same"]
    for (program, delay), tally in ours.items():
        cells = [(t.refreshes, t.installs, len(t.failures)) for t in (tally, control[program, delay])]
        numbers = "   ".join("{:>9} {:>8} {:>6}".format(*cell) for cell in cells)
        lines.append(f"{program:8} {delay * 1000:>3.0f} ms {numbers}")
    kinds = Counter(failure.split(":")[0] for tally in control.values() for failure in tally.failures)
    return "\n".join([*lines, *(f"control: {count} x {kind}" for kind, count in kinds.most_common())])
