"""The comparison of a commit with a repository decides which flavours are built."""

from __future__ import annotations

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Flavour, Package, Source
from pipeline.plan.compare import plan, refuse_lost, select_flavours, unknown

A, B = "a" * 40, "b" * 40
ADA = Flavour("ada", "RTX 40", "8.9", "13.0")
AMPERE = Flavour("ampere", "RTX 30", "8.6", "13.0")
TRIAL = Flavour("trial", "not yet for users", published=False)


def source(version: str = "0.9.2", commit: str = A, kind: str = "tag") -> Source:
    return Source("https://example.org/up.git", f"v{version}", kind, commit, 1, version, version)


def package(name: str, version: str = "0.9.2", release: str = "1.fc43", commit: str = A) -> Package:
    return Package(f"mistralrs-{name}", version, release, "x86_64", commit, "", "0" * 64, 1)


@pytest.mark.parametrize(
    ("published", "missing"),
    [
        pytest.param([], ["ada", "ampere"], id="an empty repository lacks all"),
        pytest.param([package("ada")], ["ampere"], id="one is present"),
        pytest.param([package("ada"), package("ampere")], [], id="nothing to do"),
        pytest.param(
            [package("ada", version="0.9.1", commit=B)],
            ["ada", "ampere"],
            id="another version counts for nothing",
        ),
        pytest.param([package("ada", release="0.fc43")], ["ada", "ampere"], id="nor does an older release"),
        pytest.param([package("ada", release="1.fc42")], ["ada", "ampere"], id="nor one of another Fedora"),
        pytest.param([package("cpu", commit=B)], ["ada", "ampere"], id="nor a flavour that is not wanted"),
    ],
)
def test_missing_flavours(published: list[Package], missing: list[str]) -> None:
    found = plan(source(), [ADA, AMPERE], published, "1", ".fc43")
    assert [flavour.name for flavour in found.missing] == missing
    assert all(present in published for present in found.present)
    assert len(found.present) + len(missing) == 2


@pytest.mark.parametrize("release", ["1.fc43", "2.fc43", "1.fc42"])
def test_a_tag_that_moved_is_refused_whatever_the_release(release: str) -> None:
    with pytest.raises(PipelineError) as error:
        plan(source(commit=B), [ADA], [package("ada", release=release)], "1", ".fc43")
    assert error.value.what == (
        f"tag v0.9.2 moved: mistralrs-ada-0.9.2-{release}.x86_64 was published from commit {A}, it is now {B}"
    )
    assert error.value.where == "https://example.org/up.git"
    assert "Find out from upstream why" in error.value.remedy


def test_a_package_without_a_commit_never_counts_as_the_source() -> None:
    with pytest.raises(PipelineError, match=r"\(none recorded\), it is now"):
        plan(source(), [ADA], [package("ada", commit="")], "1", ".fc43")


@pytest.mark.parametrize(("name", "names"), [("all", ["ada", "ampere"]), ("ampere", ["ampere"]), ("trial", ["trial"])])
def test_flavours_are_selected_by_name_or_all_published(name: str, names: list[str]) -> None:
    assert [flavour.name for flavour in select_flavours([ADA, AMPERE, TRIAL], name)] == names


def test_the_error_of_an_unknown_flavour_names_the_known_ones() -> None:
    with pytest.raises(PipelineError) as error:
        select_flavours([ADA, AMPERE], "adda")
    assert error.value.what == "there is no flavour adda"
    assert error.value.remedy == "Choose one of: ada, ampere, all"


def test_a_yanked_package_is_not_built_again_under_its_name() -> None:
    yanked = ["mistralrs-ampere-0.9.2-1.fc43.x86_64.rpm"]
    assert plan(source(), [ADA], [], "1", ".fc43", yanked=yanked).missing == (ADA,)
    with pytest.raises(PipelineError) as error:
        plan(source(), [ADA, AMPERE], [], "1", ".fc43", yanked=yanked)
    assert error.value.what == (
        "mistralrs-ampere-0.9.2-1.fc43.x86_64 was yanked from this repository, and is never published again"
    )
    assert "raise package_release" in error.value.remedy
    assert plan(source(), [AMPERE], [], "2", ".fc43", yanked=yanked).missing == (AMPERE,)


