"""The proof on a real channel: a client installs from it, and each fault of it fails the proof."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Package
from pipeline.hosts.loopback_site import Site, started, stopped
from pipeline.prove import dnf_client, sandbox
from pipeline.prove.dnf_client import prove
from pipeline.prove.proof import Proof, ProofOrder
from pipeline.prove.sandbox import Client
from pipeline.prove.transcript import Transcript
from support import PROJECT
from support.client_channel import FOLDER, Channel, Key
from support.flavours import FLAVOURS
from support.ports import free_port
from support.systems import CLIENTS, HERE, root_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a throw-away client"),
    pytest.mark.skipif(not (shutil.which("dnf") or shutil.which("dnf5")), reason="no dnf"),
]

on_every_client = pytest.mark.parametrize("client", CLIENTS, indirect=True)
"""For cases in which dnf 4 with rpm 4 and dnf5 with rpm 6 may differ."""


@pytest.fixture
def client(request: pytest.FixtureRequest) -> str:
    """The client's dnf: this machine's own unless a test is parametrized with another."""
    return str(getattr(request, "param", HERE))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Key, Key]]:
    made = tuple(Key.make(tmp_path_factory.mktemp("key") / name, name) for name in ("throwaway", "stranger"))
    yield made[0], made[1]
    for key in made:
        key.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Key, Key]) -> tuple[Path, dict[str, Package]]:
    """A pool of packages, built once; each test copies it into its own channel."""
    work = tmp_path_factory.mktemp("pool")
    channel = Channel(Site(work / "srv", 1, work / "none"), keys[0], work)
    stray = "mkdir -p /opt/mistralrs-stray"
    packages = {
        "old": channel.package("0.9.1"),
        "new": channel.package("0.9.2"),
        "cpu": channel.package(
            "0.9.2",
            "cpu",
            script='echo "mistralrs 0.9.2 with $(cat ${LD_LIBRARY_PATH%%:*}/one ${LD_LIBRARY_PATH##*:}/two)"',
        ),
        "ampere": channel.package("0.9.2", "ampere", script="echo mistralrs 0.9.2 for ampere"),
        "blackwell": channel.package("0.9.2", "blackwell", script="echo mistralrs 0.9.2 for blackwell"),
        "before": channel.package("0.9.0", before=True),
        "chooser": channel.chooser(),
        "greedy": channel.chooser(2, "Requires: mistralrs-blackwell"),
        "humble": channel.package("0.9.3", "blackwell", priority="1"),
        "stranger": channel.package("0.9.3", key=keys[1]),
        "stray": channel.package("0.9.4", post=stray),
        "liar": channel.package("0.9.5", script="echo mistralrs 0.9.0"),
        "broken": channel.package("0.9.6", script="echo no libcudart.so.13 >&2; exit 127"),
    }
    return channel.folder / "Packages", packages


@pytest.fixture
def packages(built: tuple[Path, dict[str, Package]]) -> dict[str, Package]:
    return built[1]


@pytest.fixture
def channel(tmp_path: Path, keys: tuple[Key, Key], built: tuple[Path, dict[str, Package]]) -> Iterator[Channel]:
    site = Site(tmp_path / "srv", free_port(), tmp_path / "nginx")
    channel = Channel(site, keys[0], tmp_path)
    shutil.copytree(built[0], channel.folder / "Packages")
    started(site)
    yield channel
    stopped(site.state_dir)


@pytest.fixture
def order(
    channel: Channel, keys: tuple[Key, Key], tmp_path: Path, packages: dict[str, Package], client: str
) -> ProofOrder:
    return ProofOrder(
        url=channel.site.url,
        channel="stable",
        path=FOLDER,
        flavours=FLAVOURS,
        program=client,
        system=str(root_of(client)),
        trusted_keys=str(keys[0].public),
        packages=(packages["new"],),
        transcript=str(tmp_path / "log/client.log"),
    )


@pytest.fixture(scope="module", autouse=True)
def _rpm_has_its_database() -> None:
    """The first call of rpm makes it: a test in another process must not do that between two looks at the host."""
    subprocess.run(["rpm", "-qa"], stdout=subprocess.DEVNULL, check=True)


@pytest.fixture(autouse=True)
def host_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a file, mount or process of a client on the host."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def state() -> dict[str, object]:
        files = ["/etc/passwd", "/etc/group", "/etc/dnf/dnf.conf", "/root/.rpmdb/rpmdb.sqlite"]
        folders = [
            "/etc",
            "/etc/alternatives",
            "/usr/bin",
            "/usr/lib/sysusers.d",
            "/var/cache/dnf",
            "/var/lib",
        ]
        return {
            **{f: hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in files if Path(f).exists()},
            **{f: sorted(path.name for path in Path(f).iterdir()) for f in folders if Path(f).exists()},
            "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if str(tmp_path) in line],
        }

    before = state()
    yield
    assert state() == before


def verbs(proof: Proof) -> list[str]:
    return [step.verb for step in proof.steps]


@on_every_client
def test_a_published_package_is_installed_run_and_removed(
    channel: Channel, order: ProofOrder, packages: dict[str, Package], client: str
) -> None:
    channel.publish(packages["old"], packages["new"])
    proof = prove(order)
    assert proof.installed == ("mistralrs-ada-0.9.2-1.fc43.x86_64",)
    assert proof.versions == ("mistralrs 0.9.2",)
    assert verbs(proof) == ["makecache", "provide", "install", "run", "remove"]
    assert set(proof.provided) >= {"alternatives", "libcudart.so.13()(64bit)", "systemd"}
    assert re.fullmatch(rf"{client} [\d.]+, rpm [\d.]+", proof.client)
    assert client == HERE or ", rpm 6." in proof.client
    assert 0 < proof.dnf_seconds < proof.seconds
    transcript = Path(order.transcript).read_text()
    assert f"== install mistralrs-ada-0.9.2-1.fc43.x86_64\n$ {client} -y" in transcript


@on_every_client
def test_a_package_is_upgraded_from_the_previous_version_and_downgraded_to_it(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["old"], packages["new"])
    proof = prove(dataclasses.replace(order, previous=(packages["old"],)))
    assert verbs(proof)[2:] == ["install", "upgrade", "run", "downgrade", "remove"]
    assert proof.versions == ("mistralrs 0.9.2",)


def test_a_binary_finds_the_libraries_of_cuda_and_the_driver(
    channel: Channel, order: ProofOrder, packages: dict[str, Package], tmp_path: Path
) -> None:
    """Also where they lie in a home that no other account may enter, as a clone of the project often does."""
    channel.publish(packages["cpu"])
    with tempfile.TemporaryDirectory(dir=Path.home(), prefix=".mistralrs-libraries-") as home:
        folders = (tmp_path / "cu:da", Path(home, "driver"))
        for folder, name in zip(folders, ("one", "two"), strict=True):
            folder.mkdir()
            (folder / name).write_text(f"{name} ")
        paths = tuple(map(str, folders))
        proof = prove(dataclasses.replace(order, packages=(packages["cpu"],), library_path=paths))
    assert proof.versions == ("mistralrs 0.9.2 with one two",)


@on_every_client
def test_several_flavours_work_one_by_one_and_side_by_side(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    flavours = (packages["ampere"], packages["blackwell"], packages["new"])
    channel.publish(*flavours)
    proof = prove(dataclasses.replace(order, packages=flavours))
    assert proof.versions == (
        "mistralrs 0.9.2 for ampere",
        "mistralrs 0.9.2 for blackwell",
        "mistralrs 0.9.2",
    )
    assert verbs(proof)[2:] == ["install", "run", "remove"] * 3 + ["install", "run", "remove", "run", "remove"]
    together = [[nevra.split("-")[1] for nevra in step.what] for step in proof.steps[-5:]]
    every = ["blackwell", "ada", "ampere"]
    assert together == [every, ["blackwell"], ["blackwell"], ["ada"], ["ada", "ampere"]]


@on_every_client
def test_the_name_mistralrs_is_a_package_and_chooses_no_flavour(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    """The first flavour is upgraded from a package that owned the command's link: rpm removes it with that package."""
    channel.publish(*(packages[name] for name in ("before", "new", "blackwell", "chooser")))
    flavours = (packages["new"], packages["blackwell"])
    proof = prove(dataclasses.replace(order, packages=flavours, previous=(packages["before"],)))
    assert proof.versions == ("mistralrs 0.9.2", "mistralrs 0.9.2 for blackwell")
    transcript = Path(order.transcript).read_text()
    assert "install mistralrs-ada-0.9.0-1.fc43.x86_64 mistralrs\n" in transcript
    assert "sudo dnf install mistralrs-blackwell    # NVIDIA RTX 50 (compute capability 12.0" in transcript


