"""Paired differences between evaluations of the same benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from hart_studio.evaluation.bootstrap import Difference, compare_answers, compare_grounding
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.tables.rows import name_of, questions_cell
from hart_studio.evaluation.tables.table import Cell, Table, TableRow, percent_between
from hart_studio.records import PROTOCOLS


def table_comparison(evaluations: Sequence[Evaluation]) -> Table:
    """Compare every two evaluations of the same benchmark: accuracy per common protocol, and grounding.

    Args:
        evaluations: Evaluations; pairs without common questions are skipped.
    """
    columns = (
        *("model", "baseline", "benchmark", "protocol", "dates", "figure", "difference, points"),
        *("n", "excluded", "verdict", "questions", "questions (baseline)"),
    )
    rows = []
    for first, second in combinations(evaluations, 2):
        if first.benchmark != second.benchmark:
            continue
        # The later evaluation is compared with the earlier one, so its gain is positive.
        for how, figure, found in _differences(second, first):
            cells: tuple[Cell, ...] = (
                *(name_of(second), name_of(first), first.benchmark, how, f"{second.date}, {first.date}", figure),
                *(
                    percent_between(found.gain, is_signed=True),
                    found.questions,
                    found.others,
                    _describe_significance(found),
                ),
                *(questions_cell(second), questions_cell(first)),
            )
            rows.append(TableRow("measured", cells))
    caption = (
        "Difference in percentage points (model - baseline) on the n questions scored in both; 95 % paired bootstrap; "
        "repeats of a question are resampled together. Excluded: questions with the same id but different content. "
        "No published figures in this table."
    )
    return Table("comparison", "Differences between models", caption, columns, tuple(rows))


def _differences(first: Evaluation, second: Evaluation) -> Iterator[tuple[str, str, Difference]]:
    for protocol in PROTOCOLS:
        if protocol in first.protocols and protocol in second.protocols:
            found = compare_answers(first.records, second.records, protocol)
            if found is not None:
                yield protocol, "accuracy", found
    found = compare_grounding(first.records, second.records)
    if found is not None:
        yield "grounding turn", "gold boxes found per question", found


def _describe_significance(found: Difference) -> str:
    if found.gain.is_positive:
        return "better"
    return "worse" if found.gain.is_negative else "not significant (CI contains 0)"
