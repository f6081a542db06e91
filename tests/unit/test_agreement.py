"""Builders that must agree: the same bytes are one line of the table, a difference names files and crates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline.base.errors import PipelineError
from pipeline.build.agreement import Built, agreed, difference, units_of
from support.handovers import make_artifact

UNITS = {
    "units": {"mistralrs_core-0a": "1", "mistralrs_server-0b": "1", "left_pad-0c": "1"},
    "uses": {"mistralrs_server": ["mistralrs_core"], "mistralrs_core": ["left_pad"]},
    "names": {"mistralrs_core": "mistralrs-core", "mistralrs_server": "mistralrs-server", "left_pad": "left-pad"},
}


def built(folder: Path, builder: str, units: object = None, **files: str) -> Built:
    """A build of ``builder``; ``files`` replaces the digests of its files."""
    folder = folder / builder
    folder.mkdir()
    (folder / "mistralrs").write_bytes(b"\0program of " + builder.encode() * 3)
    if units is not None:
        (folder / "units.json").write_text(units if isinstance(units, str) else json.dumps(units))
    digests = {"mistralrs": "1" * 64, "LICENSE": "2" * 64} | {name: digest * 64 for name, digest in files.items()}
    return Built(builder, digests, folder / "mistralrs", folder / "units.json")


def other_units(*changed: str) -> dict[str, Any]:
    return UNITS | {"units": UNITS["units"] | dict.fromkeys(changed, "2")}


def test_one_builder_has_nothing_to_agree_with(tmp_path):
    assert agreed([built(tmp_path, "forge")], 1, "ada") == ""


def test_the_same_bytes_show_both_digests(tmp_path):
    both = [built(tmp_path, "forge"), built(tmp_path, "anvil")]
    assert agreed(both, 2, "ada") == f"forge {'1' * 16}, anvil {'1' * 16}"


@pytest.mark.parametrize("builders", [[], ["forge"], ["forge", "forge"]])
def test_too_few_builders_are_an_error(tmp_path, builders):
    folders = [tmp_path / str(place) for place in range(len(builders))]
    for folder in folders:
        folder.mkdir()
    some = [built(folder, name) for folder, name in zip(folders, builders, strict=True)]
    with pytest.raises(PipelineError, match="2 builders must agree about ada, and only . handed it over"):
        agreed(some, 2, "ada")


@pytest.mark.parametrize(
    ("changed", "crate"),
    [
        (["mistralrs_core-0a", "mistralrs_server-0b"], "mistralrs-core"),
        (["left_pad-0c", "mistralrs_core-0a", "mistralrs_server-0b"], "left-pad"),
        (["mistralrs_server-0b"], "mistralrs-server"),
    ],
)
def test_a_difference_names_the_crate_that_causes_it(tmp_path, changed, crate):
    first = built(tmp_path, "forge", UNITS)
    other = built(tmp_path, "anvil", other_units(*changed), mistralrs="3")
    with pytest.raises(PipelineError) as caught:
        agreed([first, other], 2, "ada")
    assert caught.value.what == (
        f"builders disagree about ada: forge {'1' * 16}, anvil {'3' * 16}; mistralrs differs, caused by {crate}"
    )
    assert caught.value.remedy.startswith("Nothing of it was packaged or signed. make reproduce finds out")


def test_a_difference_outside_the_binary_names_the_files(tmp_path):
    first, other = built(tmp_path, "forge"), built(tmp_path, "anvil", LICENSE="3", stray="4")
    assert difference(first, other) == "LICENSE, stray differ"


@pytest.mark.parametrize(
    "lie",
    [
        None, "", "[]", "[" * 99_999, '{"units": 1}', {"units": {}, "uses": {}, "names": []},
        {"units": {"a-1": 1}, "uses": {}, "names": {}}, {"units": {}, "uses": {"a": 1}, "names": {}},
        {"units": {}, "uses": {"a": [[]]}, "names": {}},
        {"units": {"a-1": "2"}, "uses": {}, "names": {"a": "x\x1b[2J"}},
    ],
)  # fmt: skip
def test_a_list_of_units_that_lies_explains_nothing_and_breaks_nothing(tmp_path, monkeypatch, lie):
    monkeypatch.setattr("pipeline.build.agreement.differing_sections", lambda *_: [".text"])
    first = built(tmp_path, "forge", {"units": {"a-1": "1"}, "uses": {}, "names": {}})
    other = built(tmp_path, "anvil", lie, mistralrs="3")
    assert difference(first, other) == "mistralrs differs in .text"


def test_the_units_of_a_build_are_listed(tmp_path):
    deps = tmp_path / "target/release/deps"
    deps.mkdir(parents=True)
    (deps / "libleft_pad-0c.rlib").write_bytes(b"code")
    (tmp_path / "target/release/.fingerprint/left-pad-0c").mkdir(parents=True)
    artifact = make_artifact(tmp_path / "artifacts/ada/0123")
    (tmp_path / "target/release/mistralrs").write_bytes(Path(artifact.folder, "mistralrs").read_bytes())
    assert json.loads(units_of(artifact))["names"] == {"left_pad": "left-pad"}
    assert list(json.loads(units_of(artifact))["units"]) == ["left_pad-0c"]
    (tmp_path / "target/release/mistralrs").write_bytes(b"of another build")
    assert units_of(artifact) == ""
