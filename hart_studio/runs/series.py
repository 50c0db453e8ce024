"""Figures by step in bounded room: when a run grows long, neighbouring rows are put together.

A table holds at most ``MOST_ROWS`` rows whatever the length of the run, so what it costs to show one does not grow with
it. Every row keeps mean, least and greatest value of the entries behind it; short runs keep each entry as it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

MOST_ROWS: Final = 1024
"""Rows of a table; as many as a wide chart has pixels to show."""

RECENT_STEPS: Final = 10
"""Entries that the current value of a figure is the mean of (project default): one step of a few questions is noise."""


@dataclass
class _Cell:
    """Entries of one figure in a row."""

    total: float
    count: int
    least: float
    greatest: float

    def join(self, other: _Cell) -> None:
        """Take over the entries of another row."""
        self.total += other.total
        self.count += other.count
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)


@dataclass
class _Row:
    """Neighbouring entries."""

    first_step: int
    last_step: int
    entries: int
    cells: dict[str, _Cell] = field(default_factory=dict)

    def join(self, other: _Row) -> None:
        """Take over the entries of the row after this one."""
        self.last_step = other.last_step
        self.entries += other.entries
        for name, cell in other.cells.items():
            if name in self.cells:
                self.cells[name].join(cell)
            else:
                self.cells[name] = cell


class SeriesTable:
    """Rows of figures, in the order in which they were added.

    Attributes:
        width: Entries that a full row stands for; 1 until the table was first put together.
        edition: Another number whenever rows that somebody may have read already have changed.
        version: Another number whenever anything has.
    """

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        """Start empty.

        Args:
            most_rows: Even, at least 2.
        """
        if most_rows < 2 or most_rows % 2:
            raise ValueError(f"expected an even number of rows, at least 2, got {most_rows}")
        self.width = 1
        self.edition = 0
        self.version = 0
        self._most_rows = most_rows
        self._rows: list[_Row] = []
        self._newest: dict[str, deque[tuple[int, float]]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Append an entry; a figure without a value is left out of its row."""
        cells = {name: _Cell(value, 1, value, value) for name, value in figures.items() if value is not None}
        for name, cell in cells.items():
            self._newest.setdefault(name, deque(maxlen=RECENT_STEPS)).append((step, cell.total))
        row = _Row(step, step, 1, cells)
        if self._rows and self._rows[-1].entries < self.width:
            self._rows[-1].join(row)
        else:
            if len(self._rows) == self._most_rows:
                self._put_together()
            self._rows.append(row)
        self.version += 1

    def cut(self, step: int) -> None:
        """Forget what came after a step, which a later attempt does again. A row that straddles it goes as a whole."""
        kept = [row for row in self._rows if row.last_step <= step]
        if len(kept) < len(self._rows):
            self._rows = kept
            self.edition += 1
            self.version += 1
        self._newest = {name: _cut_newest(entries, step) for name, entries in self._newest.items()}
        if self.width == 1:  # every row is one entry, so what was dropped earlier can be put back
            self._newest = {}
            for row in self._rows:
                for name, cell in row.cells.items():
                    self._newest.setdefault(name, deque(maxlen=RECENT_STEPS)).append((row.last_step, cell.total))

    def columns(self, first_row: int = 0) -> dict[str, Any]:
        """Rows as columns of JSON.

        Args:
            first_row: Where to begin.

        Returns:
            ``first_row``; ``steps``, the last step of each row; ``figures``, name -> ``mean`` and, once rows stand for
            several entries, ``low`` and ``high``: one number or None for each row.
        """
        rows = self._rows[first_row:]
        names = dict.fromkeys(name for row in rows for name in row.cells)
        figures: dict[str, dict[str, list[float | None]]] = {}
        for name in names:
            cells = [row.cells.get(name) for row in rows]
            figures[name] = {"mean": [None if cell is None else _short(cell.total / cell.count) for cell in cells]}
            if self.width > 1:
                figures[name]["low"] = [None if cell is None else _short(cell.least) for cell in cells]
                figures[name]["high"] = [None if cell is None else _short(cell.greatest) for cell in cells]
        return {"first_row": first_row, "steps": [row.last_step for row in rows], "figures": figures}

    def means(self, name: str) -> list[float | None]:
        """One figure, row by row; empty when no row has it."""
        cells = [row.cells.get(name) for row in self._rows]
        return [None if cell is None else _short(cell.total / cell.count) for cell in cells] if any(cells) else []

    def recent(self) -> dict[str, tuple[float, int]]:
        """Current value of each figure, the only definition of it: (mean, count) of its last ``RECENT_STEPS`` entries.

        The count is smaller while there are fewer entries, and for a while after a run of more than ``MOST_ROWS`` steps
        went back to a checkpoint.
        """
        return {
            name: (_short(fmean(value for _, value in entries)), len(entries))
            for name, entries in self._newest.items()
            if entries
        }

    def latest(self) -> dict[str, float]:
        """Mean of each figure in the last row."""
        return {name: cell.total / cell.count for name, cell in (self._rows[-1].cells if self._rows else {}).items()}

    def first(self) -> dict[str, float]:
        """Mean of each figure in the first row."""
        return {name: cell.total / cell.count for name, cell in (self._rows[0].cells if self._rows else {}).items()}

    def _put_together(self) -> None:
        """Join each row with its neighbour."""
        for left, right in zip(self._rows[::2], self._rows[1::2], strict=True):
            left.join(right)
        del self._rows[1::2]
        self.width *= 2
        self.edition += 1


def _cut_newest(entries: Iterable[tuple[int, float]], step: int) -> deque[tuple[int, float]]:
    return deque((entry for entry in entries if entry[0] <= step), maxlen=RECENT_STEPS)


def _short(value: float) -> float:
    """Six digits: more than any chart shows, and half the bytes."""
    return float(f"{value:.6g}")
