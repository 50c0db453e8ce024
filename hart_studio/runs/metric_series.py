"""Metrics by step in bounded memory: rows of long runs are downsampled.

A table holds at most ``MAX_ROWS`` rows whatever the length of the run, so the cost of a chart does not grow with
it. Each row keeps the mean, minimum and maximum of its entries; short runs keep every entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final, Literal

MAX_ROWS: Final = 1024
"""Maximum number of rows of a table: the pixels of a wide chart."""

RECENT_STEPS: Final = 10
"""Number of entries in the mean that is the current value of a metric; a single step is noisy. Project default."""


@dataclass
class _Aggregate:
    """Entries of one metric in a row."""

    total: float
    count: int
    minimum: float
    maximum: float

    @property
    def mean(self) -> float:
        return self.total / self.count

    def merge(self, other: _Aggregate) -> None:
        """Merge the entries of another row."""
        self.total += other.total
        self.count += other.count
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)


@dataclass
class _Bucket:
    """Adjacent entries."""

    first_step: int
    last_step: int
    entries: int
    aggregates: dict[str, _Aggregate] = field(default_factory=dict)

    def merge(self, other: _Bucket) -> None:
        """Merge the entries of the next row."""
        self.last_step = other.last_step
        self.entries += other.entries
        for name, aggregate in other.aggregates.items():
            if name in self.aggregates:
                self.aggregates[name].merge(aggregate)
            else:
                self.aggregates[name] = aggregate


class MetricSeries:
    """Rows of metrics, in the order in which they were added.

    Attributes:
        width: Entries per full row; 1 until the table is first downsampled.
        revision: Changes whenever rows that may have been read have changed.
    """

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        """Start empty.

        Args:
            max_rows: Even, at least 2.
        """
        if max_rows < 2 or max_rows % 2:
            raise ValueError(f"expected an even number of rows, at least 2, got {max_rows}")
        self.width = 1
        self.revision = 0
        self._max_rows = max_rows
        self._rows: list[_Bucket] = []
        self._newest: dict[str, deque[tuple[int, float]]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Append an entry; a metric without a value is omitted from its row."""
        aggregates = {name: _Aggregate(value, 1, value, value) for name, value in metrics.items() if value is not None}
        for name, aggregate in aggregates.items():
            self._newest.setdefault(name, deque(maxlen=RECENT_STEPS)).append((step, aggregate.total))
        row = _Bucket(step, step, 1, aggregates)
        if self._rows and self._rows[-1].entries < self.width:
            self._rows[-1].merge(row)
        else:
            if len(self._rows) == self._max_rows:
                self._downsample()
            self._rows.append(row)

    def truncate(self, step: int) -> None:
        """Remove entries after a step, which a later attempt repeats. A row that spans the step is removed."""
        kept = [row for row in self._rows if row.last_step <= step]
        if len(kept) < len(self._rows):
            self._rows = kept
            self.revision += 1
        if self.width == 1:  # every row is one entry, so earlier rows can be restored
            self._newest = {}
            for row in self._rows:
                for name, aggregate in row.aggregates.items():
                    self._newest.setdefault(name, deque(maxlen=RECENT_STEPS)).append((row.last_step, aggregate.total))
        else:
            for name, entries in self._newest.items():
                self._newest[name] = deque((entry for entry in entries if entry[0] <= step), maxlen=RECENT_STEPS)

    def columns(self, first_row: int = 0) -> dict[str, Any]:
        """Return the rows as JSON columns.

        Args:
            first_row: First row to return.

        Returns:
            ``first_row``; ``steps``, the last step of each row; ``metrics``, name -> ``mean`` and, if rows contain
            several entries, ``low`` and ``high``: one number or None for each row.
        """
        rows = self._rows[first_row:]
        names = dict.fromkeys(name for row in rows for name in row.aggregates)
        metrics: dict[str, dict[str, list[float | None]]] = {}
        for name in names:
            aggregates = [row.aggregates.get(name) for row in rows]
            metrics[name] = {"mean": _values(aggregates, "mean")}
            if self.width > 1:
                metrics[name]["low"] = _values(aggregates, "minimum")
                metrics[name]["high"] = _values(aggregates, "maximum")
        return {"first_row": first_row, "steps": [row.last_step for row in rows], "metrics": metrics}

    def means(self, name: str) -> list[float | None]:
        """Return one metric, row by row; empty if no row has it."""
        aggregates = [row.aggregates.get(name) for row in self._rows]
        return _values(aggregates, "mean") if any(aggregates) else []

    def recent(self) -> dict[str, tuple[float, int]]:
        """Current value of each metric: (mean, count) of its last ``RECENT_STEPS`` entries.

        The count is smaller while there are fewer entries, and for a while after a run of more than ``MAX_ROWS`` steps
        is resumed from a checkpoint.
        """
        return {
            name: (_round(fmean(value for _, value in entries)), len(entries))
            for name, entries in self._newest.items()
            if entries
        }

    def latest(self) -> dict[str, float]:
        """Mean of each metric in the last row."""
        return {name: each.mean for row in self._rows[-1:] for name, each in row.aggregates.items()}

    def first(self) -> dict[str, float]:
        """Mean of each metric in the first row."""
        return {name: each.mean for row in self._rows[:1] for name, each in row.aggregates.items()}

    def _downsample(self) -> None:
        """Merge each row with the next one."""
        for left, right in zip(self._rows[::2], self._rows[1::2], strict=True):
            left.merge(right)
        del self._rows[1::2]
        self.width *= 2
        self.revision += 1


def _values(aggregates: Iterable[_Aggregate | None], part: Literal["mean", "minimum", "maximum"]) -> list[float | None]:
    return [None if each is None else _round(getattr(each, part)) for each in aggregates]


def _round(value: float) -> float:
    """Round to six digits: enough for charts, and half the bytes."""
    return float(f"{value:.6g}")
