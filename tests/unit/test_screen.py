"""The screen of a run: rows from any result, causes of failures, what is shown, the summary that stays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pipeline.tell import rows, screen
from pipeline.tell.failure import HIDDEN, VARIABLE, Cause, Failure, explain, failure_of, messages, shortened
from pipeline.tell.interruption import descendants, last_words, publishes
from pipeline.tell.rows import Row
from pipeline.tell.status_line import StatusLine
from pipeline.tell.summary import KEPT, Summary, keep

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "returned",
    [{}, {"step": None}, {"step": []}, {"step": "build"}, {"step": {}}, {"step": {"name": {"a": 1}}}, {"step": 7}],
)
def test_a_foreign_result_is_no_row(returned):
    assert rows.row_of(returned, 1.0) is None


def test_a_row_takes_texts_alone():
    odd = {"name": "build", "flavour": None, "result": ["x"], "where": {"path": "/x"}}
    assert rows.row_of({"step": odd}, 1.0) == Row("build", "", 1.0, "")
    assert rows.texts({"table": ["a", {"b": 1}, 3, "c"], "warnings": "no list of texts"}, "table") == ["a", "c"]
    assert rows.texts({"warnings": {"a": 1}}, "warnings") == []
    assert rows.texts({"warnings": "one text"}, "warnings") == []


def test_a_table_is_printed_again_only_if_it_scrolled_away():
    assert not rows.worth_printing(rows.SCREEN, 18, live=True)
    assert rows.worth_printing(rows.SCREEN + 1, 18, live=True)
    assert rows.worth_printing(0, 18, live=False)
    assert not any(rows.worth_printing(1000, 0, live=live) for live in (True, False))


def failed(*causes: str, action: str = "rpm_package", lost: bool = False, **returned: object) -> Failure:
    chain = [Cause(message, f"{PROJECT}/playbooks/x.yml:{n}:3" if n < 3 else "") for n, message in enumerate(causes, 1)]
    return failure_of(
        {"msg": causes[-1] if causes else "", **returned}, chain, host="anvil", task="Package", action=action,
        path=f"{PROJECT}/playbooks/x.yml:1", lost=lost,
    )  # fmt: skip


REFUSED, ACTION = ("Task failed.", "Module failed."), ("Task failed.", "Action failed.")
OWN = "the port 1 is taken (127.0.0.1:1). Set local_port"
CASES = {
    "a refusal": (failed(*REFUSED, OWN), "Package: the port 1 is taken (127.0.0.1:1)", OWN),
    "a list": (
        failed(*REFUSED, "cannot build:\n    disk: 1 GiB. Free space\n(here). Run again"),
        "Package: cannot build: disk: 1 GiB",
        "cannot build:\n    disk: 1 GiB. Free space\n(here). Run again",
    ),
    "a crash": (
        failed(*REFUSED, "division by zero", msg="Task failed: Module failed: division by zero"),
        "Package: the module ended with an error of its own: division by zero",
        "the module ended with an error of its own: division by zero. -vvv shows its traceback",
    ),
    "a template": (
        failed(
            "Task failed.", "Finalization of task args for 'ansible.builtin.debug' failed.",
            "Error while resolving value for 'msg'.", "'nope' is undefined",
            msg="Task failed: Finalization of task args failed: Error …: 'nope' is undefined",
        ),
        "Package: Error while resolving value for 'msg': 'nope' is undefined",
        f"Error while resolving value for 'msg': 'nope' is undefined. {VARIABLE}",
    ),
    "a command": (
        failed(*REFUSED, "The command exited with a non-zero return code.", rc=3, cmd=["nginx",
               "-t"], stdout="out", stderr="one\nnginx: bad line 3\n"),
        "Package: nginx -t ended with status 3: one | nginx: bad line 3",
        "nginx -t ended with status 3: one | nginx: bad line 3",
    ),
    "a missing command": (
        failed(*REFUSED, "Error executing command.", "[Errno 2] No such file: b'x'", rc=2, cmd="x", stdout="",
               msg="Error executing command.", stderr=""),
        "Package: Error executing command: [Errno 2] No such file: b'x'",
        "Error executing command: [Errno 2] No such file: b'x'",
    ),
    "an assertion": (
        failed(*ACTION, "Assertion failed", action="ansible.builtin.assert", assertion="1 > 2"),
        "this is not true: 1 > 2",
        "this is not true: 1 > 2",
    ),
    "wrong inputs of a role": (
        failed(
            "Validation of arguments failed:\nmissing: a",
            argument_errors=["missing: a", "b is 1"],
            validate_args_context={"name": "rpm_site", "type": "role"},
            action="ansible.builtin.validate_argument_spec",
        ),
        "wrong inputs of the role rpm_site: missing: a; b is 1",
        f"wrong inputs of the role rpm_site: missing: a; b is 1. {VARIABLE}",
    ),
    "the closing task": (
        failed(*ACTION, "Not published: ada (task Build): no nvcc", action="ansible.builtin.fail"),
        "Not published: ada (task Build): no nvcc",
        "Not published: ada (task Build): no nvcc",
    ),
    "a secret": (
        failed(*REFUSED, "hunter2", msg="", censored="hidden"),
        f"Package: {HIDDEN.partition('. ')[0]}",
        HIDDEN,
    ),
    "a host that is gone": (
        failed("Task failed.", msg="Task failed: Failed to connect to the host via ssh: no route", lost=True),
        "anvil: Package: connection lost: no route",
        "connection lost: no route. Try ssh by hand, then run the same command again",
    ),
    "no words": (failed(), "Package: it failed without a message; -vvv shows more",
                 "it failed without a message; -vvv shows more"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_failure_has_one_row_with_the_cause_and_one_message(case):
    failure, row, message = CASES[case]
    assert (failure.row, failure.message) == (row, message)


def test_the_message_names_the_innermost_place_and_all_hosts_once(monkeypatch):
    monkeypatch.chdir(PROJECT)
    one = failed(*REFUSED, "it is broken. Mend it", log="/srv/x.log")
    assert one.place.endswith("playbooks/x.yml:2")
    other = Failure("forge", one.task, one.place, one.message)
    third = Failure("oolon", "Sign", "", "no key")
    assert messages([one, other, third]) == [
        f"Failed on anvil, forge: Package ({one.place})",
        "  it is broken. Mend it",
        "  log: /srv/x.log",
        "Failed on oolon: Sign",
        "  no key",
    ]


def test_a_task_of_ansible_itself_has_no_place():
    assert shortened("<unknown>") == ""


def test_an_item_of_a_loop_is_named():
    failure = failed(*REFUSED, "no room. Free some", _ansible_item_label="ada")
    assert failure.row == "Package (ada): no room"


def test_a_secret_in_the_chain_is_not_shown():
    assert "hunter2" not in explain({"censored": "hidden"}, [Cause("hunter2")])


def test_every_playbook_shows_steps_or_changes():
    """The pipeline's own show steps, those that provision hosts show changes."""
    names = {path.stem for path in (PROJECT / "playbooks").glob("*.yml")}
    assert names >= screen.STEPS
    changing = {name for name in names if screen.shows_changes(f"/x/playbooks/{name}.yml:3")}
    provisioning = {"provision", "repo_host", "builders", "cache_host", "verifiers", "gpu_hosts"}
    assert changing == provisioning, "a new playbook: its results are steps (tell/screen.py), or its changes are shown"


