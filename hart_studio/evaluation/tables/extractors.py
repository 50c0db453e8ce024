"""Comparison of the strict extractor with a benchmark's own, and the rules that extracted the answers."""

from __future__ import annotations

from collections.abc import Sequence

from hart_studio.evaluation.accuracy import count_accuracy, count_rules, find_score, has_official
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.tables.benchmarks import REPEATED, accuracy_cell
from hart_studio.evaluation.tables.rows import FRONT, NOT_PUBLISHED, each_protocol, front_cells, questions_cell
from hart_studio.evaluation.tables.table import Cell, Table, TableRow, percent


def table_extractors(evaluations: Sequence[Evaluation]) -> Table:
    """Accuracy by both extractors, and their disagreements.

    Args:
        evaluations: Evaluations; those whose benchmark has its own extractor are shown.
    """
    columns = (
        *(
            "model",
            "benchmark",
            *FRONT[1:],
            "strict, %",
            "unscored",
            "benchmark extractor, %",
            "unscored (benchmark extractor)",
        ),
        *("strict correct, benchmark wrong", "benchmark correct, strict wrong", "questions"),
    )
    rows = []
    for evaluation, protocol in each_protocol(evaluations):
        if not has_official(evaluation.records, protocol):
            continue
        strict = count_accuracy(evaluation.records, protocol)
        official = count_accuracy(evaluation.records, protocol, "official")
        pairs = [
            (first.value, second.value)
            for record in evaluation.records
            if (first := find_score(record, protocol)) and (second := find_score(record, protocol, "official"))
        ]
        front = front_cells(evaluation, protocol, strict.scored)
        cells: list[Cell] = [front[0], evaluation.benchmark, *front[1:]]
        cells += [accuracy_cell(evaluation, protocol), strict.unscored]
        cells += [accuracy_cell(evaluation, protocol, "official"), official.unscored]
        cells += [pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0)), questions_cell(evaluation)]
        rows.append(TableRow("measured", tuple(cells)))
    caption = (
        "The strict extractor applies the same rules to every benchmark; the benchmark extractor is the benchmark's "
        f"own, for comparison with published figures. ± is the standard error. {REPEATED} {NOT_PUBLISHED}"
    )
    return Table("extractors", "Strict vs. benchmark extractor", caption, columns, tuple(rows))


def table_rules(evaluations: Sequence[Evaluation]) -> Table:
    """Count how often each extraction rule fired.

    Args:
        evaluations: Evaluations; all are shown.
    """
    columns = ("model", "benchmark", *FRONT[1:], "extractor", "rule", "answers", "share, %", "questions")
    rows = []
    for evaluation, protocol in each_protocol(evaluations):
        for extractor in ("strict", "official"):
            rules = count_rules(evaluation.records, protocol, "official" if extractor == "official" else "strict")
            for rule, count in sorted(rules.items(), key=lambda item: (-item[1], item[0])):
                front = front_cells(evaluation, protocol, rules.total())
                figures: list[Cell] = [extractor, rule, count, percent(count / rules.total())]
                cells: tuple[Cell, ...] = (
                    front[0],
                    evaluation.benchmark,
                    *front[1:],
                    *figures,
                    questions_cell(evaluation),
                )
                rows.append(TableRow("measured", cells))
    caption = (
        "The extraction rule that matched each of the n answers; “none”: no rule matched; “no_answer_turn”: no answer "
        f"turn because no box was valid. Questions that could not be run or scored are excluded. {NOT_PUBLISHED}"
    )
    return Table("rules", "Extraction rules", caption, columns, tuple(rows))
