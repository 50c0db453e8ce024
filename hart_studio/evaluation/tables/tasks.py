"""Tables 2 and 3: accuracy by sub-task, and the weighted overall accuracy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hart_studio.evaluation.accuracy import category_at, count_accuracy, overall, split_records
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.published import (
    MME_REALWORLD_TASKS,
    TABLE_2,
    TABLE_3,
    TREEBENCH_TASKS,
    Published,
    Subtask,
)
from hart_studio.evaluation.tables.rows import (
    BACK,
    FRONT,
    SCORED,
    back_cells,
    each_protocol,
    front_cells,
    of_benchmark,
    published_row,
)
from hart_studio.evaluation.tables.table import Cell, Table, TableRow, percent

LEVELS: Final = ("Perception", "Reasoning")
"""First level of the categories of both benchmarks."""

MME_REALWORLD: Final = ("mme_realworld_lite", "mme_realworld", "mme_realworld_train")
"""Parts of MME-RealWorld; the published results are those of the first."""

_CAPTION: Final = (
    f"{SCORED} Overall is the mean over sub-tasks weighted by their questions. Published rows are the paper's; those "
    "with † have an overall figure that does not follow from their sub-tasks."
)


def table_2(evaluations: Sequence[Evaluation], benchmark: str = MME_REALWORLD[0]) -> Table:
    """MME-RealWorld by task and sub-task.

    Args:
        evaluations: Evaluations; those of the benchmark are shown.
        benchmark: One of ``MME_REALWORLD``.
    """
    is_lite = benchmark == MME_REALWORLD[0]
    name = "table_2" if is_lite else f"table_2_{benchmark}"
    title = f"Table 2: {benchmark} by sub-task"
    rows = TABLE_2 if is_lite else ()
    return _task_table(name, title, of_benchmark(evaluations, benchmark), MME_REALWORLD_TASKS, rows)


def table_3(evaluations: Sequence[Evaluation]) -> Table:
    """TreeBench by sub-task; arguments as for ``table_2``."""
    found = of_benchmark(evaluations, "treebench")
    return _task_table("table_3", "Table 3: treebench by sub-task", found, TREEBENCH_TASKS, TABLE_3)


def _task_table(
    name: str, title: str, evaluations: Sequence[Evaluation], tasks: Sequence[Subtask], published: Sequence[Published]
) -> Table:
    known = {_plain(task.category) for task in tasks}
    others = {
        _plain(category): category
        for evaluation in evaluations
        for record in evaluation.records
        if _plain(category := category_at(record, 2)) not in known
    }
    keys = [_plain(task.category) for task in tasks] + list(others)
    heads = [f"{task.category.split('/')[0]}: {task.title}, %" for task in tasks]
    heads += [f"{category or 'no category'}, %" for category in others.values()]
    levels = [f"{level}, %" for level in LEVELS]
    columns = (*FRONT, "overall, %", *levels, *heads, *BACK)
    rows = []
    for evaluation, protocol in each_protocol(evaluations):
        parts = split_records(evaluation.records, lambda record: _plain(category_at(record, 2)))
        found = {key: count_accuracy(parts.get(key, ()), protocol) for key in keys}
        whole = count_accuracy(evaluation.records, protocol)
        by_level = split_records(evaluation.records, lambda record: _plain(category_at(record, 1)))
        of_levels = [count_accuracy(by_level.get(_plain(level), ()), protocol) for level in LEVELS]
        cells: tuple[Cell, ...] = (
            *front_cells(evaluation, protocol, whole.scored),
            percent(overall(found.values()), whole.stderr),
            *(percent(part.share, part.stderr) for part in of_levels),
            *(percent(part.share, part.stderr) for part in found.values()),
            *back_cells(evaluation, whole),
        )
        rows.append(TableRow("measured", cells))
    questions = sum(task.questions for task in tasks)
    for row in published:
        method = row.method if row.is_weighted else f"{row.method} †"
        figures = dict(zip(heads, row.values, strict=False))
        rows.append(published_row(columns, method, {"n": questions, "overall, %": row.overall, **figures}))
    return Table(name, title, _CAPTION, columns, tuple(rows))


def _plain(category: str) -> str:
    """Normalize case, spaces and underscores of a category."""
    return re.sub("[^a-z0-9/]+", " ", category.lower()).strip()
