"""Evaluation on held-out samples during training: the only training code that uses gold boxes.

The pipeline gets copies of the samples without gold boxes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from hart_studio.algorithms.methods import Method
from hart_studio.evaluation.grounding_metrics import best_iou, is_found
from hart_studio.geometry import area_share
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.models.chat import ChatModel
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.closed_loop import FailedSample, GroundedSample
from hart_studio.records import Box, GoldSample, Rollout, RolloutGroup
from hart_studio.runs.config import RunConfig
from hart_studio.runs.rollouts import GroupImages
from hart_studio.training.metrics import MetricAccumulator
from hart_studio.training.rollouts import loop_settings

if TYPE_CHECKING:
    from accelerate import Accelerator

HELD_OUT_METRICS: Final = (
    "accuracy",
    "failed_share",
    "valid_box_rate",
    "area_share",
    "iog_above_0.3",
    "iou",
)
"""Names of the metrics; the last two need gold boxes."""

BATCH_SIZE: Final = 16
"""Number of samples whose images are in memory at the same time. Project default."""


def evaluate_held_out(
    model: ChatModel,
    samples: Sequence[GoldSample],
    method: Method,
    config: RunConfig,
    open_image: ImageOpener = SourceImage,
    accelerator: Accelerator | None = None,
    recorded_samples: int = 0,
    should_continue: Callable[[int], bool] = lambda done: True,
    record: Callable[[list[GroupImages]], None] = lambda groups: None,
) -> dict[str, float] | None:
    """Evaluate grounding and answers with greedy decoding.

    Args:
        model: The model.
        samples: Held-out samples; each process evaluates its share.
        method: Defines the protocol of the answer. A grounding turn is run for every method, also for one without
            a grounding turn, so that grounding can be compared.
        config: Settings of the run.
        open_image: Opens an image by its path.
        accelerator: Sums the metrics of all processes.
        recorded_samples: Number of samples of this process that are recorded with images, boxes and
            answers.
        should_continue: Called before every batch with the number of samples evaluated by all processes; returns
            whether to continue, so that a stop request need not wait for the evaluation. Every process calls it equally
            often and must get the same result.
        record: Called once with the recorded samples as soon as all of them are evaluated, usually after the first
            batch: the evaluation can take minutes, and the Watch tab shows them meanwhile. Not called if no
            sample could be evaluated.

    Returns:
        Mean of each metric, per question for the answer, per gold box for the last two. None if it was cancelled.
    """
    metrics = MetricAccumulator(HELD_OUT_METRICS)
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    local_samples = samples[rank::processes]
    recorded: list[GroupImages] = []
    is_recorded = False
    for start in range(0, math.ceil(len(samples) / processes), BATCH_SIZE):
        if not should_continue(start * processes):
            return None
        batch = local_samples[start : start + BATCH_SIZE]
        recorded += _evaluate_batch(metrics, model, batch, method, config, open_image, recorded_samples - len(recorded))
        if (
            recorded
            and not is_recorded
            and (len(recorded) == recorded_samples or start + BATCH_SIZE >= len(local_samples))
        ):
            is_recorded = True
            record(recorded)
    return metrics.values(accelerator)


def _evaluate_batch(
    metrics: MetricAccumulator,
    model: ChatModel,
    samples: Sequence[GoldSample],
    method: Method,
    config: RunConfig,
    open_image: ImageOpener,
    recorded_samples: int,
) -> list[GroupImages]:
    rollout = config.rollout
    grounding_settings, answer_settings = (
        loop_settings(config, tokens, None).model_copy(update={"temperature": 0.0})
        for tokens in (rollout.max_grounding_tokens, rollout.max_answer_tokens)
    )
    views = closed_loop.prepare_samples(
        model, [sample.without_gold_boxes() for sample in samples], grounding_settings, open_image
    )
    attempts = closed_loop.ground_and_crop(model, views, grounding_settings)
    groups = (
        closed_loop.run_answering(model, attempts, method.protocol, answer_settings)
        if method.has_grounding_turn
        else closed_loop.run_direct(model, views, answer_settings)
    )
    recorded: list[GroupImages] = []
    for sample, (attempt,), group in zip(samples, attempts, groups, strict=True):
        metrics.add("failed_share", float(isinstance(attempt, FailedSample)))
        if isinstance(attempt, FailedSample):
            continue
        answer = group.rollouts[0].score.value
        if answer is not None:
            metrics.add("accuracy", answer)
        _count_boxes(metrics, sample.gold_boxes, attempt.grounding.boxes, attempt.view.image.wh)
        if len(recorded) < recorded_samples:
            recorded.append(_to_group_images(attempt, group.rollouts[0]))
    return recorded


def _to_group_images(attempt: GroundedSample, rollout: Rollout) -> GroupImages:
    """Convert a rollout to a record with images; without a grounding turn, use the boxes of the separate turn."""
    if rollout.grounding_turn is None:
        boxes = {"boxes": attempt.grounding.boxes, "crops": attempt.crops.boxes}
        rollout = rollout.model_copy(update={"turns": (attempt.grounding.turn, *rollout.turns), **boxes})
    sample = attempt.sample
    return GroupImages(
        sample=sample,
        group=RolloutGroup(sample_id=sample.id, protocol=rollout.protocol, rollouts=(rollout,)),
        image_wh=attempt.view.image.wh,
        overview=attempt.view.overview.pixels,
        crops=[[image.pixels for image in attempt.crops.images]],
    )


def _count_boxes(
    metrics: MetricAccumulator, golds: Sequence[Box], boxes: Sequence[Box], image_wh: tuple[int, int]
) -> None:
    metrics.add("valid_box_rate", float(bool(boxes)))
    if boxes:  # as in the tables: without a box there is no area to average
        metrics.add("area_share", area_share(boxes, image_wh))
    for gold in golds:
        metrics.add("iog_above_0.3", float(is_found(gold, boxes)))
        metrics.add("iou", best_iou(gold, boxes))