def test_the_changed_items_of_a_loop():
    items = [{"changed": n != 1, "item": f"item {n}"} for n in range(3)]
    assert screen.changed_items({"results": items}) == " (item 0, item 2; 2 of 3)"
    assert screen.changed_items({}) == ""


def test_only_a_terminal_that_can_redraw_gets_escape_sequences():
    assert screen.can_redraw(terminal=True, kind="xterm")
    assert not screen.can_redraw(terminal=True, kind="dumb")
    assert not screen.can_redraw(terminal=True, kind="")
    assert not screen.can_redraw(terminal=False, kind="xterm")


class Shown:
    """An Ansible display that writes to a file."""

    columns = 40

    def __init__(self, target: Path | int) -> None:
        self.stream = open(target, "w", buffering=1)  # noqa: PTH123, SIM115  a path or a descriptor

    def display(self, msg: str) -> None:
        self.stream.write(f"{msg}\n")


@pytest.mark.parametrize("redraws", [True, False])
def test_progress_is_one_line_on_a_terminal_and_whole_lines_elsewhere(tmp_path, redraws):
    display = Shown(tmp_path / "out")
    line = StatusLine(display.stream, redraws=redraws)
    line.install(display)
    line.show("... Build", 40)
    display.display("[ada] 1/18 mistralrs-core, 0:03, about 0:09 left")
    display.display("build  ada  done")
    line.close()
    display.stream.close()
    written = (tmp_path / "out").read_bytes().decode()
    if redraws:
        assert written.replace(screen.ERASE, "|") == (
            "|... Build|[ada] 1/18 mistralrs-core, 0:03, abo...|build  ada  done\n"
            "[ada] 1/18 mistralrs-core, 0:03, abo...|"
        )
    else:
        assert written == "[ada] 1/18 mistralrs-core, 0:03, about 0:09 left\nbuild  ada  done\n"
        assert line.printed == 2


