"""Figures on the held-out samples while a model is trained: the only place of training that sees a gold box.

The samples come as their own argument and stay here; the loop gets blind copies, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hart_studio.algorithms.methods import Method
from hart_studio.evaluation.grounding_metrics import best_iou, is_found
from hart_studio.geometry import area_share
from hart_studio.imaging import SourceImage
from hart_studio.models.chat import ChatModel
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.closed_loop import Failure, OpenImage
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box, GoldSample
from hart_studio.runs.config import RunConfig
from hart_studio.training.figures import Tally

if TYPE_CHECKING:
    from accelerate import Accelerator

HELD_OUT_FIGURES: Final = (
    "accuracy",
    "failed_share",
    "valid_box_rate",
    "area_share",
    "iog_above_0.3",
    "iou",
)
"""Names of the figures; the last two need gold boxes."""

BATCH: Final = 16
"""Samples whose pictures are in memory together, ours."""


def measure_held_out(
    model: ChatModel,
    samples: Sequence[GoldSample],
    method: Method,
    config: RunConfig,
    open_image: OpenImage = SourceImage,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """Answer and point greedily, and compare with what is known.

    Args:
        model: The model.
        samples: Held out; each process takes its share of them.
        method: Its protocol is what the answer is given under. Every method is asked to point, also one that does not
            point to answer, so that their grounding can be compared.
        config: Settings of the run.
        open_image: Opens a picture by its path.
        accelerator: Adds the figures of all processes up.

    Returns:
        Mean of each figure; per question for the answer, per gold box for the last two.
    """
    tally = Tally(HELD_OUT_FIGURES)
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    mine = samples[rank::processes]
    for start in range(0, len(mine), BATCH):
        _measure_batch(tally, model, mine[start : start + BATCH], method, config, open_image)
    return tally.means(accelerator)


def _measure_batch(
    tally: Tally,
    model: ChatModel,
    samples: Sequence[GoldSample],
    method: Method,
    config: RunConfig,
    open_image: OpenImage,
) -> None:
    rollout = config.rollout
    pointing = LoopSettings(
        overview_max_pixels=rollout.overview_pixels,
        crop_max_pixels=rollout.crop_pixels,
        padding=rollout.padding,
        max_boxes=rollout.max_boxes,
        max_new_tokens=rollout.max_grounding_tokens,
    )
    answering = pointing.model_copy(update={"max_new_tokens": rollout.max_answer_tokens})
    views = closed_loop.open_views(model, [sample.blind() for sample in samples], pointing, open_image)
    attempts = closed_loop.ground(model, views, pointing)
    groups = (
        closed_loop.answer(model, attempts, method.protocol, answering)
        if method.has_grounding_turn
        else closed_loop.answer_directly(model, views, answering)
    )
    for sample, (attempt,), group in zip(samples, attempts, groups, strict=True):
        tally.add("failed_share", float(isinstance(attempt, Failure)))
        if isinstance(attempt, Failure):
            continue
        answer = group.rollouts[0].score.value
        if answer is not None:
            tally.add("accuracy", answer)
        _count_boxes(tally, sample.gold_boxes, attempt.grounding.boxes, attempt.view.image.wh)


def _count_boxes(tally: Tally, golds: Sequence[Box], boxes: Sequence[Box], image_wh: tuple[int, int]) -> None:
    tally.add("valid_box_rate", float(bool(boxes)))
    tally.add("area_share", area_share(boxes, image_wh))
    for gold in golds:
        tally.add("iog_above_0.3", float(is_found(gold, boxes)))
        tally.add("iou", best_iou(gold, boxes))
