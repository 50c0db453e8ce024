"""Grounding figures (paper, Sec. 4.1 and 5.2): never IoG alone, always the area share and the IoU beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hart_studio.geometry import iog, iou
from hart_studio.records import Box

IOG_THRESHOLD: Final = 0.3
"""A box is correct when its IoG is strictly above this (paper, Sec. 4.1)."""


def best_iog(gold: Box, predicted: Sequence[Box]) -> float:
    """Greatest share of the gold box that one predicted box covers; 0 without predictions."""
    return max((iog(box, gold) for box in predicted), default=0.0)


def best_iou(gold: Box, predicted: Sequence[Box]) -> float:
    """Greatest IoU of one predicted box with the gold box; 0 without predictions."""
    return max((iou(box, gold) for box in predicted), default=0.0)


def is_found(gold: Box, predicted: Sequence[Box]) -> bool:
    """Whether the gold box counts as grounded: the best IoG is strictly above the threshold."""
    return best_iog(gold, predicted) > IOG_THRESHOLD
