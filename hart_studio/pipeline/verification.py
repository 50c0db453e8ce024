"""Self-check of one prediction: is the region enough, is it needed, is it stable? No gold box is ever read here.

The checks see a ``Sample``, which has no gold boxes, and the model's own rollouts (method, Sec. 1 and 2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from hart_studio.errors import InputError
from hart_studio.geometry import WH, area_share, mean_pairwise_iou
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.models.chat import ChatModel
from hart_studio.pipeline.closed_loop import (
    FailedSample,
    GroundedSample,
    PreparedSample,
    ground_and_crop,
    prepare_samples,
    run_answering,
    run_direct,
)
from hart_studio.pipeline.given_boxes import answer_without_boxes
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Record, Rollout, Sample
from hart_studio.scoring import answers_agree


class Verification(Record):
    """What K rollouts and one counterfactual say about a predicted region. ``None`` = could not be measured."""

    sample_id: str
    """The sample."""
    evidence: Literal["known_answer", "agreement"]
    """What an answer was compared with: the known answer, or, when it is unknown, the other rollouts."""
    sufficiency: float | None
    """Are the crops enough? ``known_answer``: share of the crops-only rollouts that are right; one without a usable
    box is not. ``agreement``: equal to ``agreement``. In [0, 1]."""
    necessity: bool | None
    """Is the region needed? Compares the full image with the same image whose region is masked, so nothing but the
    region differs. ``known_answer``: right before and wrong after; None when the full image alone is already answered
    wrongly, for then there is nothing to lose. ``agreement``: the answer changes."""
    consensus: float | None
    """Mean pairwise IoU of the regions of K >= 2 rollouts, in [0, 1]."""
    agreement: float | None
    """Share of K >= 2 crops-only rollouts whose answer is ``majority_answer``, in [0, 1]; one without a readable
    answer agrees with no one."""
    majority_answer: str | None
    """The most frequent crops-only answer; of equally frequent ones the first."""
    area_share: float | None
    """Mean share of the image that the predicted boxes cover, in [0, 1]: a box over everything passes the other
    checks for nothing."""
    full_image: Rollout | None
    """The answer from the full image."""
    masked: Rollout | None
    """The answer from the full image with the region masked; None when it was not asked."""
    rollouts: tuple[Rollout, ...]
    """The crops-only rollouts that were judged, in sampling order."""


def verify(
    model: ChatModel,
    sample: Sample,
    settings: LoopSettings,
    rollouts: int = 1,
    open_image: ImageOpener = SourceImage,
) -> Verification:
    """Check one sample; see ``verify_samples``."""
    return verify_samples(model, [sample], settings, rollouts, open_image)[0]


def verify_samples(
    model: ChatModel,
    samples: Sequence[Sample],
    settings: LoopSettings,
    rollouts: int = 1,
    open_image: ImageOpener = SourceImage,
) -> list[Verification]:
    """Run the crops-only loop K times, the full image once and the masked image once, and judge each sample.

    Args:
        model: The model.
        samples: As many as may have their images in memory together.
        settings: For all turns.
        rollouts: K.
        open_image: Opens an image by its path.

    Returns:
        One verification per sample, in order. An image that cannot be read leaves every check at None.

    Raises:
        InputError: If several rollouts are asked for at temperature 0.
    """
    check_rollout_count(rollouts, settings)
    views = prepare_samples(model, samples, settings, open_image)
    attempts = ground_and_crop(model, views, settings, rollouts)
    crops_only = run_answering(model, attempts, "crops_only", settings)
    full_image = run_direct(model, views, settings)
    masked = answer_masked(model, attempts, settings)
    return [
        verify_rollouts(
            group.rollouts, full.rollouts[0], without, view.image.wh if isinstance(view, PreparedSample) else None
        )
        for view, group, full, without in zip(views, crops_only, full_image, masked, strict=True)
    ]


def check_rollout_count(rollouts: int, settings: LoopSettings) -> None:
    """Refuse K rollouts that would all be the same.

    Raises:
        InputError: If K < 1, or K > 1 at temperature 0.
    """
    if rollouts < 1:
        raise InputError(f"expected at least 1 rollout, got {rollouts}")
    if rollouts > 1 and settings.temperature == 0:
        raise InputError(
            f"expected a temperature above 0 for {rollouts} rollouts, got 0: they would all be equal; "
            "raise the temperature or ask for 1 rollout"
        )


def answer_masked(
    model: ChatModel, groups: Sequence[Sequence[GroundedSample | FailedSample]], settings: LoopSettings
) -> list[Rollout | None]:
    """Ask about the full image with the region masked, once per group.

    Args:
        model: The model.
        groups: From ``closed_loop.ground``. The region is what the first attempt with a usable box cut out.
        settings: For the turn.

    Returns:
        One ``direct`` rollout per group; None where no attempt had a usable box.
    """
    chosen = [
        next((item for item in group if isinstance(item, GroundedSample) and item.crops.boxes), None)
        for group in groups
    ]
    attempts = [attempt for attempt in chosen if attempt]
    regions = [attempt.crops.boxes for attempt in attempts]
    rollouts = iter(answer_without_boxes(model, [attempt.view for attempt in attempts], regions, settings))
    return [next(rollouts) if attempt else None for attempt in chosen]


def verify_rollouts(
    crops_only: Sequence[Rollout], full_image: Rollout | None, masked: Rollout | None, original_wh: WH | None
) -> Verification:
    """Judge rollouts that have been run already; pure.

    Args:
        crops_only: The K >= 1 rollouts of one sample under ``crops_only``.
        full_image: Its ``direct`` rollout, or None when it was not run.
        masked: Its masked rollout, or None when it was not run.
        original_wh: Size of the original in pixels; None when the image could not be opened.

    Returns:
        The verification.
    """
    is_known = crops_only[0].score.expected is not None
    answers = [_answer_from_crops(rollout) for rollout in crops_only]
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
    """The answer that was read from the crops; an answer from the full image in their place is none."""
    return None if rollout.used_fallback else rollout.score.extracted


def is_necessary(full_image: Rollout | None, masked: Rollout | None) -> bool | None:
    """Whether masking the region spoils the full image's answer; None when that cannot be told."""
    if full_image is None or masked is None or full_image.score.extracted is None:
        return None
    if full_image.score.expected is None:
        return not answers_agree(masked.score, full_image.score)
    return None if full_image.score.value != 1.0 else masked.score.value != 1.0
