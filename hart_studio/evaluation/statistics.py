"""Spread over seeds, and bootstrap intervals over questions.

The percentile bootstrap resamples questions, not seeds: an interval covers the choice of questions, the standard
deviation covers the seed. All metrics of a study use the same draws, so the interval of a difference is paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

RESAMPLES: Final = 10_000
"""Number of bootstrap draws. Project default."""
_MIN_RESAMPLES: Final = 500
_MAX_COUNTS: Final = 4_000_000
"""Memory for the counts of all draws, 32 MB: large benchmarks get fewer draws, so their bounds are less precise."""
CONFIDENCE_LEVEL: Final = 95.0
"""Coverage of an interval, percent."""
_Z: Final = 1.959963984540054  # the normal quantile of that coverage

ONE_SIDED_Z: Final = 1.6448536269514722
"""95 % normal quantile: the lower end of such an interval is a one-sided 95 % bound."""


class Spread(NamedTuple):
    """Mean and standard deviation over seeds."""

    mean: float
    """Mean."""
    deviation: float | None
    """Standard deviation with Bessel's correction; None for one seed."""
    seeds: int
    """Number of seeds."""


class Estimate(NamedTuple):
    """A value with its bootstrap interval over questions."""

    value: float
    """Value over all questions."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""

    @property
    def is_positive(self) -> bool:
        """Whether the interval is above 0."""
        return self.low > 0

    @property
    def is_negative(self) -> bool:
        """Whether the interval is below 0."""
        return self.high < 0


class Difference(NamedTuple):
    """Difference of a metric between two sets of answers to common questions."""

    gain: Estimate
    """First minus second, paired by question."""
    questions: int
    """Number of common questions, counting repetitions."""
    others: int = 0
    """Excluded questions with equal ids but different text, choices or gold boxes."""


def spread(values: Sequence[float]) -> Spread:
    """Compute mean and standard deviation.

    Raises:
        ValueError: Without values.
    """
    if not values:
        raise ValueError("expected at least one value, got none")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def draw_resamples(questions: int, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """Draw bootstrap resamples: how often each draw takes each question.

    Args:
        questions: Number of questions, n.
        resamples: Number of draws, R.
        seed: Seed of the draws.

    Returns:
        Counts ``[R, n]``; every row sums to n.

    Raises:
        ValueError: Without questions.
    """
    if questions < 1:
        raise ValueError("expected at least one question, got none")
    rng = np.random.default_rng(seed)
    return rng.multinomial(questions, np.full(questions, 1 / questions), size=resamples).astype(np.float64)


@lru_cache(maxsize=4)
def resamples_of(questions: int) -> FloatArray:
    """Bootstrap draws of an evaluation, ``[R, n]``: fewer draws for more questions, deterministic."""
    return draw_resamples(questions, max(_MIN_RESAMPLES, min(RESAMPLES, _MAX_COUNTS // questions)))


def estimate(value: float, draws: FloatArray) -> Estimate:
    """Compute the percentile interval of a metric.

    Args:
        value: Metric over all questions.
        draws: Metric per draw ``[R]``; NaN where undefined, which is ignored.
    """
    tail = (100 - CONFIDENCE_LEVEL) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


def estimate_mean(values: NDArray[Any], resamples: FloatArray) -> Estimate:
    """Estimate the mean over questions, and over seeds if there are several.

    Args:
        values: ``[n]`` or ``[S, n]``: one value per question, and per seed.
        resamples: From ``draw_resamples``.
    """
    per_question = values.reshape(-1, values.shape[-1]).mean(axis=0)
    return estimate(float(per_question.mean()), resamples @ per_question / values.shape[-1])


def estimate_difference(first: NDArray[Any], second: NDArray[Any], resamples: FloatArray) -> Estimate:
    """Estimate the difference of two means, paired by question.

    Args:
        first: ``[n]`` or ``[S, n]``.
        second: Same questions in the same order; the number of seeds may differ.
        resamples: From ``draw_resamples``.
    """
    means = [values.reshape(-1, values.shape[-1]).mean(axis=0) for values in (first, second)]
    return estimate_mean(means[0] - means[1], resamples)


def wilson(right: int, count: int, z: float = _Z) -> Estimate:
    """Estimate a share with its Wilson score interval, which stays in [0, 1] and suits small counts.

    Args:
        right: Number of successes.
        count: Number of trials, at least 1.
        z: Normal quantile; the default gives a two-sided 95 % interval.

    Raises:
        ValueError: Without trials, or with more successes than trials.
    """
    if not 0 <= right <= count or count < 1:
        raise ValueError(f"expected 0 <= right <= count and a count of at least 1, got {right} of {count}")
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))
