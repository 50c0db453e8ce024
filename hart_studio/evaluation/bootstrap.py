"""Bootstrap figures of evaluations: answer and box together, gold boxes found, and differences of two evaluations."""

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
"""Draws that any benchmark gets."""


class Joint(NamedTuple):
    """Answers and boxes of one evaluation under one protocol."""

    counts: tuple[int, int, int, int]
    """Questions in the order of ``joint.CONTINGENCY_CELLS``."""
    wrong_box: Estimate | None
    """P(wrong box | right answer); None without a right answer."""
    information: Estimate
    """I(L; R) in bits."""

    @property
    def questions(self) -> int:
        """Questions with gold boxes, a grounding turn and a scored answer."""
        return sum(self.counts)


class Difference(NamedTuple):
    """How much greater a figure of one evaluation is than that of another, on their common questions."""

    gain: Estimate
    """First minus second, paired by question."""
    questions: int
    """Questions that both have, each time that they are asked."""
    others: int = 0
    """Left out: questions that share no more than their id, for the text, the choices or the gold boxes differ."""


@lru_cache(maxsize=4)
def resamples_of(questions: int) -> FloatArray:
    """Draws for so many questions, ``[R, n]``: fewer draws for more questions, always the same ones."""
    return draw_resamples(questions, max(_MIN_RESAMPLES, min(RESAMPLES, _MAX_COUNTS // questions)))


def measure_joint(records: Sequence[SampleResult], protocol: Protocol) -> Joint | None:
    """Answers and boxes together, over questions with gold boxes, a grounding turn and a scored answer.

    None when there is no such question.
    """
    found = [record for record in records if record.golds and is_scored(record, protocol)]
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

    None when there is no such question.
    """
    found = [
        record for record in records if record.golds and is_scored(record, "crops_only") and is_scored(record, "direct")
    ]
    if not found:
        return None
    crops, direct = _answers(found, "crops_only") > 0, _answers(found, "direct") > 0
    gain = estimate_information_gain(crops, direct, _grounded(found), resamples_of(len(found)))
    return Difference(gain, len(found))


def estimate_found(records: Sequence[SampleResult]) -> Estimate | None:
    """Share of all gold boxes that are found, with its interval over questions; None without gold boxes.

    Boxes of one question depend on each other, so questions are drawn with all their boxes.
    """
    found = [record for record in records if record.golds]
    if not found:
        return None
    hits = np.array([sum(gold.is_found for gold in record.golds) for record in found], dtype=np.float64)
    boxes = np.array([len(record.golds) for record in found], dtype=np.float64)
    draws = resamples_of(len(found))
    return estimate(float(hits.sum() / boxes.sum()), (draws @ hits) / (draws @ boxes))


def compare_answers(
    first: Sequence[SampleResult], second: Sequence[SampleResult], protocol: Protocol
) -> Difference | None:
    """How much more accurate the first evaluation is, over questions that both have scored; None without any.

    Questions are the same when id, text, choices and gold boxes are. One that is asked several times on the same
    image, as by HR-Bench, is drawn with all its answers.
    """
    return _compare(first, second, lambda record: record.value(protocol), lambda record: is_scored(record, protocol))


def compare_grounding(first: Sequence[SampleResult], second: Sequence[SampleResult]) -> Difference | None:
    """How many more of a question's gold boxes the first evaluation finds, mean over common questions with boxes.

    Paired and drawn as by ``compare_answers``.
    """
    return _compare(first, second, lambda record: record.found_share, lambda record: bool(record.golds))


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
    # An id may be a row number, which another version of the benchmark gives to another question.
    return (first.question, first.choices, first.gold_boxes) == (second.question, second.choices, second.gold_boxes)


def _answers(records: Sequence[SampleResult], protocol: Protocol) -> FloatArray:
    return np.array([[record.value(protocol) for record in records]], dtype=np.float64)


def _grounded(records: Sequence[SampleResult]) -> FloatArray:
    return np.array([[record.is_grounded for record in records]], dtype=np.float64)
