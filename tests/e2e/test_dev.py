"""Development builds, in this order: packages of a clone, of uncommitted work and of any commit; publishing one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from pipeline.base.git import git
from support.clones import state
from support.machine import Pipeline, new_machine

LIMITS = "mistralrs-core/src/limits.rs"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, project: Path, stand_in: ModuleType) -> Pipeline:
    """A machine whose path cargo, compilers, rpm and shells would split, used from a folder of that path."""
    machine = new_machine(tmp_path_factory.mktemp("ä'b some dir"), project, stand_in)
    machine.caller |= {"MISTRALRS_RPM_CALLER": str(machine.root / "upstream.git")}
    return machine


@pytest.fixture(scope="module")
def clone(pipeline) -> Path:
    """A clone with a commit of its own."""
    pipeline.settings |= {"flavour": "cpu"}
    folder = pipeline.root / "a clone"
    git("clone", "--quiet", f"file://{pipeline.upstream}", folder)
    change(folder, 40)
    git("-c", "user.name=Dev", "-c", "user.email=d@example.org", "commit", "-qam", "mine", repository=folder)
    return folder


def change(clone: Path, sequences: int) -> None:
    """Change a file of the crate that most crates depend on."""
    path = clone / LIMITS
    path.write_text(re.sub(r"(MAX_SEQS: usize = )\d+", rf"\g<1>{sequences}", path.read_text()))


def package(run) -> Path:
    """The package that the run's summary names."""
    found = re.search(r"^  package cpu: (.*\.rpm)$", run.output, re.MULTILINE)
    assert found, run.output
    return Path(found[1])


def queried(rpm: Path, form: str) -> str:
    words = ["rpm", "-qp", "--qf", form, rpm.name]
    return subprocess.run(words, cwd=rpm.parent, capture_output=True, text=True, check=True).stdout


def test_check_mode_reports_what_it_would_build(pipeline, clone):
    before = state(clone)
    run = pipeline.run("dev", "--check", source=f"../{clone.name}")
    assert run.status == 0, run.output
    assert run.row("build", "cpu") == "would be compiled, incremental"
    assert state(clone) == before
    assert not (pipeline.root / "builder/artifacts").exists()


def test_a_clone_becomes_a_package_that_is_not_published(pipeline, clone):
    before = state(clone)
    # However many builders must agree on a release.
    run = pipeline.run("dev", source=str(clone), agreement=2)
    assert run.status == 0, run.output
    commit = git("rev-parse", "HEAD", repository=clone).strip()
    assert re.fullmatch(rf"0\.9\.2\^\d{{8}}\.\d{{6}}git{commit[:7]}", queried(package(run), "%{VERSION}"))
    assert f"mistralrs(commit) = {commit}" in queried(package(run), "[%{PROVIDENEVRS}\n]")
    assert state(clone) == before
    assert not pipeline.channel.exists()


def test_uncommitted_work_recompiles_only_changed_crates_and_a_second_run_is_idempotent(pipeline, clone):
    """Signer and builder are separate hosts: the commit and the artifact are copied between them."""
    change(clone, 41)
    before = state(clone)
    options = {"source": str(clone), "uncommitted": True, "signer_inbox": f"{pipeline.root}/inbox"}
    run = pipeline.run("dev", **options)
    assert run.status == 0, run.output
    assert queried(package(run), "%{VERSION}").endswith(".dirty")
    compiled, fresh = map(int, re.findall(r"(\d+) (?:units|were)", run.row("build", "cpu"))[:2])
    assert 0 < compiled < fresh
    (handed,) = (pipeline.root / "inbox/localhost").glob("*.tar")
    assert package(run).name == f"mistralrs-{handed.stem}.x86_64.rpm"
    assert package(run).is_relative_to(pipeline.root / "signer/packages")
    again = pipeline.run("dev", **options)
    assert (again.status, again.changed) == (0, 0)
    assert package(again) == package(run)
    assert state(clone) == before


def test_any_commit_of_upstream_is_published_to_unstable_once(pipeline, clone):
    git("branch", "topic", "v0.9.2~1", repository=pipeline.upstream)
    commit = git("rev-parse", "topic", repository=pipeline.upstream).strip()
    run = pipeline.run("dev", commit=commit[:9], publish="unstable")
    assert run.status == 0, run.output
    (name,) = pipeline.published("unstable")
    assert f"git{commit[:7]}-" in name
    assert "incremental" not in run.row("build", "cpu")
    assert "installed, run and removed" in run.row("prove", "cpu")
    assert pipeline.published() == []
    before = pipeline.state()
    again = pipeline.run("dev", commit=commit, publish="unstable")
    assert (again.status, again.changed) == (0, 0)
    assert not again.row("build", "cpu")
    assert pipeline.state() == before


def test_refused_options_change_nothing(pipeline, clone):
    """One case of tests/integration/test_dev_source.py: the module runs before any build or publication."""
    before = pipeline.state(), state(clone, pipeline.root / "builder")
    run = pipeline.run("dev", source=str(clone), publish="stable")
    assert run.status != 0
    assert re.search("cannot be published to stable.*Nothing was built", run.message), run.output
    assert "Traceback" not in run.output
    assert (pipeline.state(), state(clone, pipeline.root / "builder")) == before
