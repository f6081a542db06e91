"""The summary of a run, kept as text and JSON.

Rules: runs that changed nothing and failed nowhere leave no summary, so that a poll every few minutes does not push
the releases out; neither does check mode. The newest ``KEPT`` stay. The files are replaced whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .failure import Failure
from .rows import Row

KEPT = 100
"""The number of summaries that stay in a folder."""


@dataclass(frozen=True)
class Summary:
    """A run: its playbook, begin (20261121T113154Z), length in seconds, how it ended, and all that its steps returned.

    ``end`` is ok, failed or interrupted; ``lines`` is the text that the operator saw, without progress.
    """

    playbook: str
    begun: str
    seconds: float
    end: str
    rows: Sequence[Row] = ()
    failures: Sequence[Failure] = ()
    warnings: Sequence[str] = ()
    hosts: dict[str, dict[str, int]] = field(default_factory=dict)
    lines: Sequence[str] = ()

    @property
    def worth_keeping(self) -> bool:
        return self.end != "ok" or any(counts.get("changed") for counts in self.hosts.values())

    @property
    def text(self) -> str:
        places = [f"  {row.title}: {row.where}" for row in self.rows if row.where]
        return "\n".join([f"{self.playbook}, {self.begun}: {self.end}", "", *self.lines, *places, ""])

    @property
    def data(self) -> str:
        fields = {key: value for key, value in asdict(self).items() if key != "lines"}
        return json.dumps(fields, indent=1, sort_keys=True) + "\n"


def keep(summary: Summary, folder: Path) -> Path:
    """Write the summary below ``folder`` and delete the oldest; the text's path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"run-{summary.begun}-{summary.playbook}.txt"
    for path, content in ((target, summary.text), (target.with_suffix(".json"), summary.data)):
        partial = path.with_name(f".{path.name}.part")
        partial.write_text(content)
        partial.replace(path)
    for old in sorted(folder.glob("run-*.txt"))[:-KEPT]:
        old.unlink()
        old.with_suffix(".json").unlink(missing_ok=True)
    return target
