"""Shows a run's steps as they end, its failures once, and ends it in order when it is interrupted."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pipeline_summary
type: aggregate
short_description: A table of the pipeline's steps, and the cause of a failure
description:
  - Prints what each pipeline module returns as C(step), with the time it took, as a row of one table. With
    P(pipeline_screen#callback) and without C(-v) the rows appear as the steps end, and the whole table again at the end
    if it is longer than a screen. Otherwise it appears at the end.
  - Prints a module's C(table), such as the doctor's findings, above its row, and at the end each C(report), the
    C(log) of a failure, the warnings of the steps, and the lines C(next) of the last module that returned any.
  - A failure is one row C(FAILED) with its cause, and one message at the end. Rescued and ignored failures are none.
  - Keeps the summary of a run that changed something or failed as text and JSON in C(signer_root)/log.
  - Ends an interrupted run within seconds, with all processes that it started, and prints what stands.
  - On a terminal the last line shows the running task, or the progress of a build.
author: mistralrs-rpm
"""

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.plugins.callback import CallbackBase
from ansible.template import Templar, trust_as_template

# Ansible puts module_utils on the path of modules only.
sys.path.append(str(Path(__file__).resolve().parents[2] / "module_utils"))

from pipeline.tell import failure, rows, screen
from pipeline.tell.interruption import Ending, last_words, publishes
from pipeline.tell.status_line import StatusLine
from pipeline.tell.summary import Summary, keep

SCREEN = "pipeline_screen"


