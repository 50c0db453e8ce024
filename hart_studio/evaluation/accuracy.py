"""Accuracy over scored questions with standard errors, and paired differences between two evaluations."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev
from typing import Final, Literal, NamedTuple

import numpy as np

from hart_studio.errors import DataError
from hart_studio.evaluation.records import AnswerResult, SampleResult
from hart_studio.evaluation.statistics import Difference, estimate, resamples_of
from hart_studio.records import Protocol, Score

Extractor = Literal["strict", "official"]
"""Extractor of the answer: the project's strict one, or the benchmark's own."""

NO_ANSWER_TURN: Final = "no_answer_turn"
"""Rule of a rollout without a valid box; see ``pipeline.turns.score_without_answer``."""


class Accuracy(NamedTuple):
    """Counts of correct answers, and of those that could not be scored."""

    right: float
    """Sum of the scores."""
    scored: int
    """Scored questions: denominator of the share."""
    unscored: int
    """Unscored questions; never counted as wrong."""
    fallbacks: int
    """Scored answers that came from the full image because no box was valid."""

    @property
    def share(self) -> float | None:
        """Share of correct answers among the scored ones; None if there are none."""
        return self.right / self.scored if self.scored else None

    @property
    def stderr(self) -> float | None:
        """Binomial standard error of the share, sqrt(p (1 - p) / n); None without scored answers."""
        share = self.share
        return None if share is None else math.sqrt(max(0.0, share * (1 - share)) / self.scored)


def find_score(record: SampleResult, protocol: Protocol, extractor: Extractor = "strict") -> Score | None:
    """Score of a question; None if it was not asked, could not be run, or has no such extractor."""
    answer_result = record.answers.get(protocol)
    if answer_result is None:
        return None
    return answer_result.score if extractor == "strict" else answer_result.official


def is_scored(record: SampleResult, protocol: Protocol) -> bool:
    """Whether the answer has a score; an answer that cannot be read counts as wrong."""
    score = find_score(record, protocol)
    return score is not None and score.value is not None


def count_accuracy(records: Iterable[SampleResult], protocol: Protocol, extractor: Extractor = "strict") -> Accuracy:
    """Count correct answers."""
    right, scored, unscored, fallbacks = 0.0, 0, 0, 0
    for record in records:
        score = find_score(record, protocol, extractor)
        if score is None or score.value is None:
            unscored += 1
            continue
        right += score.value
        scored += 1
        fallbacks += record.answers[protocol].used_fallback
    return Accuracy(right, scored, unscored, fallbacks)


def count_rules(records: Iterable[SampleResult], protocol: Protocol, extractor: Extractor = "strict") -> Counter[str]:
    """Count how often each rule of an extractor fired, over answers that all extractors could score.

    A rollout without an answer turn counts as ``NO_ANSWER_TURN`` for every extractor.
    """
    rules: Counter[str] = Counter()
    for record in records:
        score = find_score(record, protocol, extractor)
        if score is None or record.error or not _is_scored_by(record.answers[protocol]):
            continue
        answer_result = record.answers[protocol]
        is_silent = not answer_result.text and answer_result.score.rule == NO_ANSWER_TURN
        rules[NO_ANSWER_TURN if is_silent else score.rule] += 1
    return rules


def group_of(record: SampleResult) -> str:
    """Key shared by the repetitions of a question: its image and text."""
    return f"{record.image}\n{record.question}"


def split_records(records: Iterable[SampleResult], key: Callable[[SampleResult], str]) -> dict[str, list[SampleResult]]:
    """Group records by a key, in order of first appearance."""
    parts: dict[str, list[SampleResult]] = defaultdict(list)
    for record in records:
        parts[key(record)].append(record)
    return dict(parts)


def count_parts(
    records: Iterable[SampleResult], protocol: Protocol, key: Callable[[SampleResult], str], names: Iterable[str]
) -> list[Accuracy]:
    """Count correct answers in the parts of these keys, in their order; a part may be empty."""
    parts = split_records(records, key)
    return [count_accuracy(parts.get(name, ()), protocol) for name in names]


def category_at(record: SampleResult, depth: int) -> str:
    """First ``depth`` levels of the category, joined by ``/``."""
    return "/".join(record.category.split("/")[:depth])


def cycle_of(record: SampleResult) -> str:
    """Cycle of the options of an HR-Bench question, the last level of its category."""
    return record.category.rpartition("/")[2]


def weighted_mean(parts: Sequence[tuple[float, int]]) -> float | None:
    """Overall metric of the paper's Tables 2 and 3: the mean over sub-tasks, weighted by questions.

    ``parts`` are the metric and the number of questions of each sub-task. None without questions.
    """
    questions = sum(count for _, count in parts)
    return math.fsum(value * count for value, count in parts) / questions if questions else None


def overall(parts: Iterable[Accuracy]) -> float | None:
    """Weighted mean of sub-tasks; for measured ones the share of correct answers among all scored ones."""
    return weighted_mean([(part.share, part.scored) for part in parts if part.share is not None])


def macro_mean(parts: Iterable[Accuracy]) -> float | None:
    """Unweighted mean over parts; parts without a scored answer are excluded."""
    shares = [part.share for part in parts if part.share is not None]
    return fmean(shares) if shares else None


def cycle_mean(records: Sequence[SampleResult], protocol: Protocol) -> float | None:
    """HR-Bench metric: unweighted mean over the cycles of the options.

    Raises:
        DataError: If all cycles have the same number of scored answers, and the mean differs from that of all answers.
    """
    cycles = [count_accuracy(part, protocol) for part in split_records(records, cycle_of).values()]
    mean, micro = macro_mean(cycles), overall(cycles)
    is_even = len({cycle.scored for cycle in cycles}) == 1
    if is_even and mean is not None and micro is not None and not math.isclose(mean, micro, abs_tol=1e-9):
        raise DataError(
            f"All cycles have equally many scored answers, but the mean over cycles ({mean}) differs from that over "
            f"answers ({micro}). Please report this bug."
        )
    return mean


def clustered_stderr(
    records: Iterable[SampleResult], protocol: Protocol, extractor: Extractor = "strict"
) -> float | None:
    """Standard error of a mean over questions that are asked several times with different option orders.

    Answers to one question depend on each other, so the error is computed over questions: standard deviation of the
    question means over the root of their number. Wordings on the same image count as one question. None for fewer than
    two questions.
    """
    questions: dict[str, list[float]] = defaultdict(list)
    for record in records:
        score = find_score(record, protocol, extractor)
        if score is not None and score.value is not None:
            questions[group_of(record)].append(score.value)
    means = [fmean(values) for values in questions.values()]
    return stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None


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


def _is_scored_by(answer_result: AnswerResult) -> bool:
    scores = (answer_result.score, answer_result.official)
    return answer_result.outcome != "error" and all(score is None or score.value is not None for score in scores)
