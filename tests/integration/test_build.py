"""Build and check: real cargo, upstream's stand-in, the flavour without a GPU."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.git import git
from pipeline.base.records import sha256_file
from pipeline.base.sandbox import Sandbox
from pipeline.build import cargo_build
from pipeline.build.inside import CARGO_FAILED
from pipeline.build.watch import Watch
from pipeline.package.audit import audit
from pipeline.source import checkout
from pipeline.toolchain.rust import find_rust
from support.builds import CPU, build_of, program_environment, source_of


@pytest.fixture(scope="module")
def built(tmp_path_factory, stand_in):
    """A release built once: its build, artifact and log."""
    folder = tmp_path_factory.mktemp("built")
    stand_in.create(folder / "upstream.git")
    build = build_of(folder / "builder", source_of(folder / "upstream.git", folder))
    log = folder / "builder/log/build.log"
    return build, cargo_build.make(build, log), log


def test_an_artifact_is_the_binary_with_companions_and_manifest(built):
    build, artifact, log = built
    folder = Path(artifact.folder)
    assert folder == build.folder
    assert {"mistralrs", "manifest.json", "LICENSE", "chat_templates"} == {p.name for p in folder.iterdir()}
    assert artifact.sha256 == sha256_file(folder / "mistralrs")
    assert artifact.crate_version == "0.9.2"
    assert artifact.locked
    assert artifact.compiled > 3
    assert artifact.fresh == 0
    assert build.source.commit in log.read_text()


def test_the_progress_is_in_the_log(built):
    _, _, log = built
    assert re.search(r"^\[cpu\] \d+/\d+ [\w-]+, \d:\d\d", log.read_text(), re.MULTILINE)


def test_upstreams_native_cpu_is_replaced_and_the_manifest_names_the_flags(built):
    build, artifact, _ = built
    assert "native" in (build.checkout / ".cargo/config.toml").read_text()
    assert artifact.rustflags == "-C target-cpu=x86-64"


def test_the_audit_passes_the_real_binary(built):
    _, artifact, _ = built
    audited = audit(artifact)
    assert audited.summary.startswith("mistralrs 0.9.2, no GPU code, ")
    assert [finding for finding in audited.findings if not finding.fits] == []


def test_an_existing_artifact_is_found_and_a_damaged_one_is_not(built):
    build, artifact, _ = built
    assert cargo_build.existing(build) == artifact
    binary = Path(artifact.folder) / "mistralrs"
    bytes_before = binary.read_bytes()
    try:
        binary.write_bytes(bytes_before[:-1])
        assert cargo_build.existing(build) is None
    finally:
        binary.write_bytes(bytes_before)


def test_the_checkout_moves_and_is_not_cloned_again(built, stand_in):
    """cargo compares modification times: files that two commits share keep theirs."""
    build, _, _ = built
    repository = Path(build.source.url.removeprefix("file://"))
    unchanged = build.checkout / "mistralrs-cli/src/main.rs"
    before = unchanged.stat().st_mtime_ns
    (build.checkout / "stray.rs").write_text("left over")
    source = source_of(repository, build.root.parent, kind="branch")
    tree = checkout.move(build.checkout, source)
    assert tree.moved
    assert git("rev-parse", "HEAD", repository=build.checkout).strip() == source.commit
    assert unchanged.stat().st_mtime_ns == before
    assert not (build.checkout / "stray.rs").exists()
    assert not checkout.move(build.checkout, source).moved


def test_a_compile_error_shows_its_own_lines_and_leaves_no_artifact(built, stand_in, tmp_path):
    build, _, _ = built
    repository = tmp_path / "broken.git"
    stand_in.create(repository)
    stand_in.add_commit(repository, "break it", {"mistralrs-cli/src/main.rs": 'fn main() { let x: u32 = "text"; }\n'})
    broken = dataclasses.replace(build, source=source_of(repository, tmp_path, kind="branch"))
    log = tmp_path / "broken.log"
    with pytest.raises(PipelineError) as caught:
        cargo_build.make(broken, log)
    assert "error[E0308]: mismatched types" in str(caught.value)
    assert 'let x: u32 = "text"' in str(caught.value)
    assert str(log) in str(caught.value)
    assert not broken.folder.exists()
    assert "error[E0308]" in log.read_text()


KILLED = """
fn main() {
    let command = format!("kill -9 {}", std::process::id());
    std::process::Command::new("sh").args(["-c", &command]).status().unwrap();
}
"""


def test_a_build_script_that_somebody_killed_is_no_lack_of_memory(built, stand_in, tmp_path):
    build, _, _ = built
    repository = tmp_path / "killed.git"
    stand_in.create(repository)
    stand_in.add_commit(repository, "end it", {"mistralrs-cli/build.rs": KILLED})
    killed = dataclasses.replace(build, source=source_of(repository, tmp_path, kind="branch"))
    with pytest.raises(PipelineError) as caught:
        cargo_build.make(killed, tmp_path / "killed.log")
    message = str(caught.value)
    assert (
        "mistralrs-cli 0.9.2: the build script was ended by signal 9 (SIGKILL), and the kernel saw no lack" in message
    )
    assert "low_memory" not in message
    assert not killed.folder.exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "echo words; kill -9 $$",
            r"the build's own program was ended by signal 9 \(SIGKILL\), and the kernel .*: words",
        ),
        ("echo words; exit 139", r"the build's own program was ended by signal 11 \(SIGSEGV\): it crashed: words"),
        ("echo words; exit 2", "the build ended with status 2: words"),
        (f"echo 'error: made up'; echo '  cicc terminated (signal: 25)'; exit {CARGO_FAILED}", "SIGXFSZ.*ulimit -f"),
    ],
)
def test_the_end_of_the_builds_own_program_is_named(tmp_path, command, message):
    sandbox = Sandbox(protected=False)
    with (tmp_path / "log").open("w") as stream, pytest.raises(PipelineError, match=f"(?s){message}"):
        Watch(stream, "cpu").follow(lambda: sandbox.start(["sh", "-c", command], stderr=subprocess.STDOUT), 0)


def drop_last_package(text: str) -> str:
    """A stale lock, which lacks a package of the workspace."""
    return text[: text.rindex("[[package]]")]


def test_a_stale_lock_fails_a_release_and_is_recorded_elsewhere(built, stand_in, tmp_path):
    build, _, _ = built
    repository = tmp_path / "stale.git"
    stand_in.create(repository)
    stand_in.add_commit(repository, "forget the lock", {"Cargo.lock": drop_last_package})
    stale = dataclasses.replace(build, source=source_of(repository, tmp_path, kind="branch"))
    with pytest.raises(
        PipelineError,
        match="could not be fetched: error: cannot update the lock.*Cargo.lock does not fit.*report it upstream",
    ):
        cargo_build.make(stale, tmp_path / "always.log")
    artifact = cargo_build.make(dataclasses.replace(stale, locked="prefer"), tmp_path / "prefer.log")
    assert not artifact.locked
    assert "without --locked" in (tmp_path / "prefer.log").read_text()


def test_a_missing_cargo_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PipelineError, match="cargo is not installed on the builder.*Install Rust"):
        find_rust()


RUN = """
import json
import sys
from pathlib import Path
from pipeline.build import cargo_build
from pipeline.build.inputs import Build
from pipeline.base import errors, records
from pipeline.toolchain import rust
data = json.loads(sys.argv[1])
build = Build(root=Path(data["root"]), source=records.Source.from_dict(data["source"]),
    flavour=records.Flavour.from_dict(data["flavour"]), package="mistralrs-cli", binary="mistralrs",
    rust=rust.find_rust(), toolkit="", toolkit_version="", rustflags=data["rustflags"], locked="always")