def test_a_package_mistralrs_that_brings_a_flavour_along_fails(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["new"], packages["blackwell"], packages["greedy"])
    error = failure(order)
    assert "dnf install mistralrs installed mistralrs-blackwell, which nobody asked for" in error.what


def test_a_command_that_is_not_the_newest_generations_fails(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["humble"], packages["new"])
    error = failure(dataclasses.replace(order, packages=(packages["humble"], packages["new"])))
    assert "failed to install mistralrs-blackwell-0.9.3-1.fc43.x86_64 mistralrs-ada-0.9.2" in error.what
    assert "/usr/bin/mistralrs is /usr/bin/mistralrs-ada, which is no file of mistralrs-blackwell" in error.what


@on_every_client
@pytest.mark.parametrize(("by", "unused"), [("mirrorlist", "repodata"), ("baseurl", "mirrorlist")])
def test_the_channel_is_read_by_mirrorlist_or_by_baseurl(
    channel: Channel, order: ProofOrder, packages: dict[str, Package], by: str, unused: str
) -> None:
    channel.publish(packages["new"])
    (channel.folder / unused).unlink()
    assert prove(dataclasses.replace(order, by=by)).versions == ("mistralrs 0.9.2",)


@on_every_client
def test_a_staged_snapshot_is_proven_before_any_mirrorlist_names_it(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    published = channel.publish(packages["old"])
    staged = channel.stage(packages["old"], packages["new"])
    before = channel.state()
    proof = prove(dataclasses.replace(order, snapshot=staged, previous=(packages["old"],)))
    assert verbs(proof) == ["makecache", "makecache", "provide", "install", "upgrade", "run", "downgrade", "remove"]
    assert [step.what for step in proof.steps[:2]] == [(), (staged,)]
    assert channel.state() == before

    # The previous package came by the mirrorlist; the rest from the snapshot under its final URL.
    requested = re.findall(rf"GET /{FOLDER}/(\S+) ", (channel.site.state_dir / "access.log").read_text())
    assert requested.index("mirrorlist") < requested.index(f"snapshots/{published}/repodata/repomd.xml")
    old, new = (f"Packages/{packages[name].filename}" for name in ("old", "new"))
    assert [name for name in requested if name.endswith(".rpm")] == [
        f"snapshots/{published}/{old}",
        f"snapshots/{staged}/{new}",
        f"snapshots/{staged}/{old}",
    ]


@on_every_client
def test_the_first_snapshot_is_proven_before_anything_is_published(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    staged = channel.stage(packages["new"])
    proof = prove(dataclasses.replace(order, snapshot=staged))
    assert verbs(proof) == ["makecache", "provide", "install", "run", "remove"]
    assert not (channel.folder / "mirrorlist").exists()


def failure(order: ProofOrder) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        prove(order)
    return caught.value


@on_every_client
def test_metadata_changed_after_signing_fails(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["new"])
    repomd = channel.head / "repodata/repomd.xml"
    repomd.write_text(repomd.read_text().replace("<revision>1", "<revision>2"))
    error = failure(order)
    assert "failed to makecache" in error.what
    assert "signature" in error.what.lower()
    assert error.where == order.transcript
    assert "publish a new snapshot" in error.remedy


@on_every_client
def test_metadata_signed_by_a_stranger_fails(
    channel: Channel, order: ProofOrder, packages: dict[str, Package], keys: tuple[Key, Key]
) -> None:
    """Though the client has Fedora's skip_if_unavailable=True."""
    channel.publish(packages["new"], key=keys[1])
    error = failure(order)
    assert "failed to makecache" in error.what
    assert "signature" in error.what.lower()
    assert error.remedy.startswith("The metadata is not signed by a key that the site offers")
    assert "Ignoring repositories" not in Path(order.transcript).read_text()


@on_every_client
def test_a_package_signed_by_a_stranger_fails(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["stranger"])
    error = failure(dataclasses.replace(order, packages=(packages["stranger"],)))
    assert "failed to install mistralrs-ada-0.9.3-1.fc43.x86_64" in error.what
    # The first is dnf 4's message, the second dnf5's.
    assert re.search("GPG check FAILED|Import of the key didn't help, wrong key", error.what)
    assert "raise package_release" in error.remedy


def test_an_untrusted_key_on_the_site_fails_before_any_installation(
    channel: Channel, order: ProofOrder, packages: dict[str, Package], keys: tuple[Key, Key]
) -> None:
    channel.publish(packages["stranger"], key=keys[1])
    shutil.copy(keys[1].public, channel.site.root / "RPM-GPG-KEY-mistralrs")
    error = failure(dataclasses.replace(order, packages=(packages["stranger"],)))
    assert "a key that is not trusted" in error.what
    assert error.where == f"{channel.site.url}/RPM-GPG-KEY-mistralrs"
    assert Path(order.transcript).read_text() == ""


@on_every_client
@pytest.mark.parametrize("tail", [b"", b"more"])
def test_a_package_whose_bytes_changed_in_the_pool_fails(
    channel: Channel, order: ProofOrder, packages: dict[str, Package], tail: bytes
) -> None:
    channel.publish(packages["new"])
    rpm = channel.folder / "Packages" / packages["new"].filename
    data = rpm.read_bytes()
    rpm.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) + tail)
    error = failure(order)
    assert "failed to install mistralrs-ada-0.9.2" in error.what
    assert "do not match its metadata" in error.remedy


