"""Caches that are brought up to upstream's newest commit, night by night."""

from __future__ import annotations

import re

import pytest
from pipeline.base.git import git

LIMITS = "mistralrs-core/src/limits.rs"


@pytest.fixture(scope="module")
def warmed(pipeline):
    """The first night of a builder with one flavour, and how it ended."""
    pipeline.settings |= {"flavour": "cpu", "artifacts_kept": 1}
    return pipeline.run("warm")


def head(pipeline) -> str:
    return git("rev-parse", "HEAD", repository=pipeline.root / "builder/src").strip()


def test_the_first_night_compiles_and_neither_packages_nor_publishes(pipeline, warmed):
    assert warmed.status == 0, warmed.output
    assert head(pipeline) == git("rev-parse", "master", repository=pipeline.upstream).strip()
    released, incremental = re.findall(r"^build +cpu .*s +(compiled .*)$", warmed.output, re.MULTILINE)
    assert re.match(r"compiled \d+ units in .*, \d+ were fresh", released)
    assert re.match(r"compiled [1-9]\d* units in .*, [1-9]\d* were fresh, incremental$", incremental)
    assert not (pipeline.root / "builder/packages").exists()
    assert not pipeline.channel.exists()


def test_a_night_with_nothing_new_does_nothing(pipeline, warmed):
    run = pipeline.run("warm")
    assert (run.status, run.changed) == (0, 0)
    assert re.findall(r"^build +cpu .*s +(already .*)$", run.output, re.MULTILINE) == [
        "already built",
        "already built, incremental",
    ]


def test_a_night_may_leave_out_what_developers_go_on_from(pipeline, warmed):
    run = pipeline.run("warm", warm_incremental="false")
    assert run.status == 0, run.output
    assert re.findall(r"^build +cpu .*s +(.*)$", run.output, re.MULTILINE) == ["already built"]


def test_a_build_near_the_warm_commit_is_quick(pipeline, warmed):
    """One crate changed: the crates that do not depend on it are fresh."""
    pipeline.stand_in.add_commit(
        pipeline.upstream, "a small change", {"mistralrs-cli/src/args.rs": "{}\n// x\n".format}
    )
    run = pipeline.run("warm")
    assert run.status == 0, run.output
    compiled, fresh = map(int, re.findall(r"(\d+) (?:units|were)", run.row("build", "cpu"))[:2])
    assert compiled < fresh


def test_a_commit_that_does_not_compile_is_reported_and_is_no_failure(pipeline, warmed):
    before = git("rev-parse", "master", repository=pipeline.upstream).strip()
    pipeline.stand_in.add_commit(pipeline.upstream, "break it", {LIMITS: "pub fn broken( {\n"})
    try:
        run = pipeline.run("warm")
    finally:
        git("update-ref", "refs/heads/master", before, repository=pipeline.upstream)
    assert run.status == 0, run.output
    assert re.search(r"Upstream's newest commit does not compile: cpu .*limits\.rs:1", run.message)


def test_a_builder_that_cannot_build_fails_the_night(pipeline, warmed):
    run = pipeline.run("warm", build_free_gib=10**6)
    assert run.status != 0
    assert re.search(r"Not warmed: cpu .*disk space: found", run.message)
