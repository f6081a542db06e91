"""Tags and their versions."""

from __future__ import annotations

import itertools
import shutil

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.run import run
from pipeline.base.versions import commit_version, dotted, nearest, parse_tag, releases, rpm_order


@pytest.mark.parametrize(
    ("tag", "version", "rpm_version"),
    [
        ("v0.8.0", "0.8.0", "0.8.0"),
        ("0.8.0", "0.8.0", "0.8.0"),
        ("v0.8.4-rc4", "0.8.4-rc4", "0.8.4~rc4"),
        ("v0.8.4rc10", "0.8.4-rc10", "0.8.4~rc10"),
        ("v1.0.0-beta.2", "1.0.0-beta2", "1.0.0~beta2"),
    ],
)
def test_a_release_tag_gives_both_spellings(tag, version, rpm_version):
    release = parse_tag(tag)
    assert (release.version, release.rpm_version) == (version, rpm_version)


@pytest.mark.parametrize("tag", ["nightly", "v1", "release-1.2.3", "v1.2.3-dirty", "v0.8.0^{}", ""])
def test_a_tag_that_is_no_release(tag):
    assert parse_tag(tag) is None


def test_releases_are_in_upstreams_order():
    tags = ["v0.8.10", "v0.8.4", "v0.8.4-rc10", "nightly", "v0.8.9", "v0.8.4-rc4"]
    assert [r.tag for r in releases(tags)] == ["v0.8.4-rc4", "v0.8.4-rc10", "v0.8.4", "v0.8.9", "v0.8.10"]


@pytest.mark.skipif(not shutil.which("rpm"), reason="needs rpm")
def test_rpm_itself_sorts_the_versions_in_upstreams_order():
    """rpm's own compare, on every pair of a list that is in order."""
    rc4, final = parse_tag("v0.8.4-rc4"), parse_tag("v0.9.2")
    ordered = [
        "0.8.4~rc4",
        commit_version(rc4, "a" * 40, 1_700_000_000),
        "0.8.4~rc7",
        "0.8.4~rc10",
        "0.8.4",
        "0.8.9",
        "0.8.10",
        "0.9.2",
        commit_version(final, "f" * 40, 1_787_400_000),
        # Work on top of that commit: a second later, with a hash that sorts lower.
        commit_version(final, "1" * 40, 1_787_400_001, dirty=True),
        # An hour later on the same day.
        commit_version(final, "0" * 40, 1_787_403_600),
        "0.9.3~rc1",
        "0.9.3",
    ]
    for (i, left), (j, right) in itertools.combinations(enumerate(ordered), 2):
        printed = run(["rpm", "--eval", f"%{{lua:print(rpm.vercmp('{left}', '{right}'))}}"]).stdout.strip()
        assert printed == "-1", (i, j, left, right)


def test_a_commits_version_has_its_utc_time():
    assert commit_version(parse_tag("v0.9.2"), "9e922623f2", 1_787_409_493) == "0.9.2^20260822.143813git9e92262"


@pytest.mark.parametrize("time", [10**12, 10**20])
def test_a_clock_beyond_all_calendars_is_named(time):
    with pytest.raises(PipelineError, match=f"no usable time: {time} seconds since 1970.*Choose a release"):
        commit_version(parse_tag("v0.9.2"), "9e922623f2", time)


def test_uncommitted_work_is_dirty():
    version = commit_version(parse_tag("v0.9.2"), "9e922623f2", 1_787_409_493, dirty=True)
    assert version == "0.9.2^20260822.143813git9e92262.dirty"


def test_the_most_similar_versions_come_first():
    known = releases(["v0.8.0", "v0.8.2", "v0.9.2", "v0.7.0"])
    assert set(nearest("v0.8.1", known, 2)) == {"0.8.0", "0.8.2"}


def test_dotted_compares_numbers_not_text():
    assert dotted("13.10") > dotted("13.9")
    assert dotted("1.95.0") >= dotted("1.88")


@pytest.mark.skipif(not shutil.which("rpm"), reason="needs rpm")
def test_our_order_is_rpms_own_on_every_pair():
    versions = [
        "0.8.4~rc4", "0.8.4~rc10", "0.8.4~rc4^20260101.000000gitabc", "0.8.4", "0.8.10", "0.8.9", "0.9.2", "0.9",
        "0.9.2^20260822.143813git9e92262", "0.9.2^20260822.143813git9e92262.dirty",
        "0.9.2^20260822.153813git0e92262", "0.9.3~rc1", "1.0", "1.0a", "1.0.a",
        "1.0^a", "1.0~", "1.0^", "01.0", "1.001", "a", "1a", "a1", "1.fc43", "10.fc43", "2.fc9",
    ]  # fmt: skip
    pairs = list(itertools.product(versions, repeat=2))
    program = ";".join(f"print(rpm.vercmp('{a}', '{b}')..' ')" for a, b in pairs)
    printed = run(["rpm", "--eval", f"%{{lua:{program}}}"]).stdout.split()
    wrong = [(a, b) for (a, b), n in zip(pairs, printed, strict=True) if rpm_order(a, b) != int(n)]
    assert wrong == []
