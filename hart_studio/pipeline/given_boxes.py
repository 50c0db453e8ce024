"""Answer turn for given boxes: of a label, of a reviewer, of an earlier rollout.

No grounding turn runs. Inputs are created by the same stages as in the closed loop, so an answer from given boxes can
be compared with an answer of a rollout that predicted them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hart_studio.errors import ImageError
from hart_studio.imaging import mask_boxes
from hart_studio.models.chat import ChatModel
from hart_studio.pipeline.closed_loop import FailedSample, PreparedSample, failed_rollout, iterate_views, run_direct
from hart_studio.pipeline.cropping import Crops, CropSource, extract_crops, select_crop_regions
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.turns import answer_requests, crops_only_request, score_without_answer
from hart_studio.records import Box, Rollout, Sample


def answer_from_boxes(
    model: ChatModel,
    views: Sequence[PreparedSample | FailedSample],
    boxes: Sequence[Sequence[Box]],
    settings: LoopSettings,
    group_size: int = 1,
) -> list[list[Rollout]]:
    """Ask each question with the crops of its boxes only, ``group_size`` times, in one model call.

    Args:
        model: The model.
        views: Open images; each original is decoded, cropped and closed before the next.
        boxes: Per view, regions in original pixels.
        settings: Cropping and decoding.
        group_size: Answers to each question; equal at temperature 0.

    Returns:
        Per view, its ``crops_only`` rollouts, without a grounding turn. Without a valid box their outcome is
        ``no_box`` and they count as wrong; an unreadable image gives the outcome ``error``.
    """
    cuts: list[tuple[PreparedSample | FailedSample, Crops]] = []
    for view, own in zip(iterate_views(views), boxes, strict=True):
        if isinstance(view, FailedSample):
            cuts.append((view, Crops()))
            continue
        try:
            crops = crop_given_boxes(model, view.image, view.image.wh, own, settings)
            cuts.append((view, crops))
        except ImageError as error:
            cuts.append((FailedSample(view.sample, str(error)), Crops()))
    answered = answer_crops(model, [(view.sample, crops) for view, crops in cuts], settings, group_size)
    return [
        [
            failed_rollout(view, "crops_only") if isinstance(view, FailedSample) else _with_boxes(rollout, own)
            for rollout in rollouts
        ]
        for (view, _), own, rollouts in zip(cuts, boxes, answered, strict=True)
    ]


def crop_given_boxes(
    model: ChatModel, image: CropSource, original_wh: tuple[int, int], boxes: Sequence[Box], settings: LoopSettings
) -> Crops:
    """Crop given boxes, with the same planning as for predicted boxes.

    Raises:
        ImageError: If the original cannot be decoded in full.
    """
    return extract_crops(image, [select_crop_regions(boxes, original_wh, model.family, settings)], model, settings)[0]


def answer_crops(
    model: ChatModel, asked: Sequence[tuple[Sample, Crops]], settings: LoopSettings, group_size: int = 1
) -> list[list[Rollout]]:
    """Ask each question with existing crops, ``group_size`` times, in one model call.

    Args:
        model: The model.
        asked: Questions and crops; one without crops is not asked and counts as wrong.
        settings: Decoding.
        group_size: Answers to each question.

    Returns:
        Per question, its ``crops_only`` rollouts, without predicted boxes.
    """
    requests = [(sample, crops_only_request(sample, crops)) for sample, crops in asked if crops.boxes]
    answered = iter(answer_requests(model, requests, settings.sampling, group_size))
    return [
        [
            Rollout(
                sample_id=sample.id,
                protocol="crops_only",
                turns=(answer.turn,) if answer else (),
                crops=crops.boxes,
                outcome=answer.outcome if answer else "no_box",
                score=answer.score if answer else score_without_answer(sample),
                error=answer.completion.missing_text if answer else "",
            )
            for answer in (next(answered) if crops.boxes else [None] * group_size)
        ]
        for sample, crops in asked
    ]


def answer_with_boxes_masked(
    model: ChatModel,
    views: Sequence[PreparedSample | FailedSample],
    boxes: Sequence[Sequence[Box]],
    settings: LoopSettings,
) -> list[Rollout | None]:
    """Ask about the full image with the boxes masked in the overview, in one model call.

    Args:
        model: The model.
        views: Open images.
        boxes: Per view, regions in original pixels.
        settings: Decoding.

    Returns:
        One ``direct`` rollout per view; None if there is no box or no image.
    """
    masked = [
        _mask_overview(view, own) if isinstance(view, PreparedSample) and own else None
        for view, own in zip(views, boxes, strict=True)
    ]
    groups = iter(run_direct(model, [view for view in masked if view], settings))
    return [next(groups).rollouts[0] if view else None for view in masked]


def _mask_overview(view: PreparedSample, boxes: Sequence[Box]) -> PreparedSample:
    """Copy of the view with the boxes masked."""
    pixels = mask_boxes(view.overview.pixels, boxes, original_wh=view.image.wh)
    return replace(view, overview=replace(view.overview, pixels=pixels))


def _with_boxes(rollout: Rollout, boxes: Sequence[Box]) -> Rollout:
    return rollout.model_copy(update={"boxes": tuple(boxes)})
