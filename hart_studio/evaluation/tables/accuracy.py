"""Tables of accuracy: Tables 2 to 5 and 7 of the paper, and any benchmark by category."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from hart_studio.evaluation.accuracy import (
    Extractor,
    category_at,
    clustered_stderr,
    count_accuracy,
    count_parts,
    cycle_mean,
    cycle_of,
    macro_mean,
    overall,
    split_records,
)
from hart_studio.evaluation.published import (
    MME_REALWORLD_TASKS,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_7,
    TREEBENCH_TASKS,
    Published,
    Subtask,
)
from hart_studio.evaluation.records import Evaluation
from hart_studio.evaluation.tables.table import (
    BACK,
    FRONT,
    FRONT_OF_ONE,
    NOT_PUBLISHED,
    SCORED,
    Cell,
    Number,
    Table,
    TableRow,
    answers_row,
    each_protocol,
    file_stem,
    of_benchmark,
    percent,
    published_row,
    questions_cell,
    share_of,
)
from hart_studio.records import Protocol

LEVELS: Final = ("Perception", "Reasoning")
"""First level of the categories of MME-RealWorld and TreeBench."""

MME_REALWORLD: Final = ("mme_realworld_lite", "mme_realworld", "mme_realworld_train")
"""Parts of MME-RealWorld; the published results are those of the first."""

HR_BENCH: Final = ("hr_bench_4k", "hr_bench_8k")
"""Both resolutions of HR-Bench."""

REPEATED: Final = "Standard errors for HR-Bench are clustered by question."
"""Caption sentence of tables with ``accuracy_cell``."""

_TABLE_4: Final = ("vstar", *HR_BENCH, "mmstar")
_HR_KINDS: Final = ("single", "cross")
_LEVEL_BENCHMARKS: Final = ("mme_realworld_lite", "treebench")
_LEVEL_TITLES: Final = {5: "Table 5: base models and the method", 7: "Table 7: stages and k"}


def accuracy_cell(evaluation: Evaluation, protocol: Protocol, extractor: Extractor = "strict") -> Number | None:
    """Share of correct answers with its standard error, clustered by question if the benchmark repeats questions."""
    found = count_accuracy(evaluation.records, protocol, extractor)
    if evaluation.benchmark in HR_BENCH:
        return percent(found.share, clustered_stderr(evaluation.records, protocol, extractor))
    return share_of(found)


def table_2(evaluations: Sequence[Evaluation], benchmark: str = MME_REALWORLD[0]) -> Table:
    """MME-RealWorld by task and sub-task; ``benchmark`` is one of ``MME_REALWORLD``."""
    is_lite = benchmark == MME_REALWORLD[0]
    name = "table_2" if is_lite else f"table_2_{benchmark}"
    return _task_table(name, "Table 2", evaluations, benchmark, MME_REALWORLD_TASKS, TABLE_2 if is_lite else ())


def table_3(evaluations: Sequence[Evaluation]) -> Table:
    """TreeBench by sub-task."""
    return _task_table("table_3", "Table 3", evaluations, "treebench", TREEBENCH_TASKS, TABLE_3)


def _task_table(
    name: str,
    title: str,
    evaluations: Sequence[Evaluation],
    benchmark: str,
    tasks: Sequence[Subtask],
    published: Sequence[Published],
) -> Table:
    included = of_benchmark(evaluations, benchmark)
    keys = [_plain(task.category) for task in tasks]
    others = {
        key: category
        for evaluation in included
        for record in evaluation.records
        if (key := _plain(category := category_at(record, 2))) not in keys
    }
    heads = [f"{task.category.split('/')[0]}: {task.title}, %" for task in tasks]
    heads += [f"{category or 'no category'}, %" for category in others.values()]
    columns = (*FRONT_OF_ONE, "overall, %", *(f"{level}, %" for level in LEVELS), *heads, *BACK)
    rows = []
    for evaluation, protocol in each_protocol(included):
        records = evaluation.records
        found = count_parts(records, protocol, lambda record: _plain(category_at(record, 2)), (*keys, *others))
        levels = count_parts(records, protocol, lambda record: _plain(category_at(record, 1)), map(_plain, LEVELS))
        whole = count_accuracy(evaluation.records, protocol)
        cells = (percent(overall(found), whole.stderr), *map(share_of, (*levels, *found)))
        rows.append(answers_row(evaluation, protocol, whole, *cells, has_benchmark=False))
    questions = sum(task.questions for task in tasks)
    for row in published:
        method = row.method if row.is_weighted else f"{row.method} †"
        figures = dict(zip(heads, row.values, strict=False))
        rows.append(published_row(columns, method, {"n": questions, "overall, %": row.overall, **figures}))
    caption = (
        f"{SCORED} Overall is the mean over sub-tasks weighted by their questions. Published rows are the paper's; "
        "those with † have an overall figure that does not follow from their sub-tasks."
    )
    return Table(name, f"{title}: {benchmark} by sub-task", caption, columns, tuple(rows))


def table_4(evaluations: Sequence[Evaluation]) -> Table:
    """V*, HR-Bench and MMStar: the share; for HR-Bench the mean over cycles, for MMStar both means."""
    columns = (*FRONT, "accuracy, %", "macro over l2, %", *BACK)
    rows = []
    for evaluation, protocol in each_protocol(of_benchmark(evaluations, *_TABLE_4)):
        found = count_accuracy(evaluation.records, protocol)
        shown = share_of(found)
        if evaluation.benchmark in HR_BENCH:
            shown = percent(cycle_mean(evaluation.records, protocol), clustered_stderr(evaluation.records, protocol))
        macro = _macro_l2(evaluation, protocol) if evaluation.benchmark == "mmstar" else None
        rows.append(answers_row(evaluation, protocol, found, shown, macro))
    rows += [
        published_row(columns, method, {"benchmark": benchmark, "accuracy, %": figures[benchmark]})
        for benchmark in _TABLE_4
        for method, figures in TABLE_4.items()
    ]
    caption = (
        f"{SCORED} HR-Bench: mean over the four option cycles, standard error clustered by question. "
        "MMStar: over all questions, and the mean over its l2 categories; the paper does not say which is its own."
    )
    return Table("table_4", "Table 4: V*, HR-Bench and MMStar", caption, columns, tuple(rows))


def table_hr_bench(evaluations: Sequence[Evaluation], benchmark: str) -> Table:
    """HR-Bench by kind of question and by cycle; ``benchmark`` is one of ``HR_BENCH``."""
    included = of_benchmark(evaluations, benchmark)
    cycles = sorted({cycle_of(record) for evaluation in included for record in evaluation.records})
    kinds = tuple(f"{kind}, %" for kind in _HR_KINDS)
    columns = (*FRONT_OF_ONE, *kinds, "average, %", "over all answers, %", *cycles, *BACK)
    rows = []
    for evaluation, protocol in each_protocol(included):
        by_kind = split_records(evaluation.records, lambda record: category_at(record, 1))
        whole = count_accuracy(evaluation.records, protocol)
        cells: list[Cell] = [
            percent(cycle_mean(part, protocol), clustered_stderr(part, protocol))
            for part in (*(by_kind.get(kind, []) for kind in _HR_KINDS), evaluation.records)
        ]
        cells.append(percent(whole.share))
        cells += [percent(part.share) for part in count_parts(evaluation.records, protocol, cycle_of, cycles)]
        rows.append(answers_row(evaluation, protocol, whole, *cells, has_benchmark=False))
    caption = (
        "Columns: single-instance, cross-instance and average accuracy, each averaged over the four option cycles "
        "(± SE over questions), by the strict extractor. The average equals “over all answers” if all cycles have "
        f"equally many scored answers. {NOT_PUBLISHED}"
    )
    return Table(file_stem(f"table_4_{benchmark}"), f"{benchmark} by kind and cycle", caption, columns, tuple(rows))


def table_categories(evaluations: Sequence[Evaluation], benchmark: str) -> Table:
    """Any benchmark by the first level of its categories; MMStar with both of its means."""
    included = of_benchmark(evaluations, benchmark)
    names = list(dict.fromkeys(category_at(record, 1) for each in included for record in each.records))
    means = ("overall, %", "macro over l2, %") if benchmark == "mmstar" else ("overall, %",)
    columns = (*FRONT_OF_ONE, *means, *(f"{name or 'no category'}, %" for name in names), *BACK)
    rows = []
    for evaluation, protocol in each_protocol(included):
        found = count_parts(evaluation.records, protocol, lambda record: category_at(record, 1), names)
        whole = count_accuracy(evaluation.records, protocol)
        cells = [percent(overall(found), whole.stderr)]
        cells += [_macro_l2(evaluation, protocol)] if benchmark == "mmstar" else []
        rows.append(answers_row(evaluation, protocol, whole, *cells, *map(share_of, found), has_benchmark=False))
    caption = f"{SCORED} {NOT_PUBLISHED}"
    return Table(file_stem(f"table_4_{benchmark}"), f"{benchmark} by category", caption, columns, tuple(rows))


def level_table(evaluations: Sequence[Evaluation], number: Literal[5, 7]) -> Table:
    """Tables 5 and 7: perception and reasoning on two benchmarks, joined by model and protocol.

    If a model has several evaluations on one benchmark, they cannot be matched: each has a row, with the end of its
    run id. The tables differ in their published rows.
    """
    figures = [f"{benchmark}: {level.lower()}, %" for benchmark in _LEVEL_BENCHMARKS for level in LEVELS]
    counts = [f"{benchmark}: {what}" for what in ("n", "questions") for benchmark in _LEVEL_BENCHMARKS]
    columns = ("model", "protocol", "date", *figures, *counts, "unscored")
    same: dict[tuple[str, Protocol], list[Evaluation]] = defaultdict(list)
    for evaluation, protocol in each_protocol(of_benchmark(evaluations, *_LEVEL_BENCHMARKS)):
        same[evaluation.name, protocol].append(evaluation)
    rows = [
        _level_row(shown, protocol, found)
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
    return Table(f"table_{number}", _LEVEL_TITLES[number], caption, columns, tuple(rows))


def _join(name: str, same: Sequence[Evaluation]) -> Iterator[tuple[str, dict[str, Evaluation]]]:
    """Name and evaluations of each row of a model, by benchmark."""
    found = {evaluation.benchmark: evaluation for evaluation in same}
    if len(found) == len(same):
        yield name, found
        return
    for evaluation in same:
        yield f"{name} {evaluation.run_id[-6:]}", {evaluation.benchmark: evaluation}


def _level_row(name: str, protocol: Protocol, found: dict[str, Evaluation]) -> TableRow:
    cells: list[Cell] = [name, protocol, ", ".join(sorted({evaluation.date for evaluation in found.values()}))]
    for benchmark in _LEVEL_BENCHMARKS:
        records = found[benchmark].records if benchmark in found else ()
        parts = count_parts(records, protocol, lambda record: category_at(record, 1).lower(), map(str.lower, LEVELS))
        cells += map(share_of, parts)
    whole = {benchmark: count_accuracy(evaluation.records, protocol) for benchmark, evaluation in found.items()}
    cells += [whole[benchmark].scored if benchmark in whole else None for benchmark in _LEVEL_BENCHMARKS]
    cells += [questions_cell(found[benchmark]) if benchmark in found else None for benchmark in _LEVEL_BENCHMARKS]
    return TableRow("measured", (*cells, sum(part.unscored for part in whole.values())))


def _macro_l2(evaluation: Evaluation, protocol: Protocol) -> Number | None:
    parts = split_records(evaluation.records, lambda record: category_at(record, 2))
    return percent(macro_mean(count_accuracy(part, protocol) for part in parts.values()))


def _plain(category: str) -> str:
    """Normalize case, spaces and underscores of a category."""
    return re.sub("[^a-z0-9/]+", " ", category.lower()).strip()
