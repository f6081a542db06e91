"""Releases, in this order: the first one, nothing new, the next version, every flavour, a prerelease."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.machine import interrupt


@pytest.fixture(scope="module")
def pipeline(released):
    return released


def test_a_first_release_is_installed_by_a_client(pipeline):
    run = pipeline.run("release", version="0.9.1")
    assert run.status == 0, run.output
    assert pipeline.published() == ["mistralrs-ada-0.9.1-1.fc43.x86_64.rpm"]
    assert "mistralrs 0.9.1, sm_89" in run.row("audit", "ada")
    assert "installed, run and removed by dnf" in run.row("prove", "ada")
    for step in ("resolve", "compare", "check", "build", "package", "sign", "publish"):
        assert run.row(step) or run.row(step, "ada"), (step, run.output)
    assert len(run.output.splitlines()) < 60, "a screen, and progress lines"
    assert f"make serve PORT={pipeline.port}" in run.output
    shown = re.findall("Fingerprint: ([0-9A-F ]{49,})", (pipeline.root / "signer/log/client-stable.log").read_text())
    assert shown
    for fingerprint in shown:
        assert f"dnf shows  {' '.join(fingerprint.split())}, its subkey" in run.output


def test_nothing_of_the_callers_configuration_had_a_part(pipeline):
    """The caller is hostile (support/hostile_caller.py), and its umask is 0077."""
    assert not (pipeline.root / "caller/ran").exists(), (pipeline.root / "caller/ran").read_text()
    (log,) = (pipeline.root / "builder/log").glob("ada-0.9.1-*.log")
    assert "profile [optimized]" in log.read_text(), "cargo read the configuration above the builder"
    (package,) = (pipeline.channel / "Packages").glob("mistralrs-ada-*")
    form = "%{RSAHEADER:pgpsig}|%{PACKAGER}|%{VENDOR}|%{PAYLOADCOMPRESSOR}"
    read = subprocess.run(["rpm", "-qp", "--qf", form, package], capture_output=True, text=True, check=True).stdout
    signature, packager, vendor, compressor = read.split("|")
    assert "SHA1" not in signature
    assert "hostile" not in packager + vendor
    assert compressor == "zstd"
    closed = [
        path
        for path in (pipeline.root / "srv/rpm").rglob("*")
        if not path.is_symlink()
        and ".publisher" not in path.parts  # the agent's own
        and path.stat().st_mode & 0o777 != (0o755 if path.is_dir() else 0o644)
    ]
    assert closed == [], "a web server under another account cannot read them"


def test_the_builds_progress_is_in_the_log(pipeline):
    """The action plugin prints the same lines live."""
    (log,) = (pipeline.root / "builder/log").glob("ada-0.9.1-*.log")
    assert "[ada] " in log.read_text()


def test_a_run_without_a_new_version_changes_nothing(pipeline):
    before = pipeline.state()
    run = pipeline.run("release", version="0.9.1")
    assert run.status == 0, run.output
    assert run.changed == 0
    assert pipeline.state() == before
    assert not run.row("build", "ada")
    assert "0.9.1 is published" in run.row("compare", "ada")


def test_check_mode_reports_the_missing_build_and_changes_nothing(pipeline):
    before = pipeline.state()
    run = pipeline.run("release", "--check")
    assert run.status == 0, run.output
    assert "0.9.2 lacks ada" in run.row("compare", "ada")
    assert "would be compiled" in run.row("build", "ada")
    assert pipeline.state() == before


def test_the_next_version_is_added_and_a_client_upgrades_and_downgrades(pipeline):
    run = pipeline.run("release")
    assert run.status == 0, run.output
    assert pipeline.published() == [
        "mistralrs-ada-0.9.1-1.fc43.x86_64.rpm",
        "mistralrs-ada-0.9.2-1.fc43.x86_64.rpm",
    ]
    assert len(list((pipeline.channel / "snapshots").iterdir())) == 3  # the first has mistralrs-release
    transcript = (pipeline.root / "signer/log/client-stable.log").read_text()
    assert "upgrade" in transcript
    assert "downgrade" in transcript


def test_a_package_carries_its_commit(pipeline):
    path = pipeline.channel / "Packages/mistralrs-ada-0.9.2-1.fc43.x86_64.rpm"
    commit = subprocess.run(
        ["git", "-C", pipeline.upstream, "rev-parse", "v0.9.2^{commit}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    vcs = subprocess.run(["rpm", "-qp", "--qf", "%{VCS}", path], capture_output=True, text=True, check=True).stdout
    assert vcs == f"git+file://{pipeline.upstream}#{commit}"


def test_an_artifact_has_its_manifest(pipeline):
    (manifest,) = [
        data
        for path in (pipeline.root / "builder/artifacts/ada").glob("*/manifest.json")
        if (data := json.loads(path.read_text()))["source"]["version"] == "0.9.2"
    ]
    assert manifest["rustflags"] == "-C target-cpu=x86-64"
    assert manifest["cuda"].startswith("13.0.")
    assert manifest["locked"] is True


def test_one_run_builds_every_published_flavour(pipeline):
    run = pipeline.run("release", flavour="all")
    assert run.status == 0, run.output
    assert {name for name in pipeline.published() if "0.9.2" in name} == {
        f"mistralrs-{flavour}-0.9.2-1.fc43.x86_64.rpm" for flavour in ("ampere", "ada", "blackwell")
    }
    assert not run.row("build", "ada")
    assert "sm_120a" in run.row("audit", "blackwell")
    assert "sm_86" in run.row("audit", "ampere")


def test_a_prerelease_is_published_to_the_unstable_channel_only(pipeline):
    stable = pipeline.published()
    run = pipeline.run("prerelease")
    assert run.status == 0, run.output
    (name,) = pipeline.published("unstable")
    assert name.startswith("mistralrs-ada-0.9.2^20260822.143800git")
    assert pipeline.published() == stable
    again = pipeline.run("prerelease")
    assert (again.status, again.changed) == (0, 0)


def test_the_doctor_finds_a_healthy_machine(pipeline):
    run = pipeline.run("doctor", flavour="all")
    assert (run.status, run.changed) == (0, 0), run.output
    assert "rustc" in run.output
    assert "disk space" in run.output
    report = json.loads((pipeline.root / "signer/doctor.json").read_text())
    assert report["fits"]
    assert [(entry["flavour"], entry["fits"]) for entry in report["builders"]] == [
        ("ampere", True), ("ada", True), ("blackwell", True),
    ]  # fmt: skip
    assert all(finding["fits"] for entry in report["builders"] for finding in entry["findings"])


def test_ctrl_c_stops_the_compile_and_a_second_run_completes_it(pipeline):
    before = pipeline.state()
    process = pipeline.start("release", version="0.9.0-rc1")
    wait_until(lambda: compiling(pipeline) != [], 90)
    began = time.monotonic()
    output = interrupt(process)
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + signal.SIGINT
    assert re.search(r"^Interrupted after [\d.]+ s, in: Build \(localhost\)$", output, re.MULTILINE), output
    assert "  done: resolve, compare ada" in output
    assert "No snapshot was published: clients see the packages that they saw before" in output
    wait_until(lambda: compiling(pipeline) == [], 10)
    assert pipeline.state() == before
    run = pipeline.run("release", version="0.9.0-rc1")
    assert run.status == 0, run.output
    # The binary of a release candidate prints its plain version; the proof expects what the audit read.
    assert "mistralrs-ada-0.9.0~rc1-1.fc43.x86_64.rpm" in pipeline.published()


def wait_until(holds, seconds):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def compiling(pipeline) -> list[str]:
    """The process ids of cargo and its compilers in this machine's builder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            here = str(pipeline.root / "builder/src") in str((entry / "cwd").readlink()) if words else False
        except OSError:
            continue
        if here and Path(os.fsdecode(words[0])).name in {"cargo", "rustc", "nvcc", "cicc", "ptxas"}:
            found.append(entry.name)
    return found
