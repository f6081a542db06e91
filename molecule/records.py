"""What the actions of a scenario changed, as plugins/callback/molecule_records.py wrote it down.

For a scenario's tests, which find this module by their conftest.py:

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
        """The names of the tasks that changed something, for each host, in their order."""
        return json.loads((self.folder / f"{action}.json").read_text())["changed"]

    def assert_predicted(self, *, beside: Collection[str] = ()) -> None:
        """Check mode, on bare hosts, named the tasks that then changed something, and no other.

        `beside` names tasks that cannot be predicted, each with its reason where it is given.
        """
        predicted, done = self.changed("check"), self.changed("converge")
        findings = []
        for host in sorted(predicted.keys() | done.keys()):
            said, did = (Counter(names.get(host, [])) for names in (predicted, done))
            for word, names in (("not predicted", did - said), ("predicted in vain", said - did)):
                findings += [f"{host}: {word}: {name}" for name in names if name not in beside]
        assert not findings, "\n".join(findings)

    def assert_second_run_changed_nothing(self) -> None:
        assert not any(self.changed("idempotence").values())
