"""Packaging: the defines, the command line, the digest of the inputs, and parsing rpm's output."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Flavour
from pipeline.package import rpm
from pipeline.package.rpm import Packaging, commit_of, rpm_errors, rpmbuild_argv, rpmbuild_environment
from support.handovers import ADA, COMMIT, SOURCE, build, hand_over, make_artifact

CPU = Flavour("cpu", "any x86-64")


@pytest.fixture
def packaging(tmp_path: Path) -> Packaging:
    """A complete set of inputs."""
    spec = tmp_path / "rpm"
    (spec / "systemd").mkdir(parents=True)
    for name in (rpm.SPEC, rpm.UNIT, rpm.EXAMPLE):
        (spec / name).write_text(name)
    return Packaging(hand_over(make_artifact(tmp_path / "artifact"), tmp_path), tmp_path / "signer", spec, "1", ".fc43")


def with_artifact(packaging: Packaging, **change: object) -> Packaging:
    artifact = dataclasses.replace(packaging.handed.artifact, **change)
    return dataclasses.replace(packaging, handed=dataclasses.replace(packaging.handed, artifact=artifact))


@pytest.mark.parametrize(
    ("flavour", "expected"),
    [
        (ADA, {"mistralrs_driver": "580", "mistralrs_cuda": "13.0", "mistralrs_priority": "89"}),
        (Flavour("blackwell", "RTX 50", "12.0", "13.2", (), 595),
         {"mistralrs_driver": "595", "mistralrs_cuda": "13.2", "mistralrs_priority": "120"}),
        (CPU, {"mistralrs_driver": "0", "mistralrs_cuda": "none", "mistralrs_priority": "10"}),
    ],
)  # fmt: skip
def test_the_defines_are_the_records(packaging, flavour, expected):
    assert with_artifact(packaging, flavour=flavour).defines() == {
        "dist": ".fc43",
        "mistralrs_version": "0.9.2",
        "mistralrs_flavour": flavour.name,
        "mistralrs_release": "1",
        "mistralrs_url": SOURCE.url,
        "mistralrs_commit": COMMIT,
        "mistralrs_summary": flavour.summary,
        **expected,
    }


@pytest.mark.parametrize(
    ("url", "tag"),
    [
        ("https://a.example/b~c/d%20e.git?x=1#y", "https://a.example/b~c/d%20e.git?x=1#y"),
        ("file:///some dir/ä'b/upstream.git", "file:///some%20dir/%C3%A4'b/upstream.git"),
    ],
)
def test_a_tag_of_the_spec_gets_a_url_without_blanks(packaging, url, tag):
    source = dataclasses.replace(packaging.handed.artifact.source, url=url)
    assert with_artifact(packaging, source=source).defines()["mistralrs_url"] == tag


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("0.9.2^20260822.143813git9e92262", "x 0.9.2^20260822.143813git9e92262"),
        ("file:///a%20b", "x file:///a%%20b"),
        ("two\n lines", "x two lines"),
    ],
)
def test_a_define_is_escaped_for_rpmbuild(value, word):
    argv = rpmbuild_argv(Path("/s/mistralrs.spec"), Path("/t"), {"x": value})
    assert argv == ["rpmbuild", "-bb", "--define", "_topdir /t", "--define", word, "/s/mistralrs.spec"]


def test_rpmbuild_reads_no_configuration_of_the_account():
    environment = rpmbuild_environment(Path("/t"), 1_787_000_000)
    assert environment["HOME"] == environment["XDG_CONFIG_HOME"] == "/t"
    assert environment["SOURCE_DATE_EPOCH"] == "1787000000"


def test_everything_in_the_package_is_an_input(packaging):
    def changed(name: str) -> str:
        handed = dataclasses.replace(packaging.handed, files=packaging.handed.files | {name: "1" * 64})
        return dataclasses.replace(packaging, handed=handed).inputs

    def touched(path: Path) -> str:
        path.write_text(path.read_text() + "changed")
        return dataclasses.replace(packaging).inputs

    seen = [
        packaging.inputs,
        dataclasses.replace(packaging, package_release="2").inputs,
        dataclasses.replace(packaging, dist=".fc44").inputs,
        with_artifact(packaging, flavour=CPU).inputs,
        with_artifact(packaging, source=dataclasses.replace(SOURCE, commit_time=1)).inputs,
    ]
    assert set(packaging.handed.files) == {"mistralrs", "LICENSE", "chat_templates/chatml.json"}
    seen += [changed(name) for name in packaging.handed.files]
    seen += [touched(packaging.spec_folder / name) for name in (rpm.SPEC, rpm.UNIT, rpm.EXAMPLE)]
    assert len(set(seen)) == len(seen)


def test_a_file_outside_the_package_is_no_input(packaging):
    (packaging.spec_folder / "rpmlint.toml").write_text("# for people")
    slower = with_artifact(packaging, seconds=99.0, log="/elsewhere")
    assert slower.inputs == packaging.inputs


@pytest.mark.parametrize("missing", [rpm.SPEC, rpm.UNIT, rpm.EXAMPLE])
def test_a_missing_source_is_named(packaging, missing):
    (packaging.spec_folder / missing).unlink()
    with pytest.raises(PipelineError) as caught:
        build(packaging)
    path = packaging.spec_folder / missing
    assert str(caught.value) == f"{missing} is missing ({path}). Restore rpm/ of this project"


@pytest.mark.parametrize(
    ("lines", "commit"),
    [
        ([f"mistralrs(commit) {COMMIT}", "mistralrs-ada 0.9.2-1"], COMMIT),
        (["mistralrs(commit-other) 1", "mistralrs-ada 0.9.2-1"], ""),
        ([], ""),
    ],
)
def test_the_commit_is_read_from_the_provides(lines, commit):
    assert commit_of(lines) == commit


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("+ cmp a b\nfine\n\nerror: Bad file: x\n    Bad file: x\n", "error: Bad file: x"),
        ("+ cmp a b\ncannot fork\n", "cannot fork"),
        ("", "no output"),
    ],
)
def test_rpms_errors_come_before_its_other_output(text, errors):
    assert rpm_errors(text) == errors