def test_a_package_that_the_repository_lacks_is_named(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["old"])
    assert "the repository does not have mistralrs-ada-0.9.2-1.fc43.x86_64" in failure(order).what


@on_every_client
def test_a_staged_snapshot_whose_id_is_not_its_metadatas_fails(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["old"])
    staged = channel.stage(packages["new"])
    lacking = failure(dataclasses.replace(order, snapshot=staged, previous=(packages["old"],)))
    assert f"snapshot {staged} does not have mistralrs-ada-0.9.1-1.fc43.x86_64" in lacking.what

    other = f"{staged[:-8]}00000000"
    (channel.folder / "snapshots" / staged).rename(channel.folder / "snapshots" / other)
    renamed = failure(dataclasses.replace(order, snapshot=other))
    assert f"failed to makecache {other}: dnf read metadata with SHA-256" in renamed.what
    assert f"which is not that of {other}" in renamed.what

    gone = failure(dataclasses.replace(order, snapshot=staged))
    assert f"failed to makecache {staged}" in gone.what
    assert "404" in gone.what
    assert "web server" in gone.remedy


@on_every_client
def test_a_staged_program_that_does_not_start_fails_and_the_published_head_stays(
    channel: Channel, order: ProofOrder, packages: dict[str, Package], run_module: Callable[..., Any]
) -> None:
    channel.publish(packages["old"])
    staged = channel.stage(packages["old"], packages["broken"])
    before = channel.state()
    options = {name: value for name, value in order.to_dict().items() if name != "at"} | {
        "snapshot": staged,
        "packages": [packages["broken"].to_dict()],
        "previous": [packages["old"].to_dict()],
    }
    failed = run_module("client_proof", options)
    assert failed["failed"] is True
    step = "run mistralrs-ada-0.9.6-1.fc43.x86_64: /usr/bin/mistralrs --version failed with status 127"
    assert failed["msg"].startswith(f"the client failed to {step}: no libcudart.so.13 ({order.transcript})")
    assert channel.state() == before
    assert prove(dataclasses.replace(order, packages=(packages["old"],))).versions == ("mistralrs 0.9.1",)