WITH_COMMIT = "0.9.2^20260822.143800gitaaaaaaa"


@pytest.mark.parametrize(
    ("wanted", "published", "remedy"),
    [
        (source("0.9.2"), package("ada", "0.9.3~rc1", commit=B), "name it: -e version=0.9.2"),
        (source("0.9.2"), package("ada", release="2.fc43"), "Set package_release to that of mistralrs"),
        (source(WITH_COMMIT, kind="branch"), package("ada", "0.9.2^20260822.150000gitbbbbbbb", commit=B), "went back"),
        (source(WITH_COMMIT, kind="branch"), package("ada", "0.9.3", commit=B), f"make dev COMMIT={A}"),
    ],
)
def test_published_versions_only_grow_unless_one_is_asked_for(wanted: Source, published: Package, remedy: str) -> None:
    message = f"mistralrs-ada-{wanted.rpm_version}-1.fc43.x86_64 sorts below {published.nevra}, which is published"
    with pytest.raises(PipelineError) as error:
        plan(wanted, [ADA], [published], "1", ".fc43")
    assert message in error.value.what
    assert remedy in error.value.remedy
    assert "Nothing was built" in error.value.remedy
    asked = plan(wanted, [ADA, AMPERE], [published], "1", ".fc43", asked=True)
    assert (asked.missing, [message in sentence for sentence in asked.below]) == ((ADA, AMPERE), [True])


def test_what_is_published_already_may_be_below_the_newest() -> None:
    """A run for the newest final release after a candidate of the next one."""
    published = [package("ada"), package("ada", "0.9.3~rc1", commit=B)]
    assert plan(source(), [ADA], published, "1", ".fc43").present == (published[0],)


@pytest.mark.parametrize("kept", [True, False], ids=["the older one is published too", "the older one never was"])
def test_a_release_that_upstream_lost_is_no_reason_to_build_an_older_one(kept: bool) -> None:
    published = [package("ampere", "0.9.3", commit=B), *([package("ada"), package("ampere")] if kept else [])]
    with pytest.raises(PipelineError) as error:
        refuse_lost(source(), [ADA, AMPERE], published, ["0.9.1", "0.9.2"])
    assert error.value.what == (
        "upstream lost the tag of 0.9.3: mistralrs-ampere-0.9.3-1.fc43.x86_64 was published from commit"
        f" {B}, and upstream's newest release is now 0.9.2"
    )
    assert "find out from upstream why. Nothing was built." in error.value.remedy
    assert "yank its packages or roll back" in error.value.remedy
    assert "-e version=0.9.2" in error.value.remedy


def test_commits_after_a_lost_release_are_refused_too() -> None:
    published = [package("ada", "0.9.3^20260822.143800gitbbbbbbb", commit=B)]
    with pytest.raises(PipelineError, match=r"lost the tag of 0\.9\.3.* newest release is now 0\.9\.2 "):
        refuse_lost(source(WITH_COMMIT, kind="branch"), [ADA], published, ["0.9.2"])


def test_nothing_is_lost_while_upstream_has_the_tag() -> None:
    published = [package("ada", "0.9.3~rc1", commit=B), package("ada", "0.9.0", commit=B), package("old", "9.0")]
    refuse_lost(source(), [ADA, AMPERE], published, ["0.9.2", "0.9.3~rc1"])


def test_a_first_release_is_of_flavours_that_have_no_package_of_any_version() -> None:
    published = [package("ada", version="0.8.0", commit=B)]
    assert unknown([ADA, AMPERE], published) == (AMPERE,)
    assert unknown([ADA], published) == ()
