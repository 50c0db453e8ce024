from __future__ import annotations

import math

import numpy as np
import pytest

from hart_studio.evaluation.bootstrap import (
    compare_answers,
    compare_grounding,
    estimate_found,
    measure_information_gain,
    measure_joint,
    resamples_of,
)
from hart_studio.evaluation.statistics import estimate_difference
from tests.unit.evaluation.questions import FAR_GOLD, ON, answer_result, eight_questions, question


def test_the_joint_counts_by_hand() -> None:
    # Crops only, scored and pointed: a right/right, b right/wrong, c wrong/right, d wrong/wrong, e right on one of two
    # gold boxes, so wrong, g wrong without a box.
    joint = measure_joint(eight_questions(), "crops_only")
    assert joint is not None
    assert joint.counts == (2, 1, 2, 1)
    assert joint.wrong_box is not None
    assert joint.wrong_box.value == pytest.approx(2 / 3)
    assert 0 <= joint.wrong_box.low <= 2 / 3 <= joint.wrong_box.high <= 1
    assert joint.information.value == pytest.approx(0.0, abs=1e-12)  # 2/3 wrong boxes in both halves
    # Direct: a, c and f right on a right box, b and g right on a wrong one, d and e wrong on a wrong one.
    direct = measure_joint(eight_questions(), "direct")
    assert direct is not None
    assert direct.counts == (2, 3, 2, 0)
    assert measure_joint(eight_questions(), "full_and_crops") is None


def test_the_gain_of_information_is_over_common_questions() -> None:
    gain = measure_information_gain(eight_questions())
    assert gain is not None
    assert gain.questions == 6  # f has no crops-only score
    # Direct answers without f: 2 right on a right box, 2 right on a wrong one, 2 wrong on a wrong one, of 6.
    thirds = (1 / 3) * (math.log2((1 / 3) / (1 / 3 * 2 / 3)) + math.log2((1 / 3) / (2 / 3 * 2 / 3)))
    direct = thirds + (1 / 3) * math.log2((1 / 3) / (2 / 3 * 1 / 3))
    assert gain.gain.value == pytest.approx(0.0 - direct)
    assert measure_information_gain([]) is None


def test_gold_boxes_found_are_counted_by_box() -> None:
    found = estimate_found(eight_questions())
    assert found is not None
    assert found.value == pytest.approx(4 / 8)  # a, c, f, one of e's two; not b, d, g; h did not run
    assert found.low < found.value < found.high
    assert estimate_found([question("x", None, None, (), gold_boxes=())]) is None


def test_differences_are_over_common_scored_questions() -> None:
    better = [question(name, answer_result(1.0), None, (ON,)) for name in "bdfz"]
    found = compare_answers(better, eight_questions(), "crops_only")
    assert found is not None
    assert found.questions == 2  # b and d; f is unscored on the other side, z is not there
    assert found.gain.value == pytest.approx(0.5)
    boxes = compare_grounding(better, eight_questions())
    assert boxes is not None
    assert (boxes.questions, boxes.gain.value) == (3, pytest.approx(2 / 3))
    assert compare_answers(better, [], "crops_only") is None


@pytest.mark.parametrize(
    "changes", [{"question": "Another?"}, {"choices": ("red", "green")}, {"gold_boxes": (FAR_GOLD,)}], ids=str
)
def test_another_question_of_the_same_id_is_no_pair(changes: dict[str, object]) -> None:
    first = [question("a", answer_result(1.0), None, (ON,)), question("b", answer_result(1.0), None, (ON,))]
    second = [question("a", answer_result(1.0), None, (ON,)), question("b", answer_result(0.0), None, (), **changes)]
    found = compare_answers(first, second, "crops_only")
    assert found is not None
    assert (found.gain.value, found.questions, found.others) == (0.0, 1, 1)
    boxes = compare_grounding(first, second)
    assert boxes is not None and (boxes.gain.value, boxes.questions, boxes.others) == (0.0, 1, 1)
    assert compare_answers(first[1:], second[1:], "crops_only") is None


def test_repeated_questions_are_drawn_together() -> None:
    # Two questions in four cycles each: one is always gained, the other never, so a draw gains all, half or nothing.
    kinds = {"first": (1.0, 0.0), "second": (1.0, 1.0)}
    first, second = (
        [
            question(f"{kind} {cycle}", answer_result(values[side]), None, (), question=kind, image=f"{kind}.png")
            for kind, values in kinds.items()
            for cycle in range(4)
        ]
        for side in (0, 1)
    )
    found = compare_answers(first, second, "crops_only")
    assert found is not None
    assert (found.gain, found.questions, found.others) == ((0.5, 0.0, 1.0), 8, 0)
    # The same question on other images is another one: eight units, whose interval is narrower.
    apart = [
        [each.model_copy(update={"image": f"{each.sample_id}.png"}) for each in records] for records in (first, second)
    ]
    alone = compare_answers(*apart, "crops_only")
    assert alone is not None
    plain = estimate_difference(np.ones(8), np.array([0.0] * 4 + [1.0] * 4), resamples_of(8))
    assert alone.gain == pytest.approx(plain) and plain.low > 0.0 and plain.high < 1.0


def test_large_benchmarks_get_fewer_draws() -> None:
    assert resamples_of(200).shape == (10_000, 200)
    assert resamples_of(4042).shape == (4_000_000 // 4042, 4042)
    assert resamples_of(9000).shape == (500, 9000)
    resamples_of.cache_clear()
