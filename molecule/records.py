"""The changes of a scenario's actions, as plugins/callback/molecule_records.py recorded them.

For the tests of a scenario:

    def test_check_mode_predicts_what_converge_changes(records):
        records.assert_predicted()
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Records:
    """The records of one scenario; `folder` holds a file for each action."""

    folder: Path

    def changed(self, action: str) -> dict[str, list[str]]:
        """The names of the tasks that changed something, in order, by host."""
        return json.loads((self.folder / f"{action}.json").read_text())["changed"]

    def assert_predicted(self, *, beside: Collection[str] = ()) -> None:
        """Check mode on bare hosts reported exactly the tasks that then changed something.

        `beside` names tasks that check mode cannot predict; the caller says why.
        """
        predicted, done = self.changed("check"), self.changed("converge")
        findings = []
        for host in sorted(predicted.keys() | done.keys()):
            before, after = (Counter(names.get(host, [])) for names in (predicted, done))
            for word, names in (("not predicted", after - before), ("predicted, but unchanged", before - after)):
                findings += [f"{host}: {word}: {name}" for name in names if name not in beside]
        assert not findings, "\n".join(findings)

    def assert_second_run_changed_nothing(self) -> None:
        assert not any(self.changed("idempotence").values())