def test_another_package_under_the_same_name_fails(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["new"])
    other = dataclasses.replace(packages["new"], sha256="0" * 64)
    error = failure(dataclasses.replace(order, packages=(other,)))
    assert f"has mistralrs-ada-0.9.2-1.fc43.x86_64 with SHA-256 {packages['new'].sha256}" in error.what


def test_a_binary_that_does_not_start_or_prints_another_version_fails(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["liar"], packages["broken"])
    liar = failure(dataclasses.replace(order, packages=(packages["liar"],)))
    assert "0.9.5-1.fc43.x86_64 does not print '0.9.5': mistralrs 0.9.0" in liar.what
    broken = failure(dataclasses.replace(order, packages=(packages["broken"],)))
    assert "mistralrs --version failed with status 127: no libcudart.so.13" in broken.what


def test_leftovers_of_a_removed_package_are_named(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["stray"])
    error = failure(dataclasses.replace(order, packages=(packages["stray"],)))
    assert error.what.endswith("mistralrs-ada-0.9.4-1.fc43.x86_64 left opt/mistralrs-stray")


def test_a_repo_file_without_repo_gpgcheck_is_refused(
    channel: Channel, order: ProofOrder, packages: dict[str, Package]
) -> None:
    channel.publish(packages["new"])
    text = channel.repo_file.read_text().replace("repo_gpgcheck=1", "repo_gpgcheck=0")
    channel.repo_file.write_text(text)
    assert "does not set repo_gpgcheck=1" in failure(order).what
    channel.repo_file.unlink()
    assert failure(order).where == f"{channel.site.url}/mistralrs.repo"


