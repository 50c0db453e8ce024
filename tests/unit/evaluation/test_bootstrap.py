from __future__ import annotations

import math

import pytest

from hart_studio.evaluation.bootstrap import (
    compare_answers,
    compare_grounding,
    estimate_found,
    measure_information_gain,
    measure_joint,
    resamples_of,
)
from tests.unit.evaluation.questions import ON, eight_questions, judged, question


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
    better = [question(name, judged(1.0), None, (ON,)) for name in "bdfz"]
    found = compare_answers(better, eight_questions(), "crops_only")
    assert found is not None
    assert found.questions == 2  # b and d; f is unscored on the other side, z is not there
    assert found.gain.value == pytest.approx(0.5)
    boxes = compare_grounding(better, eight_questions())
    assert boxes is not None
    assert (boxes.questions, boxes.gain.value) == (3, pytest.approx(2 / 3))
    assert compare_answers(better, [], "crops_only") is None


def test_large_benchmarks_get_fewer_draws() -> None:
    assert resamples_of(200).shape == (10_000, 200)
    assert resamples_of(4042).shape == (4_000_000 // 4042, 4042)
    assert resamples_of(9000).shape == (500, 9000)
    resamples_of.cache_clear()
