"""Evidence of a right answer: probability of guessing it, and whether the model needs the region for it."""

from __future__ import annotations

from typing import Final, NamedTuple

from hart_studio.formatting import format_percent

HIGH_GUESS_PROBABILITY: Final = 0.05
"""Minimum probability of guessing at which a single right answer does not prove a region. Project default."""


class CorrectAnswer(NamedTuple):
    """Description of a right answer."""

    text: str
    """Text to show instead of "Right"."""
    is_proof: bool
    """Whether the answer proves that the region supports it."""


def guess_probability(option_count: int) -> float | None:
    """Probability that a random option is the right one, in (0, 1]; None for an open question.

    Args:
        option_count: Number of options; 0 for an open question.
    """
    return 1 / option_count if option_count else None


def describe_correct_answer(option_count: int, necessity: bool | None, *, is_from_crop: bool) -> CorrectAnswer:
    """Describe a correct answer and the limits of its evidence.

    Args:
        option_count: Number of options; 0 for an open question.
        necessity: Whether masking the region makes the answer from the full image wrong (``Verification.necessity``);
            None if unknown.
        is_from_crop: Whether it is the answer from crops only.
    """
    chance = guess_probability(option_count)
    limits = [] if chance is None else [f"{format_percent(chance, 0)} by random guess"]
    is_proof = chance is None or chance < HIGH_GUESS_PROBABILITY
    if is_from_crop and necessity is False:
        limits.append("the same answer with the region masked")
        is_proof = False
    text = "Correct from the crop" if is_from_crop else "Correct"
    return CorrectAnswer(f"{text} ({', '.join(limits)})" if limits else text, is_proof)
