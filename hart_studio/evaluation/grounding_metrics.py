"""Grounding metrics (paper, Sec. 4.1 and 5.2). IoG is always reported with area share and IoU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from hart_studio.evaluation.statistics import Estimate, estimate, resamples_of
from hart_studio.geometry import iog, iou
from hart_studio.records import Box, Record

if TYPE_CHECKING:
    from hart_studio.evaluation.records import SampleResult

IOG_THRESHOLD: Final = 0.3
"""A gold box is found if its IoG is strictly above this (paper, Sec. 4.1)."""

IOU_THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(20))
"""Thresholds of Fig. 3, 0.00 to 0.95. At 0.00 every gold box counts."""


class GoldMatch(Record):
    """Overlap of the predicted boxes with one gold box."""

    is_found: bool
    """Whether one predicted box has IoG strictly above 0.3 (paper, Sec. 4.1)."""
    iog: float
    """Best IoG of one predicted box; 0 without a valid box."""
    iou: float
    """Best IoU of one predicted box; 0 without a valid box."""


class Grounding(NamedTuple):
    """Grounding metrics of one evaluation."""

    questions: int
    """Number of questions with gold boxes and a grounding turn."""
    boxes: int
    """Number of gold boxes of these questions."""
    found: Estimate
    """Share of gold boxes with IoG > 0.3: the paper's metric, 833 boxes on TreeBench. Whole questions are resampled,
    because boxes of one question depend on each other."""
    found_per_question: float
    """Share of found gold boxes per question, averaged over questions."""
    all_found: float
    """Share of questions with all gold boxes found."""
    iou: float
    """Mean best IoU over gold boxes."""
    iou_per_question: float
    """Mean best IoU per question, averaged over questions."""
    area_share: float | None
    """Mean share of the image covered by the predicted boxes, over questions with a valid box; None without any."""
    usable: float
    """Share of questions with a valid box."""


def best_iog(gold: Box, predicted: Sequence[Box]) -> float:
    """Greatest share of the gold box covered by one predicted box; 0 without predictions."""
    return max((iog(box, gold) for box in predicted), default=0.0)


def best_iou(gold: Box, predicted: Sequence[Box]) -> float:
    """Greatest IoU of one predicted box with the gold box; 0 without predictions."""
    return max((iou(box, gold) for box in predicted), default=0.0)


def is_found(gold: Box, predicted: Sequence[Box]) -> bool:
    """Whether a gold box is found: its best IoG is strictly above the threshold."""
    return best_iog(gold, predicted) > IOG_THRESHOLD


def match_gold(gold: Box, predicted: Sequence[Box]) -> GoldMatch:
    """Compare the predicted boxes with a gold box."""
    return GoldMatch(is_found=is_found(gold, predicted), iog=best_iog(gold, predicted), iou=best_iou(gold, predicted))


def list_area_shares(records: Iterable[SampleResult]) -> list[float]:
    """Area shares of the questions with a valid box, in order: the values of every mean area share.

    Questions without boxes are excluded, because an area of 0 would lower the mean.
    """
    return [record.area_share for record in records if record.boxes and record.image_wh]


def measure_grounding(records: Sequence[SampleResult]) -> Grounding | None:
    """Compare predicted with gold boxes; None without gold boxes or grounding turns."""
    asked = [record for record in records if record.gold_matches]
    if not asked:
        return None
    golds = [gold for record in asked for gold in record.gold_matches]
    areas = list_area_shares(asked)
    hits = np.array([sum(gold.is_found for gold in record.gold_matches) for record in asked], dtype=np.float64)
    boxes = np.array([len(record.gold_matches) for record in asked], dtype=np.float64)
    draws = resamples_of(len(asked))
    return Grounding(
        questions=len(asked),
        boxes=len(golds),
        found=estimate(float(hits.sum() / boxes.sum()), (draws @ hits) / (draws @ boxes)),
        found_per_question=fmean(record.found_share for record in asked),
        all_found=fmean(record.is_grounded for record in asked),
        iou=fmean(gold.iou for gold in golds),
        iou_per_question=fmean(record.mean_iou for record in asked),
        area_share=fmean(areas) if areas else None,
        usable=fmean(bool(record.boxes) for record in asked),
    )


def share_by_iou(records: Sequence[SampleResult]) -> list[float]:
    """Share of gold boxes with a best IoU of at least each of ``IOU_THRESHOLDS``; empty without gold boxes."""
    ious = [gold.iou for record in records for gold in record.gold_matches]
    return [fmean(iou >= threshold for iou in ious) for threshold in IOU_THRESHOLDS] if ious else []
