"""Spread over seeds, and bootstrap intervals over questions.

The percentile bootstrap draws questions, not seeds: an interval says how far a figure depends on which questions were
asked, the standard deviation how far it depends on the seed. All figures of one study are resampled with the same
draws, so the interval of a difference is a paired one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

RESAMPLES: Final = 10_000
"""Draws of a bootstrap. Project default."""
COVERAGE: Final = 95.0
"""Percent of the draws inside an interval."""
_Z: Final = 1.959963984540054  # the normal quantile of that coverage

ONE_SIDED_Z: Final = 1.6448536269514722
"""Normal quantile of 95 %: the lower end of an interval with it is a one-sided 95 % bound."""


class Spread(NamedTuple):
    """A figure over seeds."""

    mean: float
    """Mean."""
    deviation: float | None
    """Standard deviation with Bessel's correction; None for one seed."""
    seeds: int
    """Number of seeds."""


class Estimate(NamedTuple):
    """A figure with its bootstrap interval over questions."""

    value: float
    """The figure itself."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    @property
    def is_negative(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.high < 0


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation.

    Raises:
        ValueError: If there is no value.
    """
    if not values:
        raise ValueError("expected at least one value, got none")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def draw_resamples(questions: int, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """How often each draw takes each question.

    Args:
        questions: Number of questions, n.
        resamples: Number of draws, R.
        seed: Seed of the draws.

    Returns:
        Counts ``[R, n]``; every row sums to n.

    Raises:
        ValueError: If there is no question.
    """
    if questions < 1:
        raise ValueError("expected at least one question, got none")
    rng = np.random.default_rng(seed)
    return rng.multinomial(questions, np.full(questions, 1 / questions), size=resamples).astype(np.float64)


def estimate(value: float, draws: FloatArray) -> Estimate:
    """The percentile interval of a figure.

    Args:
        value: The figure from all questions.
        draws: The figure from each draw ``[R]``; draws in which it is not defined are NaN and left out.
    """
    tail = (100 - COVERAGE) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


def estimate_mean(values: NDArray[Any], resamples: FloatArray) -> Estimate:
    """The mean over questions, and over seeds when there are several.

    Args:
        values: ``[n]`` or ``[S, n]``: one value per question, and per seed.
        resamples: From ``draw_resamples``.
    """
    per_question = values.reshape(-1, values.shape[-1]).mean(axis=0)
    return estimate(float(per_question.mean()), resamples @ per_question / values.shape[-1])


def estimate_difference(first: NDArray[Any], second: NDArray[Any], resamples: FloatArray) -> Estimate:
    """How much greater the first mean is, paired by question.

    Args:
        first: ``[n]`` or ``[S, n]``.
        second: Likewise; it may have another number of seeds, but must have the same questions in the same order.
        resamples: From ``draw_resamples``.
    """
    means = [values.reshape(-1, values.shape[-1]).mean(axis=0) for values in (first, second)]
    return estimate_mean(means[0] - means[1], resamples)


def wilson(right: int, count: int, z: float = _Z) -> Estimate:
    """A share with its Wilson score interval, which stays inside [0, 1] and is honest for small counts.

    Args:
        right: Number of successes.
        count: Number of trials, at least 1.
        z: Normal quantile; the default gives a two-sided 95 % interval.

    Raises:
        ValueError: If there is no trial, or more successes than trials.
    """
    if not 0 <= right <= count or count < 1:
        raise ValueError(f"expected 0 <= right <= count and a count of at least 1, got {right} of {count}")
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))