class CallbackModule(CallbackBase):
    """Collects steps and failures as they come."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "pipeline_summary"
    # Without it no failure is shown, and an interruption hangs: a caller's list of callbacks must not leave it out.
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        self.began, self.begun = time.monotonic(), time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.playbook, self.play = "", None
        # The start of a host's task, or the end of its latest item: hosts may be at different tasks.
        self.marks: dict[str, float] = {}
        self.running: dict[str, Any] = {}
        self.elsewhere: set[str] = set()
        self.connection = ""
        self.rows: list[rows.Row] = []
        self.failures: list[failure.Failure] = []
        self.items: dict[tuple[str, str], list[failure.Failure]] = {}
        self.places: dict[str, str] = {}
        self.next: list[str] = []
        self.warnings: dict[str, None] = {}
        self.words: list[str] = []
        self.header_at: int | None = None
        self.live = constants.DEFAULT_STDOUT_CALLBACK == SCREEN and self._display.verbosity == 0
        self.line = StatusLine(sys.stdout, redraws=False)

    # -- what happens

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self.playbook = Path(playbook._file_name).stem  # noqa: SLF001  there is no public name
        if self.line.installed:
            return
        kind = os.environ.get("TERM", "")
        redraws = self.live and screen.can_redraw(terminal=sys.stdout.isatty(), kind=kind)
        self.line = StatusLine(sys.stdout, redraws=redraws)
        self.line.install(self._display)
        Ending(self._interrupted, self._abandon).install()

    def set_play_context(self, play_context: Any) -> None:
        self.connection = play_context.connection

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self.play = play

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self.line.show(f"... {task.get_name()}", self._display.columns)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.v2_playbook_on_task_start(task, is_conditional=False)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self.marks[host.get_name()] = time.monotonic()
        self.running[host.get_name()] = task
        if host.get_vars().get("ansible_connection", self.connection) != "local":
            self.elsewhere.add(host.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:
        self._collect(result)
        self.running.pop(result.host.get_name(), None)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self.running.pop(result.host.get_name(), None)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._collect(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self.items.setdefault(_key(result), []).append(self._failure(result))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self.running.pop(result.host.get_name(), None)
        items = self.items.pop(_key(result), [])
        if ignore_errors:
            return
        found = items or [self._failure(result)]
        for one in found:
            if one.log:
                self.places[one.log] = "log"
        if _rescued(result.task):
            if self.live:
                self._show(f"{found[0].host}: {found[0].row}; the run goes on", constants.COLOR_WARN)
            return
        self._failed(found, rows.FAILED)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self.running.pop(result.host.get_name(), None)
        self.items.pop(_key(result), None)
        if not result.task.ignore_unreachable:
            self._failed([self._failure(result, lost=True)], rows.LOST)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        end = "failed" if self.failures else "ok"
        self._close(end, hosts)
        self.line.close()

    # -- what it makes of it

    def _collect(self, result: Any) -> None:
        returned = result.result
        self.next = rows.texts(returned, "next") or self.next
        row = rows.row_of(returned, self._seconds(result.host.get_name()))
        if row is None:
            return
        if lines := rows.texts(returned, "table"):
            self._show("\n".join([*lines, "", ""]))
        self._row(row)
        if report := rows.text(returned, "report"):
            self.places[report] = f"{row.title} report"
        self.warnings |= dict.fromkeys(rows.texts(returned, "warnings"))

    def _failure(self, result: Any, *, lost: bool = False) -> failure.Failure:
        return failure.failure_of(
            result.result, _causes(result.exception), host=result.host.get_name(), task=result.task.get_name(),
            action=result.task.action, path=result.task.get_path() or "", lost=lost,
        )  # fmt: skip

    def _failed(self, found: list[failure.Failure], name: str) -> None:
        self.failures += found
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        self._row(rows.Row(name, "", self._seconds(found[0].host), found[0].row + more), constants.COLOR_ERROR)

    def _seconds(self, host: str) -> float:
        now = time.monotonic()
        seconds = now - self.marks.get(host, now)
        self.marks[host] = now
        return seconds

    def _row(self, row: rows.Row, color: str | None = None) -> None:
        self.rows.append(row)
        if not self.live:
            return
        if self.header_at is None:
            self.header_at = self.line.printed
            self._show(rows.line(rows.HEADER))
        self._show(rows.line(row.cells), color)

    def _show(self, text: str, color: str | None = None) -> None:
        self._display.display(text, color=color)

    def _close(self, end: str, hosts: dict[str, dict[str, int]]) -> None:
        """The closing lines of a run that is over."""
        printed = self.line.printed - (self.header_at or 0)
        repeated = rows.worth_printing(printed, len(self.rows), live=self.live)
        if repeated:
            self._show("\n".join(["", *rows.table(self.rows)]))
        seconds = time.monotonic() - self.began
        lines = [*self._places(), *(f"  warning: {text}" for text in self.warnings if repeated), *self.next]
        lost = sorted({one.host for one in self.failures if one.lost})
        lines += [f"Lost on the way: {', '.join(lost)}"] if lost else []
        lines += failure.messages(self.failures)
        for text in lines:
            self._show(text)
        kept = self._keep(self._summary(end, hosts, lines))
        if self.rows:
            self._show(f"In all {seconds:.1f} s{f'. Summary: {kept}' if kept else ''}")

    def _places(self) -> list[str]:
        """Reports and logs; and the last result of a run that ends with a path instead of lines of its own."""
        lines = [f"  {name}: {place}" for place, name in self.places.items()]
        placed = [row for row in self.rows if row.where]
        if placed and not self.next and not self.failures:
            lines.append(f"  {placed[-1].title}: {placed[-1].where}")
        return lines

    def _keep(self, summary: Summary) -> Path | None:
        """Keep the summary below the signer's folder, if this run has a signer."""
        if context.CLIARGS.get("check") or not self.rows or not summary.worth_keeping or self.play is None:
            return None
        with suppress(Exception):  # a full disk or a folder of another account never fails a run that is over
            manager = self.play.get_variable_manager()
            signer = manager._inventory.groups["signer"].get_hosts()[0]  # noqa: SLF001  there is no public name
            variables = manager.get_vars(host=signer)
            templar = Templar(loader=self.play.get_loader(), variables=variables)
            return keep(summary, Path(str(templar.template(trust_as_template("{{ signer_root }}"))), "log"))
        return None

    def _interrupted(self) -> list[str]:
        """The last words of an interrupted run."""
        tasks = {host: task.get_name() for host, task in self.running.items()}
        publishing = any(publishes(task.action, task.args.get("state")) for task in self.running.values())
        elsewhere = [host for host in self.running if host in self.elsewhere]
        words = last_words(
            self.rows, tasks, seconds=time.monotonic() - self.began, publishing=publishing, elsewhere=elsewhere
        )
        self.line.close()
        self.words = [*words, *failure.messages(self.failures)]
        return self.words

    def _abandon(self) -> None:
        """What Ansible would have done at its end."""
        self._keep(self._summary("interrupted", {}, self.words))
        shutil.rmtree(constants.DEFAULT_LOCAL_TMP, ignore_errors=True)

    def _summary(self, end: str, hosts: dict[str, dict[str, int]], lines: list[str]) -> Summary:
        return Summary(
            self.playbook, self.begun, round(time.monotonic() - self.began, 1), end, self.rows, self.failures,
            list(self.warnings), hosts, [*rows.table(self.rows), *lines],
        )  # fmt: skip


def _key(result: Any) -> tuple[str, str]:
    return result.host.get_name(), result.task._uuid  # noqa: SLF001  there is no public name


def _causes(summary: Any) -> list[failure.Cause]:
    """Ansible's chain of causes, outermost first."""
    causes, event = [], summary.event if summary else None
    while event is not None:
        place = (event.formatted_source_context or "").partition("\n")[0].removeprefix("Origin: ")
        causes.append(failure.Cause(event.msg, place))
        event = event.chain.event if event.chain else None
    return causes


def _rescued(task: Any) -> bool:
    """Whether the task is in a block with a rescue section, itself or by an include, and not in that section.

    Imported tasks are members of the block themselves, included ones by their include.
    """
    node, inside = task, {task._uuid}  # noqa: SLF001  there is no public name
    while (node := node._parent) is not None:  # noqa: SLF001
        if getattr(node, "rescue", None):
            later = {child._uuid for child in [*node.rescue, *node.always]}  # noqa: SLF001
            if not later & inside:
                return True
        inside.add(node._uuid)  # noqa: SLF001
    return False
