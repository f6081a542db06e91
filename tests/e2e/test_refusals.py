"""Bad input: each error names the problem, its place and a remedy; published repositories do not change."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys

import pytest
from pipeline.base.git import git
from support.ports import free_port


@pytest.fixture(scope="module")
def pipeline(released):
    """Uses the repository of test_release, if that ran before."""
    return released


@pytest.fixture(autouse=True)
def nothing_published_changes(pipeline, request):
    """Asserted around every test of this file."""
    if not pipeline.published():
        assert pipeline.run("release").status == 0
    # With another table of flavours the package mistralrs changes too, as it should.
    state = pipeline.published if "flavours" in request.fixturenames else pipeline.state
    before = state()
    yield
    assert state() == before


def refused(run, *patterns):
    assert run.status != 0, run.output
    for pattern in patterns:
        assert re.search(pattern, run.message), run.output
    assert "FAILED" in run.output.rpartition("PLAY RECAP")[2]
    assert "Traceback" not in run.output


def without_root(folder, monkeypatch) -> dict[str, object]:
    """The variables of an account that needs a password for sudo."""
    sudo = folder / "sudo"
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    sudo.chmod(0o755)
    monkeypatch.setenv("ANSIBLE_BECOME_ALLOW_SAME_USER", "1")
    return {"verifier_become": True, "ansible_become_exe": str(sudo)}


def test_the_error_for_an_unknown_flavour_lists_the_known_ones(pipeline):
    run = pipeline.run("release", flavour="hopper")
    assert (run.status, "PLAY [" in run.output) == (5, False)
    assert "flavour: 'hopper' is none of ampere, ada, blackwell, cpu, all" in run.message


def test_the_error_for_an_unknown_version_lists_the_nearest(pipeline):
    refused(pipeline.run("release", version="0.9.7"), r"no version 0\.9\.7", r"nearest are: 0\.9\.")


def test_a_held_release_ends_before_it_builds_and_what_is_published_stays_well(pipeline):
    text = """it's the "bad" $kernels, {{ nothing }}"""
    assert pipeline.run("hold").status != 0
    assert "on hold since" in pipeline.run("hold", reason=text).row("hold")
    try:
        run = pipeline.run("release", version="0.8.3")
        assert run.status == 75, run.output
        assert f": {text} (" in run.message
        assert "Nothing was built, signed or published. make resume" in run.message
        assert not run.row("build", "ada")
        assert not run.row("prove")
        assert pipeline.run("release").status == 0
        assert f": {text}" in pipeline.run("status").output
    finally:
        assert pipeline.run("resume").row("resume") == "releases are not on hold"


def test_an_unreachable_upstream_is_an_error(pipeline):
    url = f"file://{pipeline.root}/nowhere.git"
    refused(
        pipeline.run("release", upstream_url=url),
        "upstream cannot be reached",
        "nowhere.git",
        "Check upstream_url",
    )


def test_a_tag_moved_since_its_publication_is_refused(pipeline):
    stand_in, upstream = pipeline.stand_in, pipeline.upstream
    commit = git("rev-parse", "v0.9.2^{commit}", repository=upstream).strip()
    try:
        stand_in.move_tag(upstream, "v0.9.2", "master")
        refused(pipeline.run("release", version="0.9.2"), "moved", commit[:12])
    finally:
        stand_in.move_tag(upstream, "v0.9.2", commit)


def test_an_older_release_does_not_take_the_place_of_one_that_upstream_lost(pipeline):
    commit = git("rev-parse", "v0.9.2", repository=pipeline.upstream).strip()
    git("update-ref", "-d", "refs/tags/v0.9.2", repository=pipeline.upstream)
    try:
        refused(pipeline.run("release"), r"upstream lost the tag of 0\.9\.2", commit, "yank its packages or roll back")
    finally:
        git("update-ref", "refs/tags/v0.9.2", commit, repository=pipeline.upstream)


def test_an_nvcc_of_another_version_is_refused(pipeline, tmp_path):
    fake = tmp_path / "nvcc"
    fake.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.131'\n")
    fake.chmod(0o755)
    run = pipeline.run("release", version="0.9.0", cuda_source="system", cuda_toolkit_root=str(tmp_path))
    refused(run, "13.0", "wheels")


def test_a_cuda_too_new_for_the_tag_is_refused(pipeline):
    rows = [{"upstream": "0.9.0-rc1", "cuda": "12.9", "source": "this test"}]
    run = pipeline.run("release", version="0.9.0", compatibility={"upstream_cuda": rows, "heavy": False})
    refused(run, r"CUDA for this version: found 13\.0\.\d+, needed <= 12\.9", "Nothing was compiled")


def test_a_compile_error_shows_its_lines_and_the_log(pipeline):
    stand_in, upstream = pipeline.stand_in, pipeline.upstream
    before = git("rev-parse", "master", repository=upstream).strip()
    stand_in.add_commit(upstream, "break it", {"mistralrs-core/src/limits.rs": "pub fn broken( {\n"})
    try:
        run = pipeline.run("prerelease")
    finally:
        git("update-ref", "refs/heads/master", before, repository=upstream)
    refused(run, r"error: .*", r"limits\.rs:1", r"log/ada-0\.9\.2\^.*\.log")


def test_a_native_cpu_is_refused(pipeline):
    run = pipeline.run("release", version="0.9.0", rustflags="-C target-cpu=native")
    refused(run, "target CPU: found -C target-cpu=native", "set rustflags to a baseline", "Nothing was compiled")


