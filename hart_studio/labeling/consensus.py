"""Combine the boxes of K rollouts into consensus boxes. Geometry only: no model, no answer key."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from hart_studio.geometry import iou
from hart_studio.records import Box

SAME_IOU: Final = 0.5
"""Two boxes with at least this IoU count as the same region. Project default."""

MIN_VOTE_SHARE: Final = 0.5
"""Minimum share of voting rollouts per region. Project default."""


def compute_consensus(box_sets: Sequence[Sequence[Box]], is_voter: Sequence[bool]) -> tuple[Box, ...]:
    """Compute the regions that at least half of the voters predict, each the median of their boxes.

    Greedy clustering: the box with the most neighbors (at most one per rollout) forms a region, then the next one of
    the rest. So the result does not depend on the order of the rollouts, except for exact ties. The voters determine
    where the region is; all rollouts determine its support (``compute_support``).

    Args:
        box_sets: Boxes per rollout, original pixels.
        is_voter: Whether each rollout votes, for instance because its answer was right. If no voter has a box, all
            rollouts vote.

    Returns:
        Regions in original pixels, most votes first. At least one if any rollout has a box: without a majority, the
        region with the most votes.
    """
    voters = [tuple(boxes) for boxes, votes in zip(box_sets, is_voter, strict=True) if votes and boxes]
    voters = voters or [tuple(boxes) for boxes in box_sets if boxes]
    left = [(index, box) for index, boxes in enumerate(voters) for box in boxes]
    found: list[Box] = []
    while left:
        cluster = max((_cluster_around(box, left) for _, box in left), key=_cluster_rank)
        if found and len(cluster) < MIN_VOTE_SHARE * len(voters):
            break
        found.append(_median([left[index][1] for index in cluster]))
        members = set(cluster)
        # Boxes that overlap a found region are duplicates of it.
        left = [
            item
            for index, item in enumerate(left)
            if index not in members and all(iou(item[1], box) < SAME_IOU for box in found)
        ]
        if len(cluster) < MIN_VOTE_SHARE * len(voters):
            break
    return tuple(found)


def compute_support(box_sets: Sequence[Sequence[Box]], target: Sequence[Box]) -> float | None:
    """Share of rollouts that predict all of the target boxes, in [0, 1]; None without boxes or rollouts."""
    if not box_sets or not target:
        return None
    supporters = sum(all(any(iou(box, each) >= SAME_IOU for box in boxes) for each in target) for boxes in box_sets)
    return supporters / len(box_sets)


def _cluster_around(center: Box, items: Sequence[tuple[int, Box]]) -> dict[int, float]:
    """Index -> IoU of the boxes of the same region, the nearest one per rollout."""
    nearest: dict[int, tuple[float, int]] = {}
    for index, (rollout, box) in enumerate(items):
        overlap = iou(center, box)
        if overlap >= SAME_IOU and overlap > nearest.get(rollout, (0.0, -1))[0]:
            nearest[rollout] = (overlap, index)
    return {index: overlap for overlap, index in nearest.values()}


def _cluster_rank(cluster: dict[int, float]) -> tuple[int, float]:
    return len(cluster), sum(cluster.values())


def _median(boxes: Sequence[Box]) -> Box:
    """Box of the median edges. The order of the edges is kept, so it is a valid box."""
    edges = [median(values) for values in zip(*(box.xyxy for box in boxes), strict=True)]
    return Box.from_xyxy((edges[0], edges[1], edges[2], edges[3]), label=boxes[0].label)
