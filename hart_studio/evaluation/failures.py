"""What became of a question, and which questions are worth looking at first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from hart_studio.evaluation.records import Measured
from hart_studio.records import Protocol

Ending = Literal[
    "right answer, wrong box",
    "wrong answer, right box",
    "wrong answer, wrong box",
    "no usable box",
    "wrong answer",
    "unscored",
    "right answer",
    "right answer, right box",
]
"""How a question ended under a protocol. A bare answer: the question has no gold box, or nobody pointed.
``no usable box``: the answer is wrong and there is no box that could be right."""

ENDINGS: Final[tuple[Ending, ...]] = (
    "right answer, wrong box",
    "wrong answer, right box",
    "wrong answer, wrong box",
    "no usable box",
    "wrong answer",
    "unscored",
    "right answer",
    "right answer, right box",
)
"""What to look at first: a lucky answer, then what the box did not help with, then plain failures."""


def find_ending(record: Measured, protocol: Protocol) -> Ending:
    """How a question ended.

    The endings with a box count as Table 1 does: a right answer without any usable box is one on a wrong box.
    """
    judged = record.answers.get(protocol)
    if record.error or judged is None or judged.score.value is None:
        return "unscored"
    is_right = judged.score.value > 0
    if record.is_pointed and not record.boxes and not is_right:
        return "no usable box"
    if not record.golds:
        return "right answer" if is_right else "wrong answer"
    if is_right:
        return "right answer, right box" if record.is_grounded else "right answer, wrong box"
    return "wrong answer, right box" if record.is_grounded else "wrong answer, wrong box"


def count_endings(records: Iterable[Measured], protocol: Protocol) -> dict[Ending, int]:
    """Ending -> number of questions, for those that occur, in the order of ``ENDINGS``."""
    counts = Counter(find_ending(record, protocol) for record in records)
    return {ending: counts[ending] for ending in ENDINGS if counts[ending]}


def filter_records(
    records: Iterable[Measured],
    protocol: Protocol,
    *,
    endings: Sequence[Ending] = (),
    category: str = "",
    text: str = "",
) -> list[Measured]:
    """The questions that meet every condition, in order.

    Args:
        records: Questions.
        protocol: Protocol of the answers.
        endings: How they ended; empty = anyhow.
        category: Category, or the first levels of one; empty = any.
        text: Part of the question, of its id, or of the model's answer, whatever the case; empty = any.
    """
    wanted = text.casefold()
    return [
        record
        for record in records
        if (not endings or find_ending(record, protocol) in endings)
        and f"{record.category}/".startswith(f"{category}/" if category else "")
        and wanted in _searched(record, protocol)
    ]


def sort_records(records: Iterable[Measured], protocol: Protocol) -> list[Measured]:
    """The worst first: by ending, and within one the box that is furthest off; equal ones keep their order."""
    return sorted(records, key=lambda record: (ENDINGS.index(find_ending(record, protocol)), _overlap(record)))


def _overlap(record: Measured) -> float:
    return max((gold.iog for gold in record.golds), default=0.0) + (record.mean_iou if record.golds else 0.0)


def _searched(record: Measured, protocol: Protocol) -> str:
    judged = record.answers.get(protocol)
    return "\n".join((record.sample_id, record.question, judged.text if judged else "")).casefold()
