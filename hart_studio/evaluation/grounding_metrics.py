"""Grounding metrics (paper, Sec. 4.1 and 5.2). IoG is always reported with area share and IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hart_studio.geometry import iog, iou
from hart_studio.records import Box

IOG_THRESHOLD: Final = 0.3
"""A gold box is found if its IoG is strictly above this (paper, Sec. 4.1)."""


def best_iog(gold: Box, predicted: Sequence[Box]) -> float:
    """Greatest share of the gold box covered by one predicted box; 0 without predictions."""
    return max((iog(box, gold) for box in predicted), default=0.0)


def best_iou(gold: Box, predicted: Sequence[Box]) -> float:
    """Greatest IoU of one predicted box with the gold box; 0 without predictions."""
    return max((iou(box, gold) for box in predicted), default=0.0)


def is_found(gold: Box, predicted: Sequence[Box]) -> bool:
    """Whether a gold box is found: its best IoG is strictly above the threshold."""
    return best_iog(gold, predicted) > IOG_THRESHOLD
