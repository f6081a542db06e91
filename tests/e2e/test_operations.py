"""Operations on published repositories, in this order: status, rollback, yank, prune, finding damage."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from pipeline.base.records import Snapshot

FIRST, SECOND = (f"mistralrs-ada-{version}-1.fc43.x86_64.rpm" for version in ("0.9.1", "0.9.2"))


def head(pipeline) -> Snapshot:
    snapshot = (pipeline.channel / "mirrorlist").read_text().rstrip("/\n").rpartition("/")[2]
    return Snapshot.read(pipeline.channel / "snapshots" / snapshot / "snapshot.json")


def listed(pipeline) -> set[str]:
    """The packages of the head, without those that every channel has."""
    text = (pipeline.channel / "snapshots" / head(pipeline).id / "packages.txt").read_text()
    return {name for line in text.splitlines() if not (name := line.split()[1]).endswith(".noarch.rpm")}


def test_all_flavours_but_a_failed_one_are_published_in_one_snapshot(pipeline):
    """This run's table of versions rejects the compiler for blackwell."""
    before = pipeline.state()
    rows = [{"compute_capability": "12.0", "nvcc": "99.0", "release": "CUDA 99", "source": "this test"}]
    table = {"gpu_compilers": rows, "heavy": False}
    faulty = {"flavour": "all", "version": "0.9.1", "compatibility": table}
    run = pipeline.run("release", **faulty, together=True)
    assert run.status != 0
    assert "blackwell failed, and nothing is published without it" in run.message
    assert pipeline.published() == []
    run = pipeline.run("release", **faulty)
    assert run.status != 0
    assert re.search(r"Not published: blackwell \(task .*miscompiles for 12\.0", run.message), run.output
    assert listed(pipeline) == {FIRST, FIRST.replace("ada", "ampere")}
    assert len(head(pipeline).added) == 2
    assert before != pipeline.state()


def test_the_failed_flavour_is_published_alone_later(pipeline):
    run = pipeline.run("release", flavour="all", version="0.9.1")
    assert run.status == 0, run.output
    assert head(pipeline).added == (FIRST.replace("ada", "blackwell"),)


def test_a_release_that_no_client_can_start_is_not_published(pipeline):
    before, pool = listed(pipeline), pipeline.published()
    # A verifier without a driver and without CUDA's runtime.
    run = pipeline.run("release", verifier_library_path=[])
    assert run.status != 0
    assert "Nothing was published." in run.message
    assert "libcuda" in run.message
    assert (listed(pipeline), pipeline.published()) == (before, pool)


def test_the_same_release_is_published_once_a_client_can_start_it(pipeline):
    run = pipeline.run("release")
    assert run.status == 0, run.output
    assert SECOND in listed(pipeline)


def test_status_is_printed_and_written_as_json(pipeline):
    file = pipeline.root / "status.json"
    run = pipeline.run("status", deep=True, status_file=str(file))
    assert run.status == 0, run.output
    assert "stable is well" in run.row("status")
    assert re.search(r"mistralrs-ada +2 +0\.9\.2-1\.fc43", run.output)
    stable = next(row for row in json.loads(file.read_text()) if row["channel"] == "stable")
    assert stable["head"] == head(pipeline).id
    assert all(finding["fits"] for finding in stable["findings"])
    assert stable["host"]["journal"][-1]["snapshot"] == head(pipeline).id


def test_check_mode_shows_a_rollback_and_a_rollback_keeps_the_pool(pipeline):
    before, pool = pipeline.state(), pipeline.published()
    run = pipeline.run("rollback", "--check", "--diff")
    assert run.status == 0, run.output
    assert f"-{SECOND}" in run.output
    assert pipeline.state() == before
    run = pipeline.run("rollback", reason="0.9.2 answers nonsense")
    assert run.status == 0, run.output
    assert SECOND not in listed(pipeline)
    assert pipeline.published() == pool
    assert "0.9.2 answers nonsense" in head(pipeline).reason


def test_a_second_rollback_undoes_the_first(pipeline):
    assert pipeline.run("rollback").status == 0
    assert SECOND in listed(pipeline)


def test_the_error_for_an_unknown_snapshot_lists_the_known_ones(pipeline):
    before = pipeline.state()
    run = pipeline.run("rollback", snapshot="20200101T000000Z-00000000")
    assert run.status != 0
    assert head(pipeline).id in run.message
    assert pipeline.state() == before


