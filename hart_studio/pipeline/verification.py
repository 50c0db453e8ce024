"""Self-check of a prediction: sufficiency, necessity and consistency of the region. Uses no gold boxes.

The checks use a ``Sample``, which has no gold boxes, and rollouts of the model (docs/concept.md, Closed loop). The
evidence of a correct answer also depends on the probability of guessing it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Final, Literal, NamedTuple

from hart_studio.errors import InputError
from hart_studio.formatting import format_percent
from hart_studio.geometry import WH, area_share, mean_pairwise_iou
from hart_studio.models.chat import ChatModel
from hart_studio.pipeline.closed_loop import (
    FailedSample,
    GroundedSample,
)
from hart_studio.pipeline.given_boxes import answer_with_boxes_masked
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Record, Rollout
from hart_studio.scoring import answers_agree

HIGH_GUESS_PROBABILITY: Final = 0.05
"""Minimum probability of guessing at which a single right answer does not prove a region. Project default."""


class Verification(Record):
    """Self-check of a predicted region from K rollouts and one counterfactual. ``None`` = not measured."""

    sample_id: str
    """The sample."""
    evidence: Literal["known_answer", "agreement"]
    """Reference of the answers: the correct answer, or, if it is unknown, the other rollouts."""
    sufficiency: float | None
    """Sufficiency of the crops. ``known_answer``: share of the crops-only rollouts that are right; one without a valid
    box is not. ``agreement``: equal to ``agreement``. In [0, 1]."""
    necessity: bool | None
    """Necessity of the region. Compares the full image with the same image whose region is masked, so only the
    region differs. ``known_answer``: right without and wrong with the mask; None if the answer from the full image is
    already wrong. ``agreement``: the answer changes."""
    consensus: float | None
    """Mean pairwise IoU of the regions of K >= 2 rollouts, in [0, 1]."""
    agreement: float | None
    """Share of K >= 2 crops-only rollouts whose answer is ``majority_answer``, in [0, 1]; one without an extracted
    answer agrees with none."""
    majority_answer: str | None
    """The most frequent crops-only answer; of equally frequent ones the first."""
    area_share: float | None
    """Mean share of the image that the predicted boxes cover, in [0, 1]: a box over the whole image passes the other
    checks trivially."""
    full_image: Rollout | None
    """The answer from the full image."""
    masked: Rollout | None
    """The answer from the full image with the region masked; None if it was not run."""
    rollouts: tuple[Rollout, ...]
    """The scored crops-only rollouts, in sampling order."""


def check_rollout_count(rollouts: int, settings: LoopSettings) -> None:
    """Refuse K rollouts that would all be equal.

    Raises:
        InputError: If K < 1, or K > 1 at temperature 0.
    """
    if rollouts < 1:
        raise InputError(f"expected at least 1 rollout, got {rollouts}")
    if rollouts > 1 and settings.temperature == 0:
        raise InputError(
            f"expected a temperature above 0 for {rollouts} rollouts, got 0: they would all be equal; "
            "raise the temperature or use 1 rollout"
        )


def answer_masked(
    model: ChatModel, groups: Sequence[Sequence[GroundedSample | FailedSample]], settings: LoopSettings
) -> list[Rollout | None]:
    """Ask about the full image with the region masked, once per group.

    Args:
        model: The model.
        groups: From ``closed_loop.ground_and_crop``. The region is the crop of the first attempt with a valid box.
        settings: Settings of the turn.

    Returns:
        One ``direct`` rollout per group; None if no attempt had a valid box.
    """
    chosen = [
        next((item for item in group if isinstance(item, GroundedSample) and item.crops.boxes), None)
        for group in groups
    ]
    attempts = [attempt for attempt in chosen if attempt]
    regions = [attempt.crops.boxes for attempt in attempts]
    rollouts = iter(answer_with_boxes_masked(model, [attempt.view for attempt in attempts], regions, settings))
    return [next(rollouts) if attempt else None for attempt in chosen]


def verify_rollouts(
    crops_only: Sequence[Rollout], full_image: Rollout | None, masked: Rollout | None, original_wh: WH | None
) -> Verification:
    """Verify existing rollouts; pure function.

    Args:
        crops_only: The K >= 1 rollouts of one sample under ``crops_only``.
        full_image: Its ``direct`` rollout, or None if it was not run.
        masked: Its masked rollout, or None if it was not run.
        original_wh: Size of the original in pixels; None if the image could not be opened.

    Returns:
        The verification.
    """
    is_known = crops_only[0].score.expected is not None
    # A rollout that could not be scored votes neither for nor against.
    answers = [_answer_from_crops(rollout) for rollout in crops_only if rollout.outcome != "error"]
    majority, votes = next(iter(Counter(filter(None, answers)).most_common(1)), (None, 0))
    agreement = votes / len(answers) if len(answers) > 1 else None
    rights = [
        0.0 if rollout.used_fallback else rollout.score.value
        for rollout in crops_only
        if rollout.score.value is not None
    ]
    shares = [area_share(rollout.boxes, original_wh) for rollout in crops_only if rollout.boxes and original_wh]
    return Verification(
        sample_id=crops_only[0].sample_id,
        evidence="known_answer" if is_known else "agreement",
        sufficiency=(fmean(rights) if rights else None) if is_known else agreement,
        necessity=is_necessary(full_image, masked),
        consensus=mean_pairwise_iou([rollout.boxes for rollout in crops_only]),
        agreement=agreement,
        majority_answer=majority,
        area_share=fmean(shares) if shares else None,
        full_image=full_image,
        masked=masked,
        rollouts=tuple(crops_only),
    )


def _answer_from_crops(rollout: Rollout) -> str | None:
    """Answer extracted from the crops; None for a fallback answer from the full image."""
    return None if rollout.used_fallback else rollout.score.extracted


def is_necessary(full_image: Rollout | None, masked: Rollout | None) -> bool | None:
    """Whether masking the region makes the answer from the full image wrong; None if unknown."""
    if full_image is None or masked is None or full_image.score.extracted is None or masked.outcome == "error":
        return None
    if full_image.score.expected is None:
        return not answers_agree(masked.score, full_image.score)
    return None if full_image.score.value != 1.0 else masked.score.value != 1.0


class CorrectAnswer(NamedTuple):
    """Description of a correct answer."""

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
