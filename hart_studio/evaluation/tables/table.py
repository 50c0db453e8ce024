"""Table model: texts and numbers without markup, and the cells that the tables share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from hart_studio.evaluation.accuracy import Accuracy
from hart_studio.evaluation.records import Evaluation
from hart_studio.evaluation.statistics import Estimate
from hart_studio.records import PROTOCOLS, Protocol

FRONT: Final = ("model", "benchmark", "protocol", "date", "n")
"""First columns; ``n`` is the number of questions of the row's metrics."""

FRONT_OF_ONE: Final = ("model", "protocol", "date", "n")
"""First columns of a table of one benchmark."""

BACK: Final = ("questions", "unscored", "fallbacks")
"""Last columns of tables of answers."""

SCORED: Final = (
    "Accuracy on the n scored questions by the strict extractor, ± standard error. Unscored questions are listed "
    "separately and excluded from accuracy; fallbacks are answers from the full image because no box was valid."
)
"""Beginning of the captions of tables of answers."""

NOT_PUBLISHED: Final = "No published figures in this table."
"""Caption sentence of tables with measured rows only."""

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


def share_of(found: Accuracy) -> Number | None:
    """Share of correct answers as percent, with its standard error."""
    return percent(found.share, found.stderr)


def measured_row(evaluation: Evaluation, how: str, count: int, *cells: Cell, has_benchmark: bool = True) -> TableRow:
    """Row of an evaluation: the cells of ``FRONT`` or ``FRONT_OF_ONE`` (``how``: protocol or turn), then others."""
    benchmark = (evaluation.benchmark,) if has_benchmark else ()
    return TableRow("measured", (evaluation.name, *benchmark, how, evaluation.date, count, *cells))


def answers_row(
    evaluation: Evaluation, protocol: Protocol, found: Accuracy, *cells: Cell, has_benchmark: bool = True
) -> TableRow:
    """Row of a table of answers, which ends with the cells of ``BACK``; arguments as for ``measured_row``."""
    back = (questions_cell(evaluation), found.unscored, found.fallbacks)
    return measured_row(evaluation, protocol, found.scored, *cells, *back, has_benchmark=has_benchmark)


def questions_cell(evaluation: Evaluation) -> Cell:
    """Number of measured questions; marked as partial if incomplete."""
    count = len(evaluation.records)
    return count if evaluation.is_complete else f"{count:,} of {evaluation.total:,}, partial"


def published_row(columns: Sequence[str], method: str, values: Mapping[str, float | int | str]) -> TableRow:
    """Row with published results: column -> value or text; other cells are empty."""
    cells: list[Cell] = [method]
    for column in columns[1:]:
        value = values.get(column)
        cells.append(Number(value) if isinstance(value, float) else value)
    return TableRow("published", tuple(cells))


def each_protocol(evaluations: Sequence[Evaluation]) -> Iterator[tuple[Evaluation, Protocol]]:
    """All evaluations under each of their protocols, in a fixed order."""
    for evaluation in evaluations:
        for protocol in PROTOCOLS:
            if protocol in evaluation.protocols:
                yield evaluation, protocol


def of_benchmark(evaluations: Sequence[Evaluation], *names: str) -> list[Evaluation]:
    """Evaluations of some benchmarks, in order."""
    return [evaluation for evaluation in evaluations if evaluation.benchmark in names]


def file_stem(text: str) -> str:
    """File name from a text: names of benchmarks and runs are untrusted."""
    return re.sub("[^A-Za-z0-9_-]+", "_", text)[:120]