def test_without_root_dnf_or_overlay_the_error_says_so(
    channel: Channel, order: ProofOrder, packages: dict[str, Package], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    channel.publish(packages["new"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        assert "only root can make the throw-away client" in failure(order).what
    with monkeypatch.context() as patch:
        patch.setattr(dnf_client.shutil, "which", lambda *_, **__: None)
        assert f"the program {HERE} is not installed" in failure(order).what
        assert "the program dnf5 or dnf is not installed" in failure(dataclasses.replace(order, program="")).what
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "PATH", "/nonexistent")
        assert "the program systemd-nspawn is not installed" in failure(dataclasses.replace(order, program="dnf")).what
    for part, other, reason in (
        ("-t overlay", "-t nosuchfs", "mount:"),
        ('KILL "$@"', "KILL systemd-nspawn --nonsense", "systemd-nspawn: unrecognized option"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sandbox, "_HOLDER", sandbox._HOLDER.replace(part, other))
            error = failure(order)
            assert f"a throw-away client cannot be made: {reason}" in error.what
            assert "may mount an overlay" in error.remedy
    error = failure(dataclasses.replace(order, system=str(tmp_path / "none")))
    assert (error.what, error.where) == ("there is no system to copy", str(tmp_path / "none"))
    (tmp_path / "bare/usr/bin").mkdir(parents=True)
    error = failure(dataclasses.replace(order, system=str(tmp_path / "bare")))
    assert (error.what, error.where) == (f"this system has no {HERE}", str(tmp_path / "bare"))
    error = failure(dataclasses.replace(order, library_path=("/nonexistent/cuda",)))
    assert (error.what, error.where) == ("no such folder of libraries", "/nonexistent/cuda")


@on_every_client
def test_changes_in_a_client_do_not_reach_its_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nonsense")
    kernel = Path("/proc/sys/kernel/hostname").read_text()
    (tmp_path / "library").mkdir()
    system = tmp_path / "a:b,c"  # a name that mount's options would split
    system.symlink_to(root_of(client))
    with Client(Transcript(tmp_path / "log"), [str(tmp_path / "library")], system) as copy:
        copy.write("/etc/canary", "tweet")
        assert copy.run("cat", "/etc/canary") == (0, "tweet")
        assert copy.read("/etc/canary") == b"tweet"
        assert copy.run("cat", "/etc/hosts") == (0, "127.0.0.1 localhost\n")
        assert "PYTHONPATH" not in copy.run("env")[1]
        assert copy.run("sh", "-c", "ls -d /proc/[0-9]*")[1].count("\n") < 5
        assert copy.run("sh", "-c", "echo canary > /proc/sys/kernel/hostname")[0] != 0
        assert "Read-only" in copy.run("touch", f"{copy.places[0]}/canary")[1]
        assert copy.run("rm", "-r", "/usr/bin")[0] == 0
        assert "etc/canary" in copy.changed()
    assert not (system / "etc/canary").exists()
    assert (system / "usr/bin/env").exists()
    assert Path("/proc/sys/kernel/hostname").read_text() == kernel


def test_a_killed_proof_takes_its_client_with_it(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from pipeline.prove.sandbox import Client\n"
        "from pipeline.prove.transcript import Transcript\n"
        f"with Client(Transcript(Path({str(tmp_path / 'log')!r}))) as client:\n"
        "    print(client._holder.pid, flush=True); client.run('sleep', '60')"
    )
    before = groups()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "module_utils")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    pid = process.stdout.readline().strip()
    (group,) = (path for path in groups() if path not in before)
    wait_for(lambda: "sleep" in processes(group))
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert processes(group) == []
    assert not group.exists()


def groups() -> set[Path]:
    """The control groups of clients, other tests' too."""
    return set(sandbox.own_control_group().glob("mistralrs-client-*"))


def processes(group: Path) -> list[str]:
    """The names of the programs in a control group and those below it."""
    pids = [pid for file in group.rglob("cgroup.procs") for pid in file.read_text().split()]
    return [Path("/proc", pid, "comm").read_text().strip() for pid in pids]


def wait_for(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_module_proves_and_changes_nothing(
    channel: Channel, order: ProofOrder, packages: dict[str, Package], run_module: Callable[..., Any]
) -> None:
    channel.publish(packages["new"])
    options = {
        "url": order.url,
        "trusted_keys": order.trusted_keys,
        "packages": [packages["new"].to_dict()],
        "transcript": order.transcript,
        "expect": "mistralrs 0.9.2",
    }
    planned = run_module("client_proof", options, check=True)
    assert planned["changed"] is False
    assert not Path(order.transcript).exists()
    assert "would makecache, provide, install mistralrs-ada" in planned["step"]["result"]

    # Another run proves meanwhile: it writes the transcript, and its server or any other program has the port.
    stopped(channel.site.state_dir)
    with (
        closing(Transcript(Path(order.transcript))) as theirs,
        socket.create_server(("127.0.0.1", channel.site.port)),
    ):
        theirs.write("theirs")
        proven = run_module("client_proof", options | {"serve": str(channel.site.root)})
    assert (proven["changed"], proven["versions"]) == (False, ["mistralrs 0.9.2"])
    assert Path(order.transcript).read_text() == "theirs"
    assert proven["transcript"] == proven["step"]["where"] == order.transcript.replace(".log", "-2.log")
    assert "mistralrs 0.9.2" in Path(proven["transcript"]).read_text()
    assert proven["step"]["flavour"] == "ada"
    started(channel.site)
    assert proven["step"]["result"].startswith("installed, run and removed by dnf")

    failed = run_module("client_proof", options | {"expect": "mistralrs 1"})
    assert "does not print 'mistralrs 1': mistralrs 0.9.2" in failed["msg"]
    assert order.transcript in failed["msg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_the_transcript_belongs_to_the_owner_of_its_folder(tmp_path):
    """The proof runs as root; a person must be able to delete its transcript."""
    os.chown(tmp_path, 12345, 12345)
    Transcript(tmp_path / "signer" / "log" / "client.log").close()
    made = [tmp_path / "signer", tmp_path / "signer/log", tmp_path / "signer/log/client.log"]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 12345)}


def test_a_transcript_that_a_killed_run_left_is_taken_again(tmp_path: Path) -> None:
    name = tmp_path / "client.log"
    program = "import sys, time; from pathlib import Path; from pipeline.prove.transcript import Transcript"
    program += f"; t = Transcript(Path({str(name)!r})); t.write('killed'); print(t.path, flush=True); time.sleep(60)"
    other = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(PROJECT / "module_utils")},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout
    assert other.stdout.readline().strip() == str(name)
    with closing(Transcript(name)) as second, closing(Transcript(name)) as third:
        assert [second.path.name, third.path.name] == ["client-2.log", "client-3.log"]
    other.kill()
    other.communicate()
    with closing(Transcript(name)) as again:
        assert again.path == name
    assert name.read_text() == ""
