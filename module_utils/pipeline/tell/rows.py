"""The rows of a run's table.

Rules:

1. A row is read from any module's result. A result of another shape is no row; it never raises, since an error in a
   callback becomes a warning on every operator's screen.
2. The table grows on the screen while the run goes on, so its columns have fixed widths. It is printed again at the
   end if it no longer fits on one screen, with columns as wide as their cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCREEN = 40
"""The lines after which the beginning of a table counts as scrolled away."""

FAILED, LOST = "FAILED", "LOST"
"""The names of the rows of a failed task and of a host that no longer answers."""

HEADER = ("step", "flavour", "time", "result")
WIDTHS = (9, 9, 7)


@dataclass(frozen=True)
class Row:
    """One step: its name and flavour, how long it took, its result in words, and the path or URL of the result."""

    name: str
    flavour: str
    seconds: float
    result: str
    where: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.name, self.flavour, f"{self.seconds:.1f} s", self.result

    @property
    def title(self) -> str:
        return f"{self.name} {self.flavour}".rstrip()


def row_of(returned: Mapping[str, Any], seconds: float) -> Row | None:
    """The row in a module's result, if it has one."""
    step = returned.get("step")
    if not isinstance(step, Mapping) or not text(step, "name"):
        return None
    return Row(text(step, "name"), text(step, "flavour"), seconds, text(step, "result"), text(step, "where"))


def text(returned: Mapping[str, Any], key: str) -> str:
    """A text in a module's result; "" for a missing one and for anything that is no text."""
    value = returned.get(key)
    return str(value) if isinstance(value, str) else ""


def texts(returned: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts in a module's result, without members that are none."""
    value = returned.get(key)
    return [str(line) for line in value if isinstance(line, str)] if isinstance(value, list | tuple) else []


def line(cells: Sequence[str], widths: Sequence[int] = WIDTHS) -> str:
    """A line of the table; a cell that is wider than its column moves the rest."""
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*padded, cells[-1]]).rstrip()


def table(rows: Iterable[Row]) -> list[str]:
    """The whole table."""
    cells = [HEADER, *(row.cells for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    return [line(row, widths) for row in cells]


def worth_printing(printed: int, rows: int, *, live: bool) -> bool:
    """Whether a table of ``rows`` is printed at the end.

    ``live``: its rows are on the screen already, with ``printed`` lines since its header.
    """
    return rows > 0 and (not live or printed > SCREEN)
