"""Prompts. The two instructions are the paper's, verbatim (Sec. 4.2); the rest is a project default.

A prompt is a tuple of parts: text, or ``IMAGE`` as the placeholder of an image. Explicit placeholders let
the crops be placed inside the second instruction, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

GROUNDING_INSTRUCTION: Final = "Output the coordinates of the key image area relevant to the problem"
"""Instruction of the grounding turn, ``[I_f, q]`` follows (paper, Sec. 4.2)."""

CROPS_ONLY_BEFORE: Final = (
    "You were supposed to answer a question based on a full image, but now the full image is not visible. "
    "You can only see some sub-regions "
)
"""The answer instruction up to the crops ``[I_s]`` (paper, Sec. 4.2)."""

CROPS_ONLY_AFTER: Final = " relevant to the problem. Answer the following question: "
"""The answer instruction between the crops and the question (paper, Sec. 4.2)."""

CHOICE_HINT: Final = "Put the letter of the right option in \\boxed{}."
"""Output format of the letter, for strict extraction. Project default."""

FULL_AND_CROPS: Final = "The regions at full resolution: "
"""Start of the second turn that keeps the full image (method, protocol full_and_crops). Project default."""


OPTION_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Letters of the options, in order."""


class _ImagePlaceholder:
    """Placeholder of an image in a prompt."""

    def __repr__(self) -> str:
        return "<image>"


IMAGE: Final = _ImagePlaceholder()
PromptPart = str | _ImagePlaceholder


def question_with_choices(question: str, choices: Sequence[str]) -> str:
    r"""Question with its options, for the answer turn.

    Args:
        question: The question.
        choices: Option texts without letters; empty for an open question.

    Returns:
        The question alone, or followed by one ``(A) text`` line per option and the ``\boxed{}`` hint.
    """
    if not choices:
        return question
    options = "".join(f"\n({letter}) {text}" for letter, text in zip(OPTION_LETTERS, choices, strict=False))
    return f"{question}{options}\n{CHOICE_HINT}"


def grounding_prompt(question: str) -> tuple[PromptPart, ...]:
    """Turn 1: the overview, then the paper's instruction and the question without its choices.

    Omitting the options is a project default, as in MGPO; the paper does not state it.
    """
    return (IMAGE, f"{GROUNDING_INSTRUCTION}\n{question}")


def direct_prompt(question: str, choices: Sequence[str]) -> tuple[PromptPart, ...]:
    """The only turn of ``direct``: the overview and the question."""
    return (IMAGE, question_with_choices(question, choices))


def crops_only_prompt(question: str, choices: Sequence[str], crop_count: int) -> tuple[PromptPart, ...]:
    """Turn 2 of HART, a NEW conversation: only the crops are visible (paper, Sec. 4.2).

    Raises:
        ValueError: If ``crop_count`` is below 1: an answer turn needs a crop.
    """
    if crop_count < 1:
        raise ValueError(
            f"expected at least 1 crop, got {crop_count}; a rollout without a valid box has no answer turn"
        )
    return (CROPS_ONLY_BEFORE, *([IMAGE] * crop_count), CROPS_ONLY_AFTER + question_with_choices(question, choices))


def full_and_crops_prompt(question: str, choices: Sequence[str], crop_count: int) -> tuple[PromptPart, ...]:
    """Second user turn of ``full_and_crops``: the same conversation continues with the crops added."""
    return (FULL_AND_CROPS, *([IMAGE] * crop_count), "\n" + question_with_choices(question, choices))


def as_text(parts: Sequence[PromptPart]) -> str:
    """Prompt as text for traces; each image is ``<image>``."""
    return "".join(str(part) for part in parts)
