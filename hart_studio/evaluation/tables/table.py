"""A table before it is written: texts and numbers, never markup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from hart_studio.evaluation.statistics import Estimate

RowKind = Literal["measured", "published"]
"""Whether the figures of a row were measured here, or are the paper's."""


class Number(NamedTuple):
    """A figure in the unit that its column names."""

    value: float
    """The figure; finite."""
    digits: int = 1
    """Decimals that are shown."""
    error: float | None = None
    """Its standard error, where it has one."""
    interval: tuple[float, float] | None = None
    """Lower and upper end of its bootstrap interval, where it has one."""
    is_signed: bool = False
    """Whether a plus is shown: a difference."""

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
    """One line of a table."""

    kind: RowKind
    """Where its figures are from."""
    cells: tuple[Cell, ...]
    """One per column; the first names the row."""


@dataclass(frozen=True)
class Table:
    """A table, ready for any writer.

    Attributes:
        name: Stem of its files, as ``table_1``.
        title: Above it.
        caption: What its figures are, in sentences.
        columns: Heads, with units.
        rows: In the order in which they are shown.
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
        """Whether any row was measured here; without one there is nothing to show."""
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
    """Information with its interval."""
    return None if found is None else Number(found.value, 3, None, (found.low, found.high), is_signed)
