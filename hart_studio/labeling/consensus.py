"""From the regions of K rollouts to the boxes that most of them mean. No model, no answer key: geometry only."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from hart_studio.geometry import iou
from hart_studio.records import Box

SAME_IOU: Final = 0.5
"""From this IoU on two boxes mean the same region (project default)."""

MIN_VOTE_SHARE: Final = 0.5
"""Share of the voting rollouts that must mean a region (project default)."""


def compute_consensus(box_sets: Sequence[Sequence[Box]], is_voter: Sequence[bool]) -> tuple[Box, ...]:
    """The regions that at least half of the voters point at, each the median of their boxes.

    The most popular box of all gathers its neighbors (at most one of each rollout), then the next of what is left. So
    the result does not depend on the order of the rollouts, but for exact ties. Two questions are kept apart: where
    the region is, which the voters say, and how sure that is, which all rollouts say (``compute_support``).

    Args:
        box_sets: Per rollout, its boxes in original pixels.
        is_voter: Per rollout, whether it counts, for instance because its answer was right. When no voter has a box,
            all rollouts vote.

    Returns:
        Regions in original pixels, those with the most votes first; at least one when any rollout has a box, for
        without a majority the most popular one stands.
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
        # What lies on the region that was found is another wording of it, not another region.
        left = [
            item
            for index, item in enumerate(left)
            if index not in members and all(iou(item[1], box) < SAME_IOU for box in found)
        ]
        if len(cluster) < MIN_VOTE_SHARE * len(voters):
            break
    return tuple(found)


def compute_support(box_sets: Sequence[Sequence[Box]], target: Sequence[Box]) -> float | None:
    """Share of the rollouts that point at every one of some boxes, in [0, 1]; None without boxes or rollouts."""
    if not box_sets or not target:
        return None
    supporters = sum(all(any(iou(box, each) >= SAME_IOU for box in boxes) for each in target) for boxes in box_sets)
    return supporters / len(box_sets)


def _cluster_around(centre: Box, items: Sequence[tuple[int, Box]]) -> dict[int, float]:
    """Index -> IoU of the boxes that mean the same region, the nearest one of each rollout."""
    nearest: dict[int, tuple[float, int]] = {}
    for index, (rollout, box) in enumerate(items):
        overlap = iou(centre, box)
        if overlap >= SAME_IOU and overlap > nearest.get(rollout, (0.0, -1))[0]:
            nearest[rollout] = (overlap, index)
    return {index: overlap for overlap, index in nearest.values()}


def _cluster_rank(cluster: dict[int, float]) -> tuple[int, float]:
    return len(cluster), sum(cluster.values())


def _median(boxes: Sequence[Box]) -> Box:
    """The box of the median edges. Medians keep the order of edges, so it is one."""
    edges = [median(values) for values in zip(*(box.xyxy for box in boxes), strict=True)]
    return Box.from_xyxy((edges[0], edges[1], edges[2], edges[3]), label=boxes[0].label)
