"""Nightly runs of warm.yml build upstream's newest commit to warm the caches."""

from __future__ import annotations

import re

import pytest
from pipeline.base.git import git

LIMITS = "mistralrs-core/src/limits.rs"


@pytest.fixture(scope="module")
def warmed(pipeline):
    """The result of the first nightly run on a builder with one flavour."""
    pipeline.settings |= {"flavour": "cpu", "artifacts_kept": 1}
    return pipeline.run("warm")


def head(pipeline, root: str = "builder") -> str:
    return git("rev-parse", "HEAD", repository=pipeline.root / root / "src").strip()


def test_the_first_run_compiles_and_neither_packages_nor_publishes(pipeline, warmed):
    assert warmed.status == 0, warmed.output
    """The release first: the newest commit starts from its units, and writes none of them."""
    assert head(pipeline) == git("rev-parse", "v0.9.2", repository=pipeline.upstream).strip()
    assert head(pipeline, "builder/try") == git("rev-parse", "master", repository=pipeline.upstream).strip()
    released, newest, incremental = re.findall(r"^build +cpu .*s +(compiled .*)$", warmed.once, re.MULTILINE)
    assert re.match(r"compiled [1-9]\d* units in .*, 0 were fresh", released)
    assert re.match(r"compiled \d+ units in .*, [1-9]\d* were fresh", newest)
    assert re.match(r"compiled [1-9]\d* units in .*, [1-9]\d* were fresh, incremental$", incremental)
    assert not (pipeline.root / "builder/packages").exists()
    assert not pipeline.channel.exists()


def test_a_run_without_a_new_commit_changes_nothing(pipeline, warmed):
    run = pipeline.run("warm")
    assert (run.status, run.changed) == (0, 0)
    assert re.findall(r"^build +cpu .*s +(already .*)$", run.once, re.MULTILINE) == [
        "already built",
        "already built",
        "already built, incremental",
    ]


def test_warm_incremental_false_omits_the_incremental_build(pipeline, warmed):
    run = pipeline.run("warm", warm_incremental="false")
    assert run.status == 0, run.output
    assert re.findall(r"^build +cpu .*s +(.*)$", run.once, re.MULTILINE) == ["already built"] * 2


def test_a_small_change_recompiles_few_crates(pipeline, warmed):
    """Crates that do not depend on the changed crate are fresh."""
    pipeline.stand_in.add_commit(
        pipeline.upstream, "a small change", {"mistralrs-cli/src/args.rs": "{}\n// x\n".format}
    )
    run = pipeline.run("warm")
    assert run.status == 0, run.output
    rows = re.findall(r"compiled (\d+) units in .*, (\d+) were fresh", run.once)
    assert int(rows[0][0]) < int(rows[0][1])


def test_a_commit_that_does_not_compile_is_reported_without_failing_the_run(pipeline, warmed):
    before = git("rev-parse", "master", repository=pipeline.upstream).strip()
    pipeline.stand_in.add_commit(pipeline.upstream, "break it", {LIMITS: "pub fn broken( {\n"})
    try:
        run = pipeline.run("warm")
    finally:
        git("update-ref", "refs/heads/master", before, repository=pipeline.upstream)
    assert run.status == 0, run.output
    assert re.search(r"Upstream does not compile: cpu .*limits\.rs:1", run.message)


def test_a_builder_that_fails_its_check_fails_the_run(pipeline, warmed):
    run = pipeline.run("warm", build_free_gib=10**6)
    assert run.status != 0
    assert re.search(r"Not warmed: cpu .*disk space: found", run.message)
