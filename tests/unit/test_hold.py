"""The hold of releases: one file of the signer, whole or not at all, and never taken for none."""

from __future__ import annotations

import pytest
from pipeline.base.errors import PipelineError
from pipeline.channel.hold import Held, Hold, expect_none, lifted, path_of, placed
from pipeline.channel.reader import Published
from pipeline.channel.status import lines, status_of
from support import PROJECT
from support.loading import load

NOW = 1_795_271_514
TEXT = 'it\'s "bad" {{ kernels }}'


def test_the_hold_names_reason_account_and_time(tmp_path):
    assert Hold.of(tmp_path) is None
    expect_none(tmp_path, "Nothing was built")
    assert placed(tmp_path, TEXT, "ops@forge", NOW) == (None, Hold(TEXT, "ops@forge", NOW))
    assert path_of(tmp_path).stat().st_mode & 0o777 == 0o600
    with pytest.raises(Held) as caught:
        expect_none(tmp_path, "Nothing was built")
    assert str(caught.value) == (
        f"releases are on hold since 2026-11-21 14:31:54 UTC by ops@forge: {TEXT} ({path_of(tmp_path)})."
        " Nothing was built. make resume (playbooks/resume.yml) ends the hold"
    )
    assert caught.value.failure()["held"] is True


def test_another_reason_keeps_the_beginning(tmp_path):
    placed(tmp_path, "one", "ops@forge", NOW)
    assert placed(tmp_path, "two\nlines", "you@forge", NOW + 60)[1] == Hold("two lines", "ops@forge", NOW)
    assert lifted(tmp_path, check=True) == Hold("two lines", "ops@forge", NOW) == lifted(tmp_path)
    assert lifted(tmp_path) is None


@pytest.mark.parametrize("damaged", ["", "{", "[]", "null", '{"reason": "x"}'])
def test_a_file_that_cannot_be_read_holds_until_it_is_lifted(tmp_path, damaged):
    path_of(tmp_path).parent.mkdir()
    path_of(tmp_path).write_text(damaged)
    with pytest.raises(Held, match="the reason cannot be read.*make resume"):
        expect_none(tmp_path, "")
    assert lifted(tmp_path)
    expect_none(tmp_path, "")


def test_the_status_shows_the_hold_and_is_well():
    empty = Published("", 0, ())
    found = status_of(
        "stable", empty, {"snapshot": "", "missing": [], "room": 1, "ahead": 0.0}, [], hold=Hold("why", "ops@x", NOW)
    )
    assert found.to_dict()["hold"] == {"reason": "why", "by": "ops@x", "since": NOW}
    assert all(finding.fits for finding in found.findings)
    assert "  releases are on hold since 2026-11-21 14:31:54 UTC by ops@x: why" in lines(
        status_of("stable", empty, PipelineError("x"), [], hold=Hold("why", "ops@x", NOW)), NOW
    )


def test_a_held_run_has_a_status_of_its_own():
    callback = load(PROJECT / "plugins/callback/run_status.py", "run_status").CallbackModule()

    class Result:
        result = {"failed": True, "held": True}  # noqa: RUF012

    callback.v2_playbook_on_stats(None)
    callback.v2_runner_on_failed(Result(), ignore_errors=True)
    callback.v2_playbook_on_stats(None)
    callback.v2_runner_on_failed(Result())
    with pytest.raises(SystemExit) as caught:
        callback.v2_playbook_on_stats(None)
    assert caught.value.code == 75
