"""Common cells of the tables: model, protocol, date and number of questions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Final

from hart_studio.evaluation.accuracy import Accuracy
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.tables.table import Cell, Number, TableRow
from hart_studio.records import PROTOCOLS, Protocol

FRONT: Final = ("model", "protocol", "date", "n")
"""First columns; ``n`` is the number of questions of the row's metrics."""

BACK: Final = ("questions", "unscored", "fallbacks")
"""Last columns of tables of answers."""

SCORED: Final = (
    "Accuracy on the n scored questions by the strict extractor, ± standard error. Unscored questions are listed "
    "separately and excluded from accuracy; fallbacks are answers from the full image because no box was valid."
)
"""Beginning of the captions of tables of answers."""

NOT_PUBLISHED: Final = "No published figures in this table."
"""Caption sentence of tables with measured rows only."""


def name_of(evaluation: Evaluation) -> str:
    """Row name: the title, with the model unless the title contains it. Paths are shortened to their end."""
    model = evaluation.model.rstrip("/\\")
    shown = PurePath(model).name if PurePath(model).is_absolute() or "\\" in model else model
    short = shown.rpartition("/")[2]
    if short in evaluation.title or (evaluation.title and evaluation.title in short):
        return evaluation.title or shown
    return f"{evaluation.title} ({shown})"


def label_of(evaluation: Evaluation, among: Sequence[Evaluation]) -> str:
    """Short title; with the end of the run id if another evaluation has the same title.

    Args:
        evaluation: The evaluation.
        among: Evaluations shown together.
    """
    is_alone = sum(other.title == evaluation.title for other in among) < 2
    return evaluation.title if is_alone else f"{evaluation.title} {evaluation.run_id[-6:]}"


def front_cells(evaluation: Evaluation, how: str, count: int) -> tuple[Cell, ...]:
    """Cells of ``FRONT``.

    Args:
        evaluation: The evaluation.
        how: Protocol, or measured turn.
        count: Number of questions of the row's metrics.
    """
    return name_of(evaluation), how, evaluation.date, count


def back_cells(evaluation: Evaluation, found: Accuracy) -> tuple[Cell, ...]:
    """Cells of ``BACK``."""
    return questions_cell(evaluation), found.unscored, found.fallbacks


def questions_cell(evaluation: Evaluation) -> Cell:
    """Number of measured questions; marked as partial if incomplete."""
    count = len(evaluation.records)
    return count if evaluation.is_complete else f"{count:,} of {evaluation.total:,}, partial"


def published_row(columns: Sequence[str], method: str, values: Mapping[str, float | int | str]) -> TableRow:
    """Row with published results.

    Args:
        columns: Column heads.
        method: Name in the paper.
        values: Column -> value or text; other cells are empty.
    """
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


def unique(names: Sequence[str]) -> list[str]:
    """Distinct names in order of first appearance."""
    return list(dict.fromkeys(names))
