"""Joint counts of answer and box (paper, Table 1), and their mutual information (Proposition 1).

Joint counts are arrays whose last axis has the four cells of ``CONTINGENCY_CELLS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hart_studio.evaluation.accuracy import is_scored
from hart_studio.evaluation.records import SampleResult
from hart_studio.evaluation.statistics import Difference, Estimate, FloatArray, estimate, resamples_of
from hart_studio.records import Protocol

CONTINGENCY_CELLS: Final = (
    "correct answer, wrong or no box",
    "correct answer, correct box",
    "wrong answer, wrong box",
    "wrong answer, correct box",
)
"""The four cells, in the order of the paper's Table 1."""


class Joint(NamedTuple):
    """Joint answer and box counts of one evaluation under one protocol."""

    counts: tuple[int, int, int, int]
    """Counts of questions in the order of ``CONTINGENCY_CELLS``."""
    wrong_box: Estimate | None
    """P(wrong box | correct answer); None without a correct answer."""
    information: Estimate
    """I(L; R) in bits."""

    @property
    def questions(self) -> int:
        """Number of questions with gold boxes, a grounding turn and a scored answer."""
        return sum(self.counts)


def count_joint(is_right: NDArray[Any], is_grounded: NDArray[Any], weights: FloatArray | None = None) -> FloatArray:
    """Joint counts of answer and box.

    Args:
        is_right: Whether each answer is right, ``[S, n]`` for S seeds and n questions.
        is_grounded: Whether each box is right, ``[S, n]``.
        weights: Count of each question per draw, ``[R, n]``; None = once each.

    Returns:
        Counts ``[S, 4]``, or ``[S, R, 4]`` with weights.
    """
    right, grounded = is_right.astype(bool), is_grounded.astype(bool)
    cells = np.stack([right & ~grounded, right & grounded, ~right & ~grounded, ~right & grounded], axis=-1)
    counts: FloatArray = cells.astype(np.float64)
    if weights is None:
        totals: FloatArray = counts.sum(axis=-2)
        return totals
    drawn: FloatArray = weights @ counts
    return drawn


def wrong_box_share(joint: FloatArray) -> FloatArray:
    """P(wrong box | correct answer); NaN where no answer is correct.

    Args:
        joint: Counts ``[..., 4]``.
    """
    right = joint[..., 0] + joint[..., 1]
    share: FloatArray = np.divide(joint[..., 0], right, out=np.full(right.shape, np.nan), where=right > 0)
    return share


def mutual_information(joint: FloatArray) -> FloatArray:
    """I(L; R) in bits between box and answer (paper, Proposition 1), plug-in estimate.

    It is biased upward by about 1 / (2 n ln 2) bits for n questions (0.0014 bits for 500), equally for all compared.

    Args:
        joint: Counts ``[..., 4]``, with at least one question.
    """
    table = joint.reshape(*joint.shape[:-1], 2, 2) / joint.sum(axis=-1)[..., None, None]
    expected = table.sum(axis=-1, keepdims=True) * table.sum(axis=-2, keepdims=True)
    logs = np.log2(np.divide(table, expected, out=np.ones_like(table), where=table > 0))
    information: FloatArray = (table * logs).sum(axis=(-2, -1))
    return np.maximum(information, 0.0)  # a rounding error below 0 is 0


def estimate_wrong_box(is_right: NDArray[Any], is_grounded: NDArray[Any], resamples: FloatArray) -> Estimate | None:
    """P(wrong box | correct answer), mean over seeds; None if a seed has no correct answer.

    Args:
        is_right: ``[S, n]``.
        is_grounded: ``[S, n]``.
        resamples: From ``statistics.draw_resamples``.
    """
    share = wrong_box_share(count_joint(is_right, is_grounded))
    if np.isnan(share).any():
        return None
    draws = wrong_box_share(count_joint(is_right, is_grounded, resamples)).mean(axis=0)
    return estimate(float(share.mean()), draws)


def draw_information(is_right: NDArray[Any], is_grounded: NDArray[Any], resamples: FloatArray) -> FloatArray:
    """I(L; R) of every draw, mean over seeds: ``[R]``; arguments as for ``estimate_wrong_box``."""
    mean: FloatArray = mutual_information(count_joint(is_right, is_grounded, resamples)).mean(axis=0)
    return mean


def estimate_information(is_right: NDArray[Any], is_grounded: NDArray[Any], resamples: FloatArray) -> Estimate:
    """I(L; R) in bits, mean over seeds; arguments as for ``estimate_wrong_box``."""
    value = mutual_information(count_joint(is_right, is_grounded)).mean()
    return estimate(float(value), draw_information(is_right, is_grounded, resamples))


def estimate_information_difference(
    first: NDArray[Any], second: NDArray[Any], is_grounded: NDArray[Any], resamples: FloatArray
) -> Estimate:
    """Difference in I(L; R) between the first and the second answers, paired by question.

    Args:
        first: Whether the answers under one protocol are right, ``[S, n]``.
        second: The same under another protocol.
        is_grounded: ``[S, n]``; both protocols share the grounding turn.
        resamples: From ``statistics.draw_resamples``.
    """
    value = mutual_information(count_joint(first, is_grounded)) - mutual_information(count_joint(second, is_grounded))
    draws = draw_information(first, is_grounded, resamples) - draw_information(second, is_grounded, resamples)
    return estimate(float(value.mean()), draws)


def measure_joint(records: Sequence[SampleResult], protocol: Protocol) -> Joint | None:
    """Measure answers and boxes jointly, over questions with gold boxes, a grounding turn and a scored answer.

    None if there is no such question.
    """
    found = _scored_and_grounded(records, protocol)
    if not found:
        return None
    right, grounded, draws = _is_right(found, protocol), _is_grounded(found), resamples_of(len(found))
    first, second, third, fourth = (int(count) for count in count_joint(right, grounded)[0])
    return Joint(
        (first, second, third, fourth),
        estimate_wrong_box(right, grounded, draws),
        estimate_information(right, grounded, draws),
    )


def measure_information_difference(records: Sequence[SampleResult]) -> Difference | None:
    """I(L; R) of crops-only answers minus that of direct ones (Proposition 1), over questions scored under both.

    None if there is no such question.
    """
    found = _scored_and_grounded(records, "crops_only", "direct")
    if not found:
        return None
    crops, direct = _is_right(found, "crops_only"), _is_right(found, "direct")
    return Difference(
        estimate_information_difference(crops, direct, _is_grounded(found), resamples_of(len(found))), len(found)
    )


def _scored_and_grounded(records: Sequence[SampleResult], *protocols: Protocol) -> list[SampleResult]:
    return [each for each in records if each.gold_matches and all(is_scored(each, protocol) for protocol in protocols)]


def _is_right(records: Sequence[SampleResult], protocol: Protocol) -> NDArray[Any]:
    return np.array([[record.value(protocol) > 0 for record in records]])


def _is_grounded(records: Sequence[SampleResult]) -> NDArray[Any]:
    return np.array([[record.is_grounded for record in records]])
