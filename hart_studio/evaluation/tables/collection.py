"""All tables that some evaluations have data for: those of the paper, a summary, differences, and extractors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from hart_studio.evaluation.accuracy import (
    Extractor,
    compare_answers,
    compare_grounding,
    count_accuracy,
    count_rules,
    find_score,
    is_scored,
)
from hart_studio.evaluation.grounding_metrics import measure_grounding
from hart_studio.evaluation.joint import measure_joint
from hart_studio.evaluation.records import Evaluation
from hart_studio.evaluation.statistics import Difference
from hart_studio.evaluation.tables.accuracy import (
    HR_BENCH,
    MME_REALWORLD,
    REPEATED,
    accuracy_cell,
    level_table,
    table_2,
    table_3,
    table_4,
    table_categories,
    table_hr_bench,
)
from hart_studio.evaluation.tables.grounding import table_1, table_6, table_information, table_iou
from hart_studio.evaluation.tables.table import (
    BACK,
    FRONT,
    NOT_PUBLISHED,
    Table,
    TableRow,
    answers_row,
    each_protocol,
    measured_row,
    percent,
    percent_between,
    questions_cell,
)
from hart_studio.records import PROTOCOLS


def make_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Make the tables with at least one measured row, in the order of the paper.

    Evaluations without a scored answer are only in the summary and in the tables of boxes and rules.
    """
    included = [found for found in evaluations if found.records]
    scored = [
        found
        for found in included
        if any(is_scored(record, name) for record in found.records for name in found.protocols)
    ]
    by_task = {*MME_REALWORLD, "treebench", *HR_BENCH}
    others = [name for name in dict.fromkeys(found.benchmark for found in scored) if name not in by_task]
    tables = [
        table_summary(included),
        table_1(scored),
        table_information(scored),
        *(table_2(scored, benchmark) for benchmark in MME_REALWORLD),
        table_3(scored),
        table_4(scored),
        *(table_hr_bench(scored, benchmark) for benchmark in HR_BENCH),
        *(table_categories(scored, benchmark) for benchmark in others),
        level_table(scored, 5),
        table_6(included),
        table_iou(included),
        level_table(scored, 7),
        table_comparison(included),
        table_extractors(scored),
        table_rules(included),
    ]
    return [table for table in tables if table.is_measured]


def table_summary(evaluations: Sequence[Evaluation]) -> Table:
    """Accuracy, grounding and correct answers with wrong boxes, one row per evaluation and protocol."""
    columns = (
        *(*FRONT, "accuracy, %", "benchmark extractor, %", "P(wrong box | correct answer), %"),
        *("IoG > 0.3, %", "mean IoU, %", "mean area share, %", "valid box, %", *BACK),
    )
    rows = []
    for evaluation, protocol in each_protocol(evaluations):
        joint = measure_joint(evaluation.records, protocol)
        boxes = measure_grounding(evaluation.records)
        cells = [
            accuracy_cell(evaluation, protocol),
            accuracy_cell(evaluation, protocol, "official"),
            percent(joint.wrong_box.value if joint and joint.wrong_box else None),
            *map(percent, (boxes.found.value, boxes.iou, boxes.area_share, boxes.usable) if boxes else [None] * 4),
        ]
        rows.append(answers_row(evaluation, protocol, count_accuracy(evaluation.records, protocol), *cells))
    caption = (
        "Accuracy: percent of the n scored questions ± standard error, by the strict extractor and by the "
        f"benchmark's own where it has one. {REPEATED} IoG and IoU: over all gold boxes. Area share: mean over "
        "questions with a valid box. A dash: no gold box, no grounding turn, no valid box, or no scored answer. "
        f"{NOT_PUBLISHED}"
    )
    return Table("summary", "Summary", caption, columns, tuple(rows))


def table_comparison(evaluations: Sequence[Evaluation]) -> Table:
    """Compare every two evaluations of the same benchmark: accuracy per common protocol, and grounding.

    Pairs without common questions are skipped.
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
            cells = (
                *(second.name, first.name, first.benchmark, how, f"{second.date}, {first.date}", figure),
                *(percent_between(found.gain, is_signed=True), found.questions, found.others),
                *(_describe_significance(found), questions_cell(second), questions_cell(first)),
            )
            rows.append(TableRow("measured", cells))
    caption = (
        "Difference in percentage points (model - baseline) on the n questions scored in both; 95 % paired bootstrap; "
        "repeats of a question are resampled together. Excluded: questions with the same id but different content. "
        "No published figures in this table."
    )
    return Table("comparison", "Differences between models", caption, columns, tuple(rows))


def table_extractors(evaluations: Sequence[Evaluation]) -> Table:
    """Accuracy by the strict extractor and by the benchmark's own, where it has one, and their disagreements."""
    columns = (
        *(*FRONT, "strict, %", "unscored", "benchmark extractor, %", "unscored (benchmark extractor)"),
        *("strict correct, benchmark wrong", "benchmark correct, strict wrong", "questions"),
    )
    rows = []
    for evaluation, protocol in each_protocol(evaluations):
        pairs = [
            (first.value, second.value)
            for record in evaluation.records
            if (first := find_score(record, protocol)) and (second := find_score(record, protocol, "official"))
        ]
        if not pairs:
            continue
        strict = count_accuracy(evaluation.records, protocol)
        official = count_accuracy(evaluation.records, protocol, "official")
        cells = (
            *(accuracy_cell(evaluation, protocol), strict.unscored),
            *(accuracy_cell(evaluation, protocol, "official"), official.unscored),
            *(pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0)), questions_cell(evaluation)),
        )
        rows.append(measured_row(evaluation, protocol, strict.scored, *cells))
    caption = (
        "The strict extractor applies the same rules to every benchmark; the benchmark extractor is the benchmark's "
        f"own, for comparison with published figures. ± is the standard error. {REPEATED} {NOT_PUBLISHED}"
    )
    return Table("extractors", "Strict vs. benchmark extractor", caption, columns, tuple(rows))


def table_rules(evaluations: Sequence[Evaluation]) -> Table:
    """Count how often each extraction rule fired."""
    columns = (*FRONT, "extractor", "rule", "answers", "share, %", "questions")
    extractors: tuple[Extractor, ...] = ("strict", "official")
    rows = []
    for evaluation, protocol in each_protocol(evaluations):
        for extractor in extractors:
            rules = count_rules(evaluation.records, protocol, extractor)
            n = rules.total()
            for rule, count in sorted(rules.items(), key=lambda item: (-item[1], item[0])):
                cells = (extractor, rule, count, percent(count / n), questions_cell(evaluation))
                rows.append(measured_row(evaluation, protocol, n, *cells))
    caption = (
        "The extraction rule that matched each of the n answers; “none”: no rule matched; “no_answer_turn”: no answer "
        f"turn because no box was valid. Questions that could not be run or scored are excluded. {NOT_PUBLISHED}"
    )
    return Table("rules", "Extraction rules", caption, columns, tuple(rows))


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
