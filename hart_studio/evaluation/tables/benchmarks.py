"""Table 4: V*, HR-Bench and MMStar with their official averages; and any benchmark by category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hart_studio.evaluation.accuracy import (
    Extractor,
    category_at,
    clustered_stderr,
    count_accuracy,
    cycle_mean,
    macro_mean,
    overall,
    split_records,
)
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.published import TABLE_4
from hart_studio.evaluation.tables.rows import (
    BACK,
    FRONT,
    NOT_PUBLISHED,
    SCORED,
    back_cells,
    each_protocol,
    file_stem,
    front_cells,
    of_benchmark,
    published_row,
    unique,
)
from hart_studio.evaluation.tables.table import Cell, Number, Table, TableRow, percent
from hart_studio.records import Protocol

HR_BENCH: Final = ("hr_bench_4k", "hr_bench_8k")
"""Both resolutions of HR-Bench."""

BENCHMARKS: Final = ("vstar", *HR_BENCH, "mmstar")
"""Benchmarks of Table 4."""

REPEATED: Final = "Standard errors for HR-Bench are clustered by question."
"""Caption sentence of tables with ``accuracy_cell``."""

_HR_KINDS: Final = ("single", "cross")


def accuracy_cell(evaluation: Evaluation, protocol: Protocol, extractor: Extractor = "strict") -> Number | None:
    """Share of right answers with its standard error, over questions where they are repeated.

    Args:
        evaluation: The evaluation.
        protocol: Protocol of the answers.
        extractor: Extractor of the answers.
    """
    found = count_accuracy(evaluation.records, protocol, extractor)
    if evaluation.benchmark in HR_BENCH:
        return percent(found.share, clustered_stderr(evaluation.records, protocol, extractor))
    return percent(found.share, found.stderr)


def table_4(evaluations: Sequence[Evaluation]) -> Table:
    """One metric per benchmark: the share; for HR-Bench the mean over cycles, for MMStar both means.

    Args:
        evaluations: Evaluations; those of the four benchmarks are shown.
    """
    columns = ("model", "benchmark", *FRONT[1:], "accuracy, %", "macro over l2, %", *BACK)
    rows = []
    for evaluation, protocol in each_protocol(of_benchmark(evaluations, *BENCHMARKS)):
        found = count_accuracy(evaluation.records, protocol)
        shown = percent(found.share, found.stderr)
        if evaluation.benchmark in HR_BENCH:
            shown = percent(cycle_mean(evaluation.records, protocol), clustered_stderr(evaluation.records, protocol))
        macro = percent(_macro_l2(evaluation, protocol)) if evaluation.benchmark == "mmstar" else None
        front = front_cells(evaluation, protocol, found.scored)
        cells: tuple[Cell, ...] = (
            front[0],
            evaluation.benchmark,
            *front[1:],
            shown,
            macro,
            *back_cells(evaluation, found),
        )
        rows.append(TableRow("measured", cells))
    rows += [
        published_row(columns, method, {"benchmark": benchmark, "accuracy, %": figures[benchmark]})
        for benchmark in BENCHMARKS
        for method, figures in TABLE_4.items()
    ]
    caption = (
        f"{SCORED} HR-Bench: mean over the four option cycles, standard error clustered by question. "
        "MMStar: over all questions, and the mean over its l2 categories; the paper does not say which is its own."
    )
    return Table("table_4", "Table 4: V*, HR-Bench and MMStar", caption, columns, tuple(rows))


def table_hr_bench(evaluations: Sequence[Evaluation], benchmark: str) -> Table:
    """HR-Bench by kind of question and by cycle.

    Args:
        evaluations: Evaluations; those of the benchmark are shown.
        benchmark: One of ``HR_BENCH``.
    """
    found = of_benchmark(evaluations, benchmark)
    cycles = sorted({_cycle(record.category) for evaluation in found for record in evaluation.records})
    columns = (*FRONT, *(f"{kind}, %" for kind in _HR_KINDS), "average, %", "over all answers, %", *cycles, *BACK)
    rows = []
    for evaluation, protocol in each_protocol(found):
        kinds = split_records(evaluation.records, lambda record: category_at(record, 1))
        by_cycle = split_records(evaluation.records, lambda record: _cycle(record.category))
        whole = count_accuracy(evaluation.records, protocol)
        cells: list[Cell] = [*front_cells(evaluation, protocol, whole.scored)]
        for part in (*(kinds.get(kind, []) for kind in _HR_KINDS), evaluation.records):
            cells.append(percent(cycle_mean(part, protocol), clustered_stderr(part, protocol)))
        cells.append(percent(whole.share))
        cells += [percent(count_accuracy(by_cycle.get(cycle, ()), protocol).share) for cycle in cycles]
        rows.append(TableRow("measured", (*cells, *back_cells(evaluation, whole))))
    caption = (
        "Columns: single-instance, cross-instance and average accuracy, each averaged over the four option cycles "
        "(± SE over questions), by the strict extractor. The average equals “over all answers” if all cycles have "
        f"equally many scored answers. {NOT_PUBLISHED}"
    )
    return Table(file_stem(f"table_4_{benchmark}"), f"{benchmark} by kind and cycle", caption, columns, tuple(rows))


def table_categories(evaluations: Sequence[Evaluation], benchmark: str) -> Table:
    """Any benchmark by the first level of its categories; MMStar with both of its means.

    Args:
        evaluations: Evaluations; those of the benchmark are shown.
        benchmark: Name of the benchmark.
    """
    found = of_benchmark(evaluations, benchmark)
    names = unique([category_at(record, 1) for evaluation in found for record in evaluation.records])
    means = ("overall, %", "macro over l2, %") if benchmark == "mmstar" else ("overall, %",)
    columns = (*FRONT, *means, *(f"{name or 'no category'}, %" for name in names), *BACK)
    rows = []
    for evaluation, protocol in each_protocol(found):
        parts = split_records(evaluation.records, lambda record: category_at(record, 1))
        counted = [count_accuracy(parts.get(name, ()), protocol) for name in names]
        whole = count_accuracy(evaluation.records, protocol)
        cells: list[Cell] = [*front_cells(evaluation, protocol, whole.scored)]
        cells.append(percent(overall(counted), whole.stderr))
        if len(means) > 1:
            cells.append(percent(_macro_l2(evaluation, protocol)))
        cells += [percent(part.share, part.stderr) for part in counted]
        rows.append(TableRow("measured", (*cells, *back_cells(evaluation, whole))))
    caption = f"{SCORED} {NOT_PUBLISHED}"
    return Table(file_stem(f"table_4_{benchmark}"), f"{benchmark} by category", caption, columns, tuple(rows))


def _macro_l2(evaluation: Evaluation, protocol: Protocol) -> float | None:
    parts = split_records(evaluation.records, lambda record: category_at(record, 2))
    return macro_mean(count_accuracy(part, protocol) for part in parts.values())


def _cycle(category: str) -> str:
    return category.rpartition("/")[2]
