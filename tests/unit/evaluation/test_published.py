from __future__ import annotations

import numpy as np
import pytest

from hart_studio.evaluation import published
from hart_studio.evaluation.accuracy import weighted_mean
from hart_studio.evaluation.joint import wrong_box_share
from hart_studio.evaluation.published import MME_REALWORLD_TASKS, TABLE_2, TABLE_3, TREEBENCH_TASKS, Published, Subtask

ROWS = [(row, MME_REALWORLD_TASKS) for row in TABLE_2] + [(row, TREEBENCH_TASKS) for row in TABLE_3]


def mean_of(row: Published, tasks: tuple[Subtask, ...]) -> float:
    mean = weighted_mean([(value, task.questions) for value, task in zip(row.values, tasks, strict=True)])
    assert mean is not None
    return mean


@pytest.mark.parametrize(("row", "tasks"), ROWS, ids=[f"{row.method}-{len(tasks)}" for row, tasks in ROWS])
def test_overall_is_the_weighted_mean_where_it_is_said_to_be(row: Published, tasks: tuple[Subtask, ...]) -> None:
    assert (abs(mean_of(row, tasks) - row.overall) < 0.1) == row.is_weighted


def test_the_figures_that_follow_to_their_last_digit() -> None:
    by_method = {row.method: row for row in TABLE_2}
    names = (published.MODEL, "SFT", "GRPO", "MGPO", published.HART, "InternVL3-8B")
    found = [round(mean_of(by_method[name], MME_REALWORLD_TASKS), 1) for name in names]
    assert found == [42.3, 54.0, 51.3, 55.1, 62.4, 47.9]
    trees = {row.method: row for row in TABLE_3}
    found = [round(mean_of(trees[name], TREEBENCH_TASKS), 1) for name in (published.MODEL, "MGPO", published.HART)]
    assert found == [37.0, 39.5, 43.7]


def test_counts_of_the_benchmarks() -> None:
    assert sum(task.questions for task in MME_REALWORLD_TASKS) == 1919
    assert sum(task.questions for task in TREEBENCH_TASKS) == 405
    for row in published.TABLE_1:
        assert sum(row.counts) == 4042
        share = float(wrong_box_share(np.array(row.counts, dtype=np.float64)))
        assert round(100 * share, 1) == row.wrong_box


def test_treebench_grounding_is_counted_by_gold_box() -> None:
    for figure, _ in published.TABLE_6.values():
        assert any(round(100 * count / 833, 1) == figure for count in range(834))
    assert not any(round(100 * count / 405, 1) == 75.4 for count in range(406)), "no share of the questions is that"
