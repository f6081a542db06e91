"""Records: frozen, and the same as JSON."""

from __future__ import annotations

import json

import pytest
from pipeline.base.errors import PipelineError
from pipeline.base.records import Artifact, Flavour, Package, Snapshot, Source

SOURCE = Source("file:///u", "v0.9.2", "tag", "c" * 40, 1_787_000_000, "0.9.2", "0.9.2")
ARTIFACT = Artifact(
    SOURCE, Flavour("ada", "RTX 40", "8.9", "13.0", ("cuda",), 580), "1" * 64, "/a", "mistralrs", "0.9.2", "5" * 64, 1,
    "1.95.0", "13.0", "", locked=True, seconds=1.5, compiled=1, fresh=0, log="/l",
)  # fmt: skip


@pytest.mark.parametrize(
    "record", [SOURCE, ARTIFACT, Snapshot("20260822T143813Z-0123abcd", "stable", "", 1, "why", ("a.rpm",))]
)
def test_json_and_back_is_the_same(record, tmp_path):
    assert type(record).from_dict(json.loads(json.dumps(record.to_dict()))) == record
    record.write(tmp_path / "r.json")
    assert type(record).read(tmp_path / "r.json") == record
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stray": 1}, "Source record has the unknown keys stray"),
        ({"commit": 5}, "Source.commit must be str, not 5"),
        ({"commit_time": "x"}, "Source.commit_time must be int"),
        ({"commit_time": True}, "Source.commit_time must be int"),
    ],
)
def test_the_error_names_an_invalid_value(change, message):
    with pytest.raises(PipelineError, match=message):
        Source.from_dict(SOURCE.to_dict() | change)


def test_a_missing_key_is_named():
    data = SOURCE.to_dict()
    del data["commit"]
    with pytest.raises(PipelineError, match="Source record lacks commit"):
        Source.from_dict(data)


def test_the_error_of_a_broken_manifest_has_its_path_and_a_remedy(tmp_path):
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(PipelineError, match=r"not JSON.*m\.json.*Delete it"):
        Source.read(tmp_path / "m.json")


@pytest.mark.parametrize(("capability", "arch"), [("8.6", "sm_86"), ("8.9", "sm_89"), ("12.0", "sm_120a"), ("", "")])
def test_a_flavours_architecture(capability, arch):
    assert Flavour("x", "y", capability).arch == arch


def test_a_packages_file_name_is_its_nevra():
    package = Package("mistralrs-ada", "0.9.2", "1.fc43", "x86_64", "", "/p", "5" * 64, 1)
    assert package.filename == "mistralrs-ada-0.9.2-1.fc43.x86_64.rpm"