def test_too_little_disk_space_is_refused_before_compiling(pipeline):
    run = pipeline.run("release", version="0.9.0", build_free_gib=10**6)
    refused(run, "disk space: found", "needed 1e.06 GiB|needed 1000000 GiB", "Nothing was compiled")


def test_kernels_of_another_gpu_fail_the_audit(pipeline, flavours):
    """The state of the target directory wrongly claims ada's kernels: cargo keeps files newer than their sources."""
    target = pipeline.root / "builder/target"
    other = flavours["ada"] | {"compute_capability": "8.6"}
    build = {"version": "0.9.0", "rpm_spec_folder": "/nonexistent"}
    try:
        assert "sm_86" in pipeline.run("release", flavours=[other], **build).row("audit", "ada")
        state = target / "variants/state.json"
        state.write_text(state.read_text().replace("sm_86", "sm_89"))
        for aside in target.glob("variants/sm_89*"):
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        refused(pipeline.run("release", version="0.9.0"), "PTX: found sm_86, needed sm_89", "delete target")
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_builders_that_disagree_publish_nothing(pipeline, tmp_path):
    """A commit that compiles its own folder in; the second builder's root is elsewhere."""
    leak = '\n#[used]\npub static COMPILED_IN: &str = env!("CARGO_MANIFEST_DIR");\n'
    anvil = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "builder_user": "",
        "builder_root": str(tmp_path / "anvil"), "rust_cargo": "", "compile_cache": {},
    }  # fmt: skip
    inventory = tmp_path / "anvil.yml"
    inventory.write_text(json.dumps({"builders": {"hosts": {"anvil": anvil}}}))
    stand_in, upstream = pipeline.stand_in, pipeline.upstream
    before = git("rev-parse", "master", repository=upstream).strip()
    stand_in.add_commit(upstream, "embed", {"mistralrs-mcp/src/lib.rs": lambda text: text + leak})
    try:
        words = ("-i", "inventory/local.yml", "-i", str(inventory))
        run = pipeline.run("prerelease", *words, flavour="cpu", agreement=2)
    finally:
        git("update-ref", "refs/heads/master", before, repository=upstream)
    refused(
        run,
        r"builders disagree about cpu: localhost [0-9a-f]{16}, anvil [0-9a-f]{16}; mistralrs differs",
        "caused by mistralrs-mcp",
        "Nothing of it was packaged or signed",
    )
    assert run.row("spread") == "cpu by localhost; cpu by anvil"
    assert not run.row("sign", "cpu")


def test_a_missing_signing_key_is_an_error(pipeline, tmp_path):
    refused(pipeline.run("release", version="0.8.3", signing_home=str(tmp_path)), "signing key", "signing_key|import")


def test_a_used_port_of_the_local_server_is_an_error(pipeline):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        run = pipeline.run("release", version="0.8.3", local_port=port)
    refused(run, rf"{port}", "local_port", "PORT=")
    assert not run.row("build", "ada")


def test_the_doctor_reports_every_problem_in_one_error_and_writes_json(pipeline, flavours, tmp_path, monkeypatch):
    """It checks the stand-in by the requirements of mistral.rs. An unreachable cache is a warning."""
    settings, report = tmp_path / "sccache.env", tmp_path / "new" / "doctor.json"
    settings.write_text(f"SCCACHE_DIR={tmp_path}/kept\nSCCACHE_REDIS_ENDPOINT=redis://127.0.0.1:{free_port()}\n")
    row = flavours["ada"]
    wrong = {
        "upstream_kind": "mistral.rs",
        "jobs": 9999,
        "build_free_gib": 10**6,
        "rustflags": "-C target-cpu=native",
        "flavours": [row | {"features": [*row["features"], "flash-attn-v3"]}],
        "compile_cache": {"program": "/bin/true", "settings": str(settings)},
        "report": str(report),
        **without_root(tmp_path, monkeypatch),
    }
    refused(
        pipeline.run("doctor", **wrong),
        "a release would fail", "target CPU: found -C target-cpu=native", "Upstream 0.9.2 has no feature flash-attn-v3",
        "library nccl: found .*cannot find -lnccl", "memory: found .* for 9999 jobs", "disk space: found",
        "warning: The build goes on with the disk alone",
        "localhost: proof: found this account cannot become root on localhost, .*-K",
    )  # fmt: skip
    written = json.loads(report.read_text())
    assert (written["fits"], written["version"]) == (False, "0.9.2")
    (verifier,) = written["verifiers"]
    assert (verifier["builder"], verifier["fits"]) == ("localhost", False)
    (entry,) = written["builders"]
    assert (entry["builder"], entry["flavour"], entry["fits"]) == ("localhost", "ada", False)
    found = {finding["check"]: finding for finding in entry["findings"]}
    assert found["nvcc with gcc"]["fits"]
    assert found["library cudart"]["fits"]
    assert (found["compile cache: redis"]["fits"], found["compile cache: redis"]["warning"]) == (True, True)


def test_the_doctor_without_a_toolkit_still_reports_other_problems(pipeline):
    run = pipeline.run("doctor", cuda_source="system", build_free_gib=10**6)
    refused(run, r"CUDA toolkit: found none, needed 13\.0\. the system has no CUDA 13\.0", "disk space: found")


def test_an_account_that_cannot_become_root_is_refused_before_the_build(pipeline, tmp_path, monkeypatch):
    run = pipeline.run("release", version="0.8.3", **without_root(tmp_path, monkeypatch))
    refused(
        run, "this account cannot become root on localhost, as the proof must: sudo: a password is required",
        r"Run again with -K \(make: ARGS=-K\)", "Nothing was built",
    )  # fmt: skip
    assert not run.row("check", "ada")
    assert not run.row("build", "ada")
