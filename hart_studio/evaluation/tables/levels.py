"""Tables 5 and 7: perception and reasoning on the paper's two benchmarks, one row per model and protocol."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from hart_studio.evaluation.accuracy import category_at, count_accuracy
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.published import TABLE_5, TABLE_7
from hart_studio.evaluation.tables.rows import (
    SCORED,
    each_protocol,
    name_of,
    of_benchmark,
    published_row,
    questions_cell,
)
from hart_studio.evaluation.tables.table import Cell, Table, TableRow, percent
from hart_studio.evaluation.tables.tasks import LEVELS
from hart_studio.records import Protocol

_BENCHMARKS: Final = ("mme_realworld_lite", "treebench")
_TITLES: Final = {5: "Table 5: base models and the method", 7: "Table 7: stages and k"}


def level_table(evaluations: Sequence[Evaluation], number: Literal[5, 7]) -> Table:
    """Perception and reasoning.

    Args:
        evaluations: Evaluations; those of the two benchmarks are shown, joined by model and protocol. If a model has
            several on one benchmark, they cannot be matched: each has a row, with the end of its run id.
        number: Table of the paper; the published rows differ.
    """
    figures = [f"{benchmark}: {level.lower()}, %" for benchmark in _BENCHMARKS for level in LEVELS]
    counts = tuple(f"{benchmark}: n" for benchmark in _BENCHMARKS)
    states = tuple(f"{benchmark}: questions" for benchmark in _BENCHMARKS)
    columns = ("model", "protocol", "date", *figures, *counts, *states, "unscored")
    same: dict[tuple[str, Protocol], list[Evaluation]] = defaultdict(list)
    for evaluation, protocol in each_protocol(of_benchmark(evaluations, *_BENCHMARKS)):
        same[name_of(evaluation), protocol].append(evaluation)
    rows = [
        _measured_row(shown, protocol, found)
        for (name, protocol), several in same.items()
        for shown, found in _join(name, several)
    ]
    for row in TABLE_5 if number == 5 else TABLE_7:
        values = zip(figures, (*row.mme_realworld_lite, *row.treebench), strict=True)
        rows.append(published_row(columns, row.method, dict(values)))
    caption = (
        f"{SCORED} Rows are joined by model and protocol. Several runs of a model on the same benchmark are not "
        "joined: each has a row that ends with its run's id. Published rows are the paper's."
    )
    return Table(f"table_{number}", _TITLES[number], caption, columns, tuple(rows))


def _join(name: str, same: Sequence[Evaluation]) -> Iterator[tuple[str, dict[str, Evaluation]]]:
    """Name and evaluations of each row of a model, by benchmark."""
    found = {evaluation.benchmark: evaluation for evaluation in same}
    if len(found) == len(same):
        yield name, found
        return
    for evaluation in same:
        yield f"{name} {evaluation.run_id[-6:]}", {evaluation.benchmark: evaluation}


def _measured_row(name: str, protocol: Protocol, found: dict[str, Evaluation]) -> TableRow:
    dates = sorted({evaluation.date for evaluation in found.values()})
    cells: list[Cell] = [name, protocol, ", ".join(dates)]
    for benchmark in _BENCHMARKS:
        for level in LEVELS:
            records = found[benchmark].records if benchmark in found else ()
            part = count_accuracy((r for r in records if category_at(r, 1).lower() == level.lower()), protocol)
            cells.append(percent(part.share, part.stderr))
    whole = {benchmark: count_accuracy(evaluation.records, protocol) for benchmark, evaluation in found.items()}
    cells += [whole[benchmark].scored if benchmark in whole else None for benchmark in _BENCHMARKS]
    cells += [questions_cell(found[benchmark]) if benchmark in found else None for benchmark in _BENCHMARKS]
    return TableRow("measured", (*cells, sum(part.unscored for part in whole.values())))