def test_a_yanked_package_is_removed_and_its_name_is_never_reused(pipeline):
    run = pipeline.run("yank", names=SECOND, reason="a token in its template")
    assert run.status == 0, run.output
    assert SECOND not in listed(pipeline)
    assert SECOND not in pipeline.published()
    before = pipeline.state()
    run = pipeline.run("release")
    assert run.status != 0
    assert "yanked" in run.message
    assert "package_release" in run.message
    assert pipeline.state() == before
    run = pipeline.run("release", package_release="2")
    assert run.status == 0, run.output
    assert SECOND.replace("-1.fc43", "-2.fc43") in listed(pipeline)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"names": "mistralrs-adda-0.9.2", "reason": "mistyped"}, "no package of the channel matches mistralrs-adda"),
        ({"names": FIRST}, "a yank needs a reason"),
        ({"reason": "no name"}, "no packages are named"),
        ({"names": "mistralrs-*", "reason": "too wide"}, "would remove all"),
    ],
)
def test_an_invalid_yank_removes_nothing(pipeline, variables, message):
    before = pipeline.state()
    run = pipeline.run("yank", **variables)
    assert run.status != 0
    assert message in run.message
    assert pipeline.state() == before


def test_prune_lists_and_then_removes_packages_beyond_the_retention(pipeline):
    row = {"follows": "tag", "locked": "always", "retention": {"versions": 1}}
    stable = row | {"path": "fedora/43/x86_64", "repo": "mistralrs.repo"}
    unstable = row | {"path": "fedora/43/x86_64/unstable", "repo": "mistralrs-unstable.repo", "metadata_expire": "1h"}
    settings = {"channels": {"stable": stable, "unstable": unstable}}
    before = pipeline.state()
    run = pipeline.run("prune", "--check", **settings)
    assert run.status == 0, run.output
    assert FIRST in run.message
    assert pipeline.state() == before
    run = pipeline.run("prune", **settings)
    assert run.status == 0, run.output
    assert {name for name in listed(pipeline) if "ada" in name} == {SECOND.replace("-1.fc43", "-2.fc43")}
    assert FIRST.replace("ada", "ampere") in listed(pipeline)  # its only build
    assert FIRST in pipeline.published()  # older snapshots still name it
    again = pipeline.run("prune", **settings)
    assert (again.status, again.changed) == (0, 0)


def test_status_finds_a_missing_file_and_a_changed_one(pipeline):
    ampere = pipeline.channel / "Packages" / FIRST.replace("ada", "ampere")
    data = ampere.read_bytes()
    ampere.unlink()
    run = pipeline.run("status")
    assert run.status != 0
    assert re.search(rf"without {ampere.name}", run.output)
    ampere.write_bytes(data[:-1] + b"x")
    assert pipeline.run("status").status == 0  # without deep, status checks sizes only
    run = pipeline.run("status", deep=True)
    assert run.status != 0
    assert ampere.name in run.output
    ampere.write_bytes(data)
    assert pipeline.run("status", deep=True).status == 0


def test_a_head_that_was_set_back_is_refused_until_the_operator_accepts_it(pipeline):
    """The yank of SECOND came later. Accepting the head yanks it again."""
    known = head(pipeline)
    records = [Snapshot.read(path) for path in (pipeline.channel / "snapshots").glob("*/snapshot.json")]
    (older,) = (record.parent for record in records if SECOND in record.removed and SECOND in record.yanked)
    (pipeline.channel / "mirrorlist").write_text(
        f"http://127.0.0.1:{pipeline.port}/fedora/43/x86_64/snapshots/{older}/\n"
    )
    before = pipeline.state()
    run = pipeline.run("release")
    assert run.status != 0
    assert f"the head {older} is older than the known head, {known.id}" in run.message
    assert f"it lacks known yanks: {SECOND}" in run.message
    assert f"-e accept_head={older}" in run.message
    assert pipeline.state() == before
    run = pipeline.run("prune", accept_head=older)
    assert run.status == 0, run.output
    assert "accepted as the operator asks (accept_head)" in run.message
    assert f"yanked again, since the accepted head lacks these yanks: {SECOND}" in run.message
    assert head(pipeline).parent == older
    assert SECOND in head(pipeline).yanked
    assert SECOND not in listed(pipeline)


def test_status_finds_changed_metadata(pipeline):
    repomd = pipeline.channel / "snapshots" / head(pipeline).id / "repodata/repomd.xml"
    text = repomd.read_text()
    repomd.write_text(text.replace("<revision>", "<revision>1"))
    try:
        run = pipeline.run("status")
    finally:
        repomd.write_text(text)
    assert run.status != 0
    assert "the signature does not fit the file" in run.message


def test_refused_operations_leave_no_uploads_and_no_gpg_agent(pipeline):
    state = pipeline.root / "srv/rpm/.publisher/stable"
    assert list((state / "incoming").iterdir()) == []
    assert subprocess.run(["pgrep", "-f", f"gpg-agent.*{pipeline.root}"], check=False).returncode == 1
