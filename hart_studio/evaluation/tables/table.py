"""Table model: texts and numbers without markup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from hart_studio.evaluation.statistics import Estimate

RowKind = Literal["measured", "published"]
"""Whether the values of a row were measured here or published in the paper."""


class Number(NamedTuple):
    """A value in the unit of its column."""

    value: float
    """Finite value."""
    digits: int = 1
    """Number of decimals."""
    error: float | None = None
    """Standard error, if any."""
    interval: tuple[float, float] | None = None
    """Lower and upper end of the bootstrap interval, if any."""
    is_signed: bool = False
    """Whether to show a plus sign: a difference."""

    def __str__(self) -> str:
        shown = f"{self.value:{'+' if self.is_signed else ''}.{self.digits}f}"
        if self.error is not None:
            shown += f" ± {self.error:.{self.digits}f}"
        if self.interval is not None:
            shown += " [" + ", ".join(f"{end:.{self.digits}f}" for end in self.interval) + "]"
        return shown


Cell = str | int | Number | None
"""A text, a count, an estimate, or None for an empty cell."""


class TableRow(NamedTuple):
    """A row of a table."""

    kind: RowKind
    """Source of its values."""
    cells: tuple[Cell, ...]
    """One cell per column; the first names the row."""


@dataclass(frozen=True)
class Table:
    """A table for any writer.

    Attributes:
        name: File name without suffix, such as ``table_1``.
        title: Title above the table.
        caption: Caption sentences.
        columns: Column heads with units.
        rows: Rows in display order.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"expected {len(self.columns)} cells in every row of {self.name}, got {len(row.cells)}"
                )

    @property
    def is_measured(self) -> bool:
        """Whether any row was measured here; otherwise the table is not shown."""
        return any(row.kind == "measured" for row in self.rows)


def percent(share: float | None, error: float | None = None) -> Number | None:
    """A share in [0, 1] as percent; None stays None."""
    return None if share is None else Number(100 * share, 1, None if error is None else 100 * error)


def percent_between(found: Estimate | None, is_signed: bool = False) -> Number | None:
    """A share with its interval as percent; a difference of shares as points."""
    if found is None:
        return None
    return Number(100 * found.value, 1, None, (100 * found.low, 100 * found.high), is_signed)


def bits(found: Estimate | None, is_signed: bool = False) -> Number | None:
    """Information in bits with its interval."""
    return None if found is None else Number(found.value, 3, None, (found.low, found.high), is_signed)
