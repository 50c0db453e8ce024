"""Bootstrap estimates of evaluations: joint answer and box counts, gold boxes found, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from hart_studio.evaluation.accuracy import group_of, is_scored, split_records
from hart_studio.evaluation.joint import (
    count_joint,
    estimate_information,
    estimate_information_gain,
    estimate_wrong_box,
)
from hart_studio.evaluation.records import SampleResult
from hart_studio.evaluation.statistics import (
    RESAMPLES,
    Estimate,
    FloatArray,
    draw_resamples,
    estimate,
)
from hart_studio.records import Protocol

_MAX_COUNTS: Final = 4_000_000
"""Memory for the counts of all draws, 32 MB: large benchmarks get fewer draws, so their bounds are less precise."""
_MIN_RESAMPLES: Final = 500
"""Minimum number of draws."""


class Joint(NamedTuple):
    """Joint answer and box counts of one evaluation under one protocol."""

    counts: tuple[int, int, int, int]
    """Counts of questions in the order of ``joint.CONTINGENCY_CELLS``."""
    wrong_box: Estimate | None
    """P(wrong box | right answer); None without a right answer."""
    information: Estimate
    """I(L; R) in bits."""

    @property
    def questions(self) -> int:
        """Number of questions with gold boxes, a grounding turn and a scored answer."""
        return sum(self.counts)


class Difference(NamedTuple):
    """Difference of a metric between two evaluations on their common questions."""

    gain: Estimate
    """First minus second, paired by question."""
    questions: int
    """Number of common questions, counting repetitions."""
    others: int = 0
    """Excluded questions with equal ids but different text, choices or gold boxes."""


@lru_cache(maxsize=4)
def resamples_of(questions: int) -> FloatArray:
    """Bootstrap draws ``[R, n]``: fewer draws for more questions, deterministic."""
    return draw_resamples(questions, max(_MIN_RESAMPLES, min(RESAMPLES, _MAX_COUNTS // questions)))


def measure_joint(records: Sequence[SampleResult], protocol: Protocol) -> Joint | None:
    """Measure answers and boxes jointly, over questions with gold boxes, a grounding turn and a scored answer.

    None if there is no such question.
    """
    found = [record for record in records if record.gold_matches and is_scored(record, protocol)]
    if not found:
        return None
    right, grounded = _answers(found, protocol), _grounded(found)
    draws = resamples_of(len(found))
    first, second, third, fourth = (int(count) for count in count_joint(right > 0, grounded)[0])
    return Joint(
        (first, second, third, fourth),
        estimate_wrong_box(right > 0, grounded, draws),
        estimate_information(right > 0, grounded, draws),
    )


def measure_information_gain(records: Sequence[SampleResult]) -> Difference | None:
    """I(L; R) of crops-only answers minus that of direct ones (Proposition 1), over questions scored under both.

    None if there is no such question.
    """
    found = [
        record
        for record in records
        if record.gold_matches and is_scored(record, "crops_only") and is_scored(record, "direct")
    ]
    if not found:
        return None
    crops, direct = _answers(found, "crops_only") > 0, _answers(found, "direct") > 0
    gain = estimate_information_gain(crops, direct, _grounded(found), resamples_of(len(found)))
    return Difference(gain, len(found))


def estimate_found(records: Sequence[SampleResult]) -> Estimate | None:
    """Share of all gold boxes that are found, with its interval over questions; None without gold boxes.

    Boxes of one question depend on each other, so whole questions are resampled.
    """
    found = [record for record in records if record.gold_matches]
    if not found:
        return None
    hits = np.array([sum(gold.is_found for gold in record.gold_matches) for record in found], dtype=np.float64)
    boxes = np.array([len(record.gold_matches) for record in found], dtype=np.float64)
    draws = resamples_of(len(found))
    return estimate(float(hits.sum() / boxes.sum()), (draws @ hits) / (draws @ boxes))


def compare_answers(
    first: Sequence[SampleResult], second: Sequence[SampleResult], protocol: Protocol
) -> Difference | None:
    """Difference in accuracy over questions that both evaluations have scored; None without any.

    Questions are the same if id, text, choices and gold boxes are equal. A question that is asked several times on the
    same image, as in HR-Bench, is resampled with all its answers.
    """
    return _compare(first, second, lambda record: record.value(protocol), lambda record: is_scored(record, protocol))


def compare_grounding(first: Sequence[SampleResult], second: Sequence[SampleResult]) -> Difference | None:
    """Difference in the share of found gold boxes per question, mean over common questions with gold boxes.

    Paired and resampled like ``compare_answers``.
    """
    return _compare(first, second, lambda record: record.found_share, lambda record: bool(record.gold_matches))


def _compare(
    first: Sequence[SampleResult],
    second: Sequence[SampleResult],
    read: Callable[[SampleResult], float],
    counts: Callable[[SampleResult], bool],
) -> Difference | None:
    partners = {record.sample_id: record for record in second if counts(record)}
    shared = [record for record in first if record.sample_id in partners and counts(record)]
    common = [record for record in shared if _is_same(record, partners[record.sample_id])]
    if not common:
        return None
    groups = split_records(common, group_of).values()
    gains = np.array([sum(read(each) - read(partners[each.sample_id]) for each in group) for group in groups])
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    draws = resamples_of(len(groups))
    gain = estimate(float(gains.sum() / sizes.sum()), (draws @ gains) / (draws @ sizes))
    return Difference(gain, len(common), len(shared) - len(common))


def _is_same(first: SampleResult, second: SampleResult) -> bool:
    # An id may be a row number, which differs between versions of a benchmark.
    return (first.question, first.choices, first.gold_boxes) == (second.question, second.choices, second.gold_boxes)


def _answers(records: Sequence[SampleResult], protocol: Protocol) -> FloatArray:
    return np.array([[record.value(protocol) for record in records]], dtype=np.float64)


def _grounded(records: Sequence[SampleResult]) -> FloatArray:
    return np.array([[record.is_grounded for record in records]], dtype=np.float64)
