"""Score answers: the reward r in {0, 1} of the closed loop, and whether two answers agree.

Published results of a benchmark may use its own, more lenient extractor. Such an extractor is part of ``evaluation``,
for comparison only; it is never used as a reward.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from hart_studio.errors import InputError
from hart_studio.extraction import extract_choice, extract_open
from hart_studio.records import Score
from hart_studio.spelling import normalize_text


def score_answer(text: str, choices: Sequence[str], answer: str | None) -> Score:
    """Score the answer of a model: reward r in {0, 1} of the closed loop (docs/concept.md, Closed loop).

    Args:
        text: Raw model text.
        choices: Option texts; empty for an open question, which is scored by equality of normalized texts.
        answer: The letter of the option, or the expected text; None when unknown.

    Returns:
        The score: value 1.0 or 0.0, or None when ``answer`` is unknown. Text without an extracted answer is wrong.

    Raises:
        InputError: If ``answer`` cannot be matched: not a letter of the choices, or empty.
    """
    letters = string.ascii_uppercase[: len(choices)]
    value, rule = extract_choice(text, letters, choices) if choices else extract_open(text)
    if answer is None:
        return Score(value=None, extracted=value, expected=None, rule=rule)
    if choices and (len(answer) != 1 or answer not in letters):
        raise InputError(f"expected the answer to be one of the letters {letters}, got {answer!r}")
    expected = answer if choices else normalize_text(answer)
    if not expected:
        raise InputError("expected a non-empty answer; use None if it is unknown")
    return Score(value=float(value == expected), extracted=value, expected=answer, rule=rule)


def answers_agree(first: Score, second: Score) -> bool:
    """Whether two extracted answers are equal; a failed extraction agrees with nothing."""
    return first.extracted is not None and first.extracted == second.extracted