try:
    cargo_build.make(build, Path(data["log"]), alive=Path(data["alive"]), lease=data["lease"])
except errors.PipelineError as error:
    print(error)
    sys.exit(3)
"""


@pytest.fixture
def slow_build(built, stand_in, tmp_path):
    """Returns a function that starts a slow build (its build script sleeps) in a process of its own."""
    build, _, _ = built
    repository = tmp_path / "slow.git"
    stand_in.create(repository)
    sleeper = 'fn main() { std::process::Command::new("sleep").arg("86.5").status().unwrap(); }\n'
    stand_in.add_commit(repository, "sleep", {"mistralrs-vision/build.rs": sleeper})
    source = source_of(repository, tmp_path, kind="branch")
    data = {
        "root": str(build.root),
        "source": source.to_dict(),
        "flavour": CPU.to_dict(),
        "rustflags": build.rustflags,
        "log": str(tmp_path / "slow.log"),
        "alive": str(tmp_path / "alive"),
        "lease": 0,
    }

    def start(**change: object) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", RUN, json.dumps(data | change)]
        process = subprocess.Popen(words, env=program_environment(), stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not sleepers(build.root) and time.monotonic() < deadline:
            (tmp_path / "alive").touch()
            time.sleep(0.05)
        assert sleepers(build.root), (tmp_path / "slow.log").read_text()
        return process

    return start, build, dataclasses.replace(build, source=source)


def sleepers(root: Path) -> list[int]:
    """The process ids of this builder's sleeping build scripts."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            inside = str(root).encode() in str((entry / "cwd").readlink()).encode() if command else False
        except OSError:
            continue
        if inside and command.startswith(b"sleep\x0086.5"):
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_kills_cargo_and_its_children(slow_build, number):
    start, build, slow = slow_build
    process = start()
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 3
    assert f"interrupted by {number.name}" in output
    assert "compiled units are kept" in output
    assert sleepers(build.root) == []
    assert not slow.folder.exists()
    # Without the sleeping build script the next build succeeds.
    assert cargo_build.make(build, build.root / "log/again.log").sha256


def test_a_build_without_its_controller_stops(slow_build):
    start, build, _ = slow_build
    process = start(lease=2)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "its controller has been silent for 2 s" in output
    assert sleepers(build.root) == []
