"""The cost of publishing one package into a small channel and into a large one: ``make bench-channel``.

Each figure stands beside a peer on the same tree in the same run:

- compose and sign: the head's metadata and signatures are read and verified, the new metadata is written, repomd.xml
  and snapshot.json are signed. The peer is createrepo_c in its quickest mode (``--update --skip-stat
  --recycle-pkglist``), then gpg. It reads the package for its digest; the engine has the digest from signing.
- publish: the whole transaction by the local agent: rsync, verification of metadata and package, fsync, rename. The
  peer is manual: cp, sync, rpmkeys with every check required, createrepo_c, gpg.

Each arm is a separate process; its time includes the start of Python. Arms alternate, and a figure is the median of
the rounds. Files are in the page cache for both. No figure is asserted: ratios matter, and machines differ.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.base.records import Package, Snapshot, sha256_file
from pipeline.base.run import run
from pipeline.channel.engine import sign_files
from pipeline.channel.metadata import TYPES, Entry, entry_of, foot, head, packages_txt, write_repodata
from pipeline.sign.rpm_signature import sign_package
from support import PROJECT
from support.signer_site import AGENT, COMMIT, STABLE, Site

SMALL, LARGE = 100, 10_000
MIB = 250
ROUNDS = 5
HERE = Path(__file__).parent
UPDATE = "createrepo_c --quiet --update --skip-stat --recycle-pkglist --no-database --pkglist"
# About as much metadata as a package of rpm/mistralrs.spec has, in a payload that costs no time to make.
SPEC = f"""
%global _binary_payload w0.gzdio
Name: mistralrs-ada
Version: 9.9.9
Release: 1.fc43
Summary: LLM inference server in Rust, built for a benchmark
License: MIT
Provides: mistralrs(commit) = {COMMIT}
{"".join(f"Requires: library-{number}.so.1(LIBRARY_{number})(64bit){chr(10)}" for number in range(16))}
%description
{"mistral.rs serves large language models over an HTTP API that is compatible with OpenAI's. " * 6}
%install
mkdir -p %{{buildroot}}/usr/share/mistralrs-ada/chat_templates
for n in 1 2 3 4 5 6 7 8; do touch %{{buildroot}}/usr/share/mistralrs-ada/chat_templates/template-$n.json; done
head -c %{{mib}}M /dev/urandom > %{{buildroot}}/usr/share/mistralrs-ada/mistralrs
%files
/usr/share/mistralrs-ada
"""


def signed_package(site: Site, mib: int) -> Package:
    """A signed package with a payload of ``mib`` MiB."""
    folder = site.folder / f"package-{mib}"
    folder.mkdir()
    (spec := folder / "package.spec").write_text(SPEC)
    macros = {
        "_topdir": folder,
        "_rpmdir": folder,
        "_build_id_links": "none",
        "_rpmfilename": "package.rpm",
        "mib": mib,
    }
    defines = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
    run(["rpmbuild", "-bb", "--target", "x86_64", *defines, spec])
    path = folder / "package.rpm"
    made = ("mistralrs-ada", "9.9.9", "1.fc43", "x86_64", COMMIT, str(path), sha256_file(path), path.stat().st_size)
    return sign_package(Package(*made), replace(site.signer, root=folder)).package


def fill(site: Site, real: Package, count: int) -> None:
    """Fill the channel with ``count`` packages: the metadata of a real one with other versions and digests.

    Their files are sparse: the benchmark never reads published packages.
    """
    folder, model = site.root / STABLE, entry_of(real)
    versions = [f"0.{number // 100}.{number % 100}" for number in range(count)]
    entries = sorted((renamed(model, real.version, version) for version in versions), key=lambda entry: entry.filename)
    (pool := folder / "Packages").mkdir(parents=True)
    for entry in entries:
        with (pool / entry.filename).open("wb") as file:
            file.truncate(real.size)
    moment = int(time.time()) - 1000
    files = {kind: [head(kind, count), *(entry.texts[kind] for entry in entries), foot(kind)] for kind in TYPES}
    repomd = write_repodata(files, (making := folder / "snapshots/making") / "repodata", moment)
    id_ = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(moment))}-{hashlib.sha256(repomd).hexdigest()[:8]}"
    Snapshot(id_, "stable", "", moment, "bench").write(making / "snapshot.json")
    (making / "packages.txt").write_text(packages_txt({entry.filename: entry.sha256 for entry in entries}))
    sign_files([making / "repodata/repomd.xml", making / "snapshot.json"], site.signer)
    (making / "Packages").symlink_to("../../Packages")
    making.rename(folder / "snapshots" / id_)
    set_head(folder, id_)


def renamed(model: Entry, old: str, new: str) -> Entry:
    digest = hashlib.sha256(new.encode()).hexdigest()
    texts = {
        kind: text.replace(model.sha256.encode(), digest.encode()).replace(old.encode(), new.encode())
        for kind, text in model.texts.items()
    }
    return Entry(model.filename.replace(old, new), digest, texts)


def set_head(folder: Path, snapshot: str) -> None:
    (folder / "mirrorlist").write_text(f"http://repo.invalid/{STABLE}/snapshots/{snapshot}/\n")
    (folder / "repodata").unlink(missing_ok=True)
    (folder / "repodata").symlink_to(f"snapshots/{snapshot}/repodata")


def measured(*argv: object) -> dict[str, float]:
    """The cost of a command (measured.py); ``last_line`` is the last line of its output."""
    words = [sys.executable, "-S", HERE / "measured.py", *argv]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"last_line": done.stderr.strip().rpartition("\n")[2]}


class Bench:
    """A channel, a tree of createrepo_c with the same packages, and one package to publish into both."""

    def __init__(self, site: Site, package: Package, folder: Path) -> None:
        self.site, self.package = site, package
        self.channel, self.tree, self.order = site.root / STABLE, folder / "createrepo_c", folder / "order.json"
        self.start = site.channel.head()
        (self.tree / "Packages").mkdir(parents=True)
        (self.tree / "new").write_text(f"Packages/{package.filename}\n")
        run(["rpmkeys", "--dbpath", folder / "rpmdb", "--import", site.signer.trusted_keys])
        order = {
            "location": str(self.channel),
            "trusted_keys": str(site.signer.trusted_keys),
            "home": str(site.signer.home),
            "root": str(folder / "signer"),
            "rsh": list(site.agent.rsh),
            "package": package.to_dict(),
        }
        self.order.write_text(json.dumps(order))

    def reset(self) -> None:
        """Remove the new package from both and flush the disk."""
        shutil.rmtree(self.site.root / ".publisher", ignore_errors=True)
        for path in (self.channel / "snapshots").iterdir():
            if path.name != self.start:
                shutil.rmtree(path)
        set_head(self.channel, self.start)
        shutil.rmtree(self.tree / "repodata", ignore_errors=True)
        shutil.copytree(self.channel / "repodata", self.tree / "repodata")
        (self.tree / "repodata/repomd.xml.asc").unlink()
        for root in (self.channel, self.tree):
            (root / "Packages" / self.package.filename).unlink(missing_ok=True)
        subprocess.run(["sync"], check=True)

    def signer(self, verb: str) -> dict[str, float]:
        self.reset()
        return measured(
            "env", f"PYTHONPATH={PROJECT / 'module_utils'}", sys.executable, HERE / "signer.py", verb, self.order
        )

    def createrepo(self) -> dict[str, float]:
        self.reset()
        (self.tree / "Packages" / self.package.filename).hardlink_to(self.package.path)
        return measured("sh", "-ec", self.composed())

    def by_hand(self) -> dict[str, float]:
        self.reset()
        target = self.tree / "Packages" / self.package.filename
        check = f"rpmkeys --dbpath {self.tree.parent}/rpmdb --define '_pkgverify_level all' -K '{target}'"
        return measured(
            "sh", "-ec", f"cp '{self.package.path}' '{target}'; sync '{target}'; {check}; {self.composed()}"
        )

    def composed(self) -> str:
        gpg = f"gpg --homedir {self.site.signer.home} --batch --yes --armor --detach-sign"
        return f"{UPDATE} {self.tree}/new {self.tree}; {gpg} {self.tree}/repodata/repomd.xml"

    def publish_staged(self) -> dict[str, float]:
        """The last step alone: publish a staged snapshot."""
        transaction, parent = str(self.signer("stage")["last_line"]).split()
        words = [*AGENT, "--config", self.site.folder / "publisher.json", "--rsh", "local"]
        cost = measured(*words, "publish", "stable", transaction, "--parent", parent)
        assert self.site.channel.head() != self.start
        return cost


def test_one_new_package(tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> None:
    start = Site.make(tmp_path_factory.mktemp("start"))
    big, tiny = signed_package(start, MIB), signed_package(start, 0)
    channels = {}
    for count in (SMALL, LARGE):
        channels[count] = start.another(tmp_path_factory.mktemp(f"channel-{count}"), empty=True)
        fill(channels[count], big, count)

    def bench(count: int, package: Package) -> Bench:
        return Bench(channels[count], package, tmp_path_factory.mktemp("bench"))

    large, small, tiny_large, tiny_small = (
        bench(count, package) for package in (big, tiny) for count in (LARGE, SMALL)
    )
    arms: dict[str, Callable[[], dict[str, float]]] = {
        "compose": lambda: large.signer("compose"),
        "createrepo_c, gpg": large.createrepo,
        "publish": lambda: large.signer("publish"),
        "cp, sync, rpmkeys, createrepo_c, gpg": large.by_hand,
        f"into {SMALL}": lambda: small.signer("publish"),
        "publish tiny": lambda: tiny_large.signer("publish"),
        f"that into {SMALL}": lambda: tiny_small.signer("publish"),
        "publish staged": large.publish_staged,
    }
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, arm in arms.items():
            costs[name].append(arm())

    def median(arm: str, unit: str = "seconds") -> float:
        return statistics.median(cost[unit] for cost in costs[arm])

    rows = [
        ("compose and sign", "compose", "createrepo_c, gpg", "seconds"),
        ("  its peak memory, MiB", "compose", "createrepo_c, gpg", "mib"),
        ("publish", "publish", "cp, sync, rpmkeys, createrepo_c, gpg", "seconds"),
        ("publish", "publish", f"into {SMALL}", "seconds"),
        ("publish a package of 0 MiB", "publish tiny", f"that into {SMALL}", "seconds"),
    ]
    with capsys.disabled():
        print(f"\n{f'{MIB} MiB into {LARGE} packages':30}{'seconds':>8}{'beside':>8}{'ratio':>7}  beside is")
        for name, ours, theirs, unit in rows:
            mine, other = median(ours, unit), median(theirs, unit)
            print(f"{name:30}{mine:8.2f}{other:8.2f}{mine / other:7.2f}  {theirs}")
        print(f"{'publish a staged snapshot':30}{median('publish staged'):8.2f}")
