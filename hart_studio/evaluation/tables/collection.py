"""All tables that some evaluations have data for, in the order of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from hart_studio.evaluation.accuracy import is_scored
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.tables.answer_and_box import table_1, table_information
from hart_studio.evaluation.tables.benchmarks import HR_BENCH, table_4, table_categories, table_hr_bench
from hart_studio.evaluation.tables.comparison import table_comparison
from hart_studio.evaluation.tables.extractors import table_extractors, table_rules
from hart_studio.evaluation.tables.grounding import table_6, table_iou
from hart_studio.evaluation.tables.levels import level_table
from hart_studio.evaluation.tables.rows import unique
from hart_studio.evaluation.tables.summary import table_summary
from hart_studio.evaluation.tables.table import Table
from hart_studio.evaluation.tables.tasks import MME_REALWORLD, table_2, table_3


def make_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Make the tables with at least one measured row.

    Args:
        evaluations: Evaluations of any benchmarks. Those without a scored answer are only in the summary and in the
            tables of boxes and rules.
    """
    included = [found for found in evaluations if found.records]
    scored = [
        found
        for found in included
        if any(is_scored(record, name) for record in found.records for name in found.protocols)
    ]
    by_task = {*MME_REALWORLD, "treebench", *HR_BENCH}
    others = [name for name in unique([found.benchmark for found in scored]) if name not in by_task]
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