def test_a_run_goes_on_if_nobody_reads_it_any_more():
    """``make release | head``: the error would end the thread that takes the workers' results."""
    reading, writing = os.pipe()
    os.close(reading)
    display = Shown(writing)
    line = StatusLine(display.stream, redraws=False)
    line.install(display)
    for text in ("one", "two"):
        display.display(text)
    display.stream.close()


def test_all_processes_of_an_interrupted_run_are_found(tmp_path):
    """A worker, its module, the module's sandbox; a zombie and somebody else's process are none."""
    for pid, state, theirs in (
        (10, "S", "11 15"),
        (11, "S", "12"),
        (12, "S", "13"),
        (13, "S", ""),
        (15, "Z", ""),
        (20, "S", ""),
    ):
        (tmp_path / f"{pid}/task/{pid}").mkdir(parents=True)
        (tmp_path / f"{pid}/task/{pid}/children").write_text(theirs)
        (tmp_path / f"{pid}/stat").write_text(f"{pid} (a (name) x) {state} 1 2 3")
    assert descendants(10, tmp_path) == {11, 12, 13}


DENIAL = "No snapshot was published"
BUILT = [Row("resolve", "", 1, "v0.9.2"), Row("build", "ada", 9, "compiled"), Row("FAILED", "", 1, "x")]


def test_last_words_say_what_stands_and_what_to_do():
    words = last_words(BUILT, {"anvil": "Build"}, seconds=12.3, publishing=False, elsewhere=["anvil"])
    assert words == [
        "Interrupted after 12.3 s, in: Build (anvil)",
        "  done: resolve, build ada",
        f"  {DENIAL}: clients see the packages that they saw before",
        "  What runs on anvil ends by itself, a build within 60 s",
        "  Run the same command again: it continues where this run stopped",
    ]


def test_last_words_never_deny_a_publication():
    during = last_words(BUILT, {"localhost": "Publish"}, seconds=1, publishing=True, elsewhere=[])
    assert DENIAL not in "\n".join(during)
    assert "make status" in "\n".join(during)
    states = ("published", "removed", "rolled_back", "pruned", None)
    assert all(publishes("repository_snapshot", state) for state in states)
    assert not any(publishes("repository_snapshot", state) for state in ("staged", "dropped", "verified"))
    assert not publishes("ansible.builtin.copy", None)
    after = last_words(
        [*BUILT, Row("publish", "", 1, "stable 2026: 1 added")], {}, seconds=1, publishing=False, elsewhere=[]
    )
    assert "  published: stable 2026: 1 added" in after
    assert DENIAL not in "\n".join(after)


def test_summaries_are_kept_as_text_and_json_and_the_oldest_go(tmp_path):
    counts = {"localhost": {"ok": 3, "changed": 1}}
    for number in range(KEPT + 2):
        kept = keep(
            Summary("release", f"20261121T{number:06}Z", 2.5, "ok", BUILT, hosts=counts, lines=["a line"]), tmp_path
        )
    assert kept.name == f"run-20261121T{KEPT + 1:06}Z-release.txt"
    assert "a line" in kept.read_text()
    data = json.loads(kept.with_suffix(".json").read_text())
    assert [row["name"] for row in data["rows"]] == ["resolve", "build", "FAILED"]
    assert (data["playbook"], data["end"], data["seconds"]) == ("release", "ok", 2.5)
    assert len(list(tmp_path.iterdir())) == 2 * KEPT
    with pytest.raises(FileNotFoundError):
        keep(Summary("release", "20261121T000000Z", 2.5, "failed"), tmp_path / "no signer/log")
    assert not (tmp_path / "no signer").exists()


def test_a_run_that_changed_nothing_leaves_no_summary():
    unchanged = {"localhost": {"ok": 3, "changed": 0}}
    assert not Summary("release", "", 1, "ok", BUILT, hosts=unchanged).worth_keeping
    assert Summary("release", "", 1, "failed", BUILT, hosts=unchanged).worth_keeping
    assert Summary("release", "", 1, "ok", BUILT, hosts={"localhost": {"changed": 1}}).worth_keeping
