from __future__ import annotations

import numpy as np
import pytest

from hart_studio.evaluation.statistics import (
    Estimate,
    draw_resamples,
    estimate,
    estimate_difference,
    estimate_mean,
    resamples_of,
    spread,
    wilson,
)


def test_the_spread_over_seeds_by_hand() -> None:
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0, 3)  # variance ((-1)^2 + 0 + 1^2) / 2
    assert spread([0.4]) == (0.4, None, 1)
    with pytest.raises(ValueError, match="at least one value"):
        spread([])


def test_every_draw_takes_as_many_questions_as_there_are() -> None:
    draws = draw_resamples(7, resamples=50)
    assert draws.shape == (50, 7)
    assert (draws.sum(axis=1) == 7).all() and draws.min() >= 0
    assert (draws == draw_resamples(7, resamples=50)).all(), "the same seed"
    assert (draws != draw_resamples(7, resamples=50, seed=1)).any()
    with pytest.raises(ValueError, match="at least one question"):
        draw_resamples(0)


def test_the_percentiles_by_hand() -> None:
    assert estimate(0.5, np.arange(101) / 100) == pytest.approx((0.5, 0.025, 0.975))
    assert estimate(0.5, np.array([0.2, np.nan, 0.2])) == pytest.approx((0.5, 0.2, 0.2)), "undefined draws are left out"


def test_the_interval_of_a_share_is_near_the_normal_one() -> None:
    values = np.array([1.0] * 120 + [0.0] * 280)
    found = estimate_mean(values, draw_resamples(400))
    half = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - half, abs=0.006)
    assert found.high == pytest.approx(0.3 + half, abs=0.006)


def test_seeds_are_averaged_before_questions_are_drawn() -> None:
    # The seeds cancel each other out on every question, so the questions make no difference.
    values = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert estimate_mean(values, draw_resamples(3, 100)) == pytest.approx((0.5, 0.5, 0.5))


def test_a_difference_is_paired_by_question() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 200).astype(float)
    draws = draw_resamples(200, 500)
    assert estimate_difference(first + 0.1, first, draws) == pytest.approx((0.1, 0.1, 0.1)), (
        "each question gains as much"
    )
    shuffled = rng.permutation(first)
    found = estimate_difference(shuffled, first, draws)
    assert found.value == pytest.approx(0.0)
    assert found.low < -0.05 < 0.05 < found.high
    several = np.stack([first, first])  # seeds of one side only
    assert estimate_difference(several, first, draws) == pytest.approx((0.0, 0.0, 0.0))


def test_an_interval_is_on_one_side_of_0_or_holds_it() -> None:
    assert Estimate(0.2, 0.1, 0.3).is_positive and not Estimate(0.2, 0.0, 0.3).is_positive
    assert Estimate(-0.2, -0.3, -0.1).is_negative and not Estimate(-0.2, -0.3, 0.0).is_negative


def test_wilson_by_hand() -> None:
    # 8 of 10: center (0.8 + z^2 / 20) / (1 + z^2 / 10), half width from the same formula (Wilson, 1927).
    found = wilson(8, 10)
    assert found.value == 0.8
    assert found.low == pytest.approx(0.4902, abs=1e-4)
    assert found.high == pytest.approx(0.9433, abs=1e-4)


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (1, 1), (0, 1)])
def test_wilson_stays_inside(right: int, count: int) -> None:
    found = wilson(right, count)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0


@pytest.mark.parametrize(("right", "count"), [(1, 0), (3, 2), (-1, 2)])
def test_wilson_of_nothing_is_refused(right: int, count: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= right <= count"):
        wilson(right, count)


def test_large_benchmarks_get_fewer_draws() -> None:
    assert resamples_of(200).shape == (10_000, 200)
    assert resamples_of(4042).shape == (4_000_000 // 4042, 4042)
    assert resamples_of(9000).shape == (500, 9000)
    resamples_of.cache_clear()
