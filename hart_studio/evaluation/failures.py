"""Outcome of each question, and the order in which to review failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from hart_studio.evaluation.records import SampleResult
from hart_studio.records import Protocol

Verdict = Literal[
    "right answer, wrong box",
    "wrong answer, right box",
    "wrong answer, wrong box",
    "no valid box",
    "wrong answer",
    "unscored",
    "right answer",
    "right answer, right box",
]
"""Verdict of a question under a protocol. Without a box part: the question has no gold box or no grounding turn.
``no valid box``: the answer is wrong and there is no valid box."""

VERDICTS: Final[tuple[Verdict, ...]] = (
    "right answer, wrong box",
    "wrong answer, right box",
    "wrong answer, wrong box",
    "no valid box",
    "wrong answer",
    "unscored",
    "right answer",
    "right answer, right box",
)
"""Review order: correct answers with wrong boxes first, then questions where the box did not help, then
other failures."""


def get_verdict(record: SampleResult, protocol: Protocol) -> Verdict:
    """Return the verdict of a question.

    As in Table 1, a right answer without a valid box counts as a right answer with a wrong box.
    """
    answer_result = record.answers.get(protocol)
    if record.error or answer_result is None or answer_result.score.value is None:
        return "unscored"
    is_right = answer_result.score.value > 0
    if record.has_grounding_turn and not record.boxes and not is_right:
        return "no valid box"
    if not record.gold_matches:
        return "right answer" if is_right else "wrong answer"
    if is_right:
        return "right answer, right box" if record.is_grounded else "right answer, wrong box"
    return "wrong answer, right box" if record.is_grounded else "wrong answer, wrong box"


def count_verdicts(records: Iterable[SampleResult], protocol: Protocol) -> dict[Verdict, int]:
    """Verdict -> number of questions, for those that occur, in the order of ``VERDICTS``."""
    counts = Counter(get_verdict(record, protocol) for record in records)
    return {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}


def filter_records(
    records: Iterable[SampleResult],
    protocol: Protocol,
    *,
    verdicts: Sequence[Verdict] = (),
    category: str = "",
    text: str = "",
) -> list[SampleResult]:
    """Filter questions by all given conditions, in order.

    Args:
        records: Records of questions.
        protocol: Protocol of the answers.
        verdicts: Allowed verdicts; empty = all.
        category: Category, or the first levels of one; empty = any.
        text: Part of the question, its id, or the model's answer, ignoring case; empty = any.
    """
    wanted = text.casefold()
    return [
        record
        for record in records
        if (not verdicts or get_verdict(record, protocol) in verdicts)
        and f"{record.category}/".startswith(f"{category}/" if category else "")
        and wanted in _searched(record, protocol)
    ]


def sort_records(records: Iterable[SampleResult], protocol: Protocol) -> list[SampleResult]:
    """Sort worst first: by verdict, then by IoU; stable."""
    return sorted(records, key=lambda record: (VERDICTS.index(get_verdict(record, protocol)), _overlap(record)))


def _overlap(record: SampleResult) -> float:
    return max((gold.iog for gold in record.gold_matches), default=0.0) + (
        record.mean_iou if record.gold_matches else 0.0
    )


def _searched(record: SampleResult, protocol: Protocol) -> str:
    answer_result = record.answers.get(protocol)
    return "\n".join((record.sample_id, record.question, answer_result.text if answer_result else "")).casefold()
