from __future__ import annotations

import math

import numpy as np
import pytest

from hart_studio.evaluation.joint import (
    count_joint,
    estimate_information,
    estimate_information_difference,
    estimate_wrong_box,
    measure_information_difference,
    measure_joint,
    mutual_information,
    wrong_box_share,
)
from hart_studio.evaluation.statistics import draw_resamples
from tests.unit.evaluation.questions import eight_questions

RIGHT = np.array([[1, 1, 1, 0, 0, 1]])
GROUNDED = np.array([[0, 1, 1, 0, 1, 1]])


def test_the_four_counts_by_hand() -> None:
    # Order of Table 1: right answer on a wrong box, on a right one; wrong answer on a wrong box, on a right one.
    assert count_joint(RIGHT, GROUNDED).tolist() == [[1, 3, 1, 1]]
    twice_the_first = np.array([[2.0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    assert count_joint(RIGHT, GROUNDED, twice_the_first).tolist() == [[[2, 2, 1, 1], [1, 3, 1, 1]]]


def test_without_a_right_answer_there_is_no_share() -> None:
    assert math.isnan(wrong_box_share(np.array([0.0, 0, 3, 1])))
    assert estimate_wrong_box(0 * RIGHT, GROUNDED, draw_resamples(6, 20)) is None


def test_information_is_0_when_independent_and_the_entropy_when_identical() -> None:
    assert mutual_information(np.array([6.0, 18, 2, 6])) == pytest.approx(
        0.0, abs=1e-12
    )  # 1/4 wrong boxes in each half
    assert mutual_information(np.array([0.0, 8, 8, 0])) == pytest.approx(1.0)
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert mutual_information(np.array([0.0, 12, 4, 0])) == pytest.approx(entropy)
    assert mutual_information(np.array([0.0, 5, 0, 0])) == 0.0, "nothing varies"


def test_information_by_hand() -> None:
    # Cells 1/8, 3/8, 3/8, 1/8: both margins are one half, so I = sum p log2(4 p) = 1 - H(1/4).
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert mutual_information(np.array([1.0, 3, 3, 1])) == pytest.approx(1 - entropy)


def test_withholding_the_image_shows_as_a_gain_of_information() -> None:
    grounded = np.array([[1, 0] * 100])
    crops_only, direct = grounded, np.array([[1, 1, 0, 0] * 50])  # follows the box; knows nothing of it
    draws = draw_resamples(200, 300)
    gain = estimate_information_difference(crops_only, direct, grounded, draws)
    assert gain.value == pytest.approx(1.0)
    assert 0.9 < gain.low < gain.high < 1.0 + 1e-9
    opposite = estimate_information_difference(direct, crops_only, grounded, draws)
    assert opposite == pytest.approx((-gain.value, -gain.high, -gain.low))
    assert estimate_information(direct, grounded, draws).low >= 0.0


def test_seeds_are_averaged() -> None:
    right, grounded = np.array([[1, 1, 0, 0], [1, 1, 0, 0]]), np.array([[1, 0, 0, 0], [1, 1, 0, 0]])
    found = estimate_wrong_box(right, grounded, draw_resamples(4, 200))
    assert found is not None
    assert found.value == pytest.approx(0.25)  # 1/2 and 0
    assert found.low == 0.0 and found.high == 0.5


def test_the_joint_counts_of_an_evaluation_by_hand() -> None:
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
    gain = measure_information_difference(eight_questions())
    assert gain is not None
    assert gain.questions == 6  # f has no crops-only score
    # Direct answers without f: 2 right on a right box, 2 right on a wrong one, 2 wrong on a wrong one, of 6.
    thirds = (1 / 3) * (math.log2((1 / 3) / (1 / 3 * 2 / 3)) + math.log2((1 / 3) / (2 / 3 * 2 / 3)))
    direct = thirds + (1 / 3) * math.log2((1 / 3) / (2 / 3 * 1 / 3))
    assert gain.gain.value == pytest.approx(0.0 - direct)
    assert measure_information_difference([]) is None
