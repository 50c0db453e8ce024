from __future__ import annotations

import pytest

from hart_studio.evaluation.grounding_metrics import best_iog, best_iou, is_found, measure_grounding
from hart_studio.records import Box
from tests.unit.evaluation.questions import eight_questions, question

GOLD = Box.from_xyxy((0, 0, 10, 10))


def test_iog_counts_the_share_of_the_gold_box_by_hand() -> None:
    assert best_iog(GOLD, [Box.from_xyxy((5, 0, 15, 10))]) == 0.5
    assert best_iou(GOLD, [Box.from_xyxy((5, 0, 15, 10))]) == pytest.approx(50 / 150)


def test_the_threshold_is_strict() -> None:
    assert not is_found(GOLD, [Box.from_xyxy((0, 0, 3, 10))])  # 0.3 exactly
    assert is_found(GOLD, [Box.from_xyxy((0, 0, 3.01, 10))])


def test_one_box_must_do_it_alone() -> None:
    halves = [Box.from_xyxy((0, 0, 2, 10)), Box.from_xyxy((8, 0, 10, 10))]  # 0.2 each, 0.4 together
    assert best_iog(GOLD, halves) == 0.2
    assert not is_found(GOLD, halves)


def test_a_box_over_everything_scores_full_iog_and_a_small_iou() -> None:
    everything = [Box.from_xyxy((0, 0, 100, 100))]
    assert best_iog(GOLD, everything) == 1.0
    assert best_iou(GOLD, everything) == 0.01


def test_gold_boxes_found_are_counted_by_box() -> None:
    grounding = measure_grounding(eight_questions())
    assert grounding is not None
    found = grounding.found
    assert found.value == pytest.approx(4 / 8)  # a, c, f, one of e's two; not b, d, g; h did not run
    assert found.low < found.value < found.high
    assert measure_grounding([question("x", None, None, (), gold_boxes=())]) is None
