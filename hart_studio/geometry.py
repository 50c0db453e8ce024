"""Boxes and coordinate frames: all coordinate conversions and areas are computed here.

A ``Box`` is in float pixels of the ORIGINAL upright image. Bare ``xyxy`` tuples are coordinates in another
frame and exist only at the input or output of a model. Sizes are ``(width, height)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import combinations, pairwise

from hart_studio.records import Box

XYXY = tuple[float, float, float, float]
"""``(x_min, y_min, x_max, y_max)`` in a frame that the context names."""
WH = tuple[int, int]
"""``(width, height)`` in whole pixels."""

SNAP_TOLERANCE_PX = 1e-6
"""Tolerance to whole pixels: float noise of frame conversions must not add a row of pixels."""


class BoxFrame(StrEnum):
    """Coordinate frame in which a model family writes boxes; never guessed from values or from gold boxes."""

    MODEL_PIXELS = "model_pixels"
    """Pixels of a resized copy of the image: the model input (Qwen2.5-VL), or the overview."""
    NORMALIZED_1000 = "thousandths"
    """0 to 1000 along each side of the original, whatever the resize (Qwen2-VL, Qwen3-VL, InternVL)."""
    NORMALIZED_1 = "unit"
    """0 to 1 along each side of the original (LLaVA-OneVision)."""
    UNIT_PADDED_SQUARE = "unit_padded_square"
    """0 to 1 of the square that holds the original in its middle (LLaVA-1.5: short side padded on both ends). No
    supported family; only for exports."""


def to_original(xyxy: XYXY, frame: BoxFrame, original_wh: WH, model_wh: WH) -> XYXY:
    """Convert coordinates of a model to pixels of the original.

    Args:
        xyxy: Coordinates in ``frame``; may lie outside the image.
        frame: The frame of ``xyxy``.
        original_wh: Size of the original upright image, pixels.
        model_wh: Size of the image that the model saw, pixels. Only ``MODEL_PIXELS`` reads it; give the overview's
            size to come from the overview.

    Returns:
        The same rectangle in original pixels, neither rounded nor clipped.
    """
    (left, top), (span_x, span_y), (extent_x, extent_y) = _placement(frame, original_wh, model_wh)
    x_min, y_min, x_max, y_max = xyxy
    return (
        x_min * span_x / extent_x + left,
        y_min * span_y / extent_y + top,
        x_max * span_x / extent_x + left,
        y_max * span_y / extent_y + top,
    )


def from_original(xyxy: XYXY, frame: BoxFrame, original_wh: WH, model_wh: WH) -> XYXY:
    """Convert pixels of the original to coordinates of a model: the inverse of ``to_original``, not rounded.

    Args:
        xyxy: Coordinates in original pixels.
        frame: The frame to write.
        original_wh: Size of the original upright image, pixels.
        model_wh: Size of the image that the model sees, pixels. Only ``MODEL_PIXELS`` reads it.

    Returns:
        The same rectangle in ``frame``.
    """
    (left, top), (span_x, span_y), (extent_x, extent_y) = _placement(frame, original_wh, model_wh)
    x_min, y_min, x_max, y_max = xyxy
    return (
        (x_min - left) * extent_x / span_x,
        (y_min - top) * extent_y / span_y,
        (x_max - left) * extent_x / span_x,
        (y_max - top) * extent_y / span_y,
    )


def _placement(frame: BoxFrame, original_wh: WH, model_wh: WH) -> tuple[tuple[int, int], WH, WH]:
    """Position of a frame on the original.

    Returns:
        Its origin ``(left, top)`` and its size, both in original pixels, and its size in its own units.
    """
    if frame is BoxFrame.MODEL_PIXELS:
        return (0, 0), original_wh, model_wh
    if frame is BoxFrame.NORMALIZED_1000:
        return (0, 0), original_wh, (1000, 1000)
    if frame is BoxFrame.NORMALIZED_1:
        return (0, 0), original_wh, (1, 1)
    width, height = original_wh
    side = max(width, height)
    return (-((side - width) // 2), -((side - height) // 2)), (side, side), (1, 1)


def fit_inside(wh: WH, max_pixels: int | None = None, max_side: int | None = None) -> WH:
    """Largest size of the same aspect ratio within the limits; never larger than ``wh``.

    Args:
        wh: Size to shrink, pixels.
        max_pixels: Maximum area, square pixels; None is no limit.
        max_side: Maximum width and height, pixels; None is no limit.

    Returns:
        ``(width, height)``, each at least 1. A side that would fall below 1 px stays 1, and the other is shortened.
    """
    width, height = wh
    scale = 1.0
    if max_pixels is not None:
        scale = min(scale, math.sqrt(max_pixels / (width * height)))
    if max_side is not None:
        scale = min(scale, max_side / max(width, height))
    if scale == 1.0:
        return wh
    fitted_width = max(1, math.floor(width * scale + SNAP_TOLERANCE_PX))
    fitted_height = max(1, math.floor(height * scale + SNAP_TOLERANCE_PX))
    if max_pixels is not None:
        fitted_width = min(fitted_width, max(1, max_pixels // fitted_height))
        fitted_height = min(fitted_height, max(1, max_pixels // fitted_width))
    return fitted_width, fitted_height


def intersection_area(first: Box, second: Box) -> float:
    """Area of the overlap, square pixels; 0 if the boxes only touch."""
    width = min(first.x_max, second.x_max) - max(first.x_min, second.x_min)
    height = min(first.y_max, second.y_max) - max(first.y_min, second.y_min)
    return max(0.0, width) * max(0.0, height)


def iou(first: Box, second: Box) -> float:
    """Intersection over union, in [0, 1]."""
    overlap = intersection_area(first, second)
    return _share(overlap, first.area + second.area - overlap)


def iog(pred: Box, gold: Box) -> float:
    """Intersection over the gold box, ``area(pred and gold) / area(gold)``, in [0, 1] (paper, Sec. 4.1).

    A prediction over the whole image scores 1, so report ``area_share`` with it.
    """
    return _share(intersection_area(pred, gold), gold.area)


def union_area(boxes: Iterable[Box]) -> float:
    """Area of the union of the boxes, square pixels.

    Exact: between two neighboring x edges the covered height is constant, so each such strip is summed.
    """
    boxes = tuple(boxes)
    edges = sorted({edge for box in boxes for edge in (box.x_min, box.x_max)})
    return math.fsum(
        (right - left)
        * _covered_length((box.y_min, box.y_max) for box in boxes if box.x_min <= left and right <= box.x_max)
        for left, right in pairwise(edges)
    )


def _covered_length(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    covered, reach = 0.0, -math.inf
    for low, high in sorted(spans):
        covered += max(0.0, high - max(low, reach))
        reach = max(reach, high)
    return covered


def area_share(boxes: Iterable[Box], wh: WH) -> float:
    """Share of the image that the union of the boxes covers, in [0, 1]; parts outside do not count."""
    inside = [kept for box in boxes if (kept := clip(box, wh)) is not None]
    return min(1.0, union_area(inside) / (wh[0] * wh[1]))


def mean_pairwise_iou(box_sets: Sequence[Sequence[Box]]) -> float | None:
    """Agreement of K rollouts on the region: mean IoU over all pairs of their unions.

    Args:
        box_sets: The boxes of each rollout. An empty set agrees with nothing, not even with another empty one.

    Returns:
        Consensus in [0, 1]; None for fewer than two rollouts.
    """
    if len(box_sets) < 2:
        return None
    areas = [union_area(boxes) for boxes in box_sets]
    agreements = []
    for first, second in combinations(range(len(box_sets)), 2):
        together = union_area([*box_sets[first], *box_sets[second]])
        # The difference of areas can miss the true overlap by a rounding error on either side.
        agreements.append(min(1.0, max(0.0, _share(areas[first] + areas[second] - together, together))))
    return math.fsum(agreements) / len(agreements)


def clip(box: Box, wh: WH) -> Box | None:
    """The part of the box inside the image, or None when there is none."""
    width, height = wh
    x_min, x_max = max(0.0, box.x_min), min(float(width), box.x_max)
    y_min, y_max = max(0.0, box.y_min), min(float(height), box.y_max)
    return _moved(box, (x_min, y_min, x_max, y_max)) if x_min < x_max and y_min < y_max else None


def pad(box: Box, ratio: float, wh: WH) -> Box:
    """Pad the box by ``ratio`` of its width on the left and right and of its height above and below, then clip.

    Args:
        box: A box inside the image.
        ratio: At least 0; 0.1 makes the box 1.2 times as wide and as high.
        wh: Size of the image, pixels.

    Returns:
        The padded box, inside the image.
    """
    across, down = ratio * box.width, ratio * box.height
    return _moved(
        box,
        (
            max(0.0, box.x_min - across),
            max(0.0, box.y_min - down),
            min(float(wh[0]), box.x_max + across),
            min(float(wh[1]), box.y_max + down),
        ),
    )


def grow_to_side(box: Box, min_side: float, wh: WH) -> Box:
    """Grow each side below ``min_side`` to ``min_side``, around the center, shifted as needed to stay in the image.

    Args:
        box: A box inside the image.
        min_side: Minimum width and height, pixels.
        wh: Size of the image; a side cannot grow past it.

    Returns:
        A box that contains ``box``.
    """
    return _grown(box, min_side, min_side, wh)


def limit_aspect(box: Box, max_ratio: float, wh: WH) -> Box:
    """Grow the short side until the aspect ratio is at most ``max_ratio``.

    Args:
        box: A box inside the image.
        max_ratio: Maximum long side over short side, at least 1.
        wh: Size of the image; if it is too narrow, the box gets as close to the ratio as possible.

    Returns:
        A box that contains ``box``.
    """
    return _grown(box, box.height / max_ratio, box.width / max_ratio, wh)


def snap_to_pixels(box: Box, wh: WH) -> Box:
    """Move the edges outward to whole pixels: the smallest set of pixels that covers the box.

    Args:
        box: A box inside the image.
        wh: Size of the image, pixels.

    Returns:
        A box with whole-number edges inside the image, at least 1 px wide and high.
    """
    x_min, x_max = _snapped(box.x_min, box.x_max, wh[0])
    y_min, y_max = _snapped(box.y_min, box.y_max, wh[1])
    return _moved(box, (x_min, y_min, x_max, y_max))


def merge_duplicates(boxes: Iterable[Box], iou_threshold: float = 0.9) -> tuple[Box, ...]:
    """Drop boxes that nearly equal an earlier one; the output order stays.

    Args:
        boxes: Boxes in the order in which the model wrote them.
        iou_threshold: A box whose IoU with an already kept one is above this is dropped.

    Returns:
        The kept boxes, unchanged.
    """
    kept: list[Box] = []
    for box in boxes:
        if all(iou(box, other) <= iou_threshold for other in kept):
            kept.append(box)
    return tuple(kept)


def plan_crops(
    boxes: Iterable[Box], wh: WH, *, padding: float, min_side: float, max_aspect: float, max_boxes: int
) -> tuple[Box, ...]:
    """Plan the crops for the answer turn. Project default; the paper does not state a policy.

    Order: clip, drop what is outside, pad, grow, limit the aspect, snap, merge near-equal ones, keep the first few.

    Args:
        boxes: Predicted boxes in output order.
        wh: Size of the original, pixels.
        padding: Context added on each side, as a share of the box's own side.
        min_side: Minimum width and height, pixels.
        max_aspect: Maximum long side over short side.
        max_boxes: Maximum number of crops.

    Returns:
        At most ``max_boxes`` boxes in output order: whole pixels, inside the image, at least 1 px each way. Empty
        when no box touches the image.
    """
    inside = (kept for box in boxes if (kept := clip(box, wh)) is not None)
    padded = (pad(box, padding, wh) for box in inside)
    grown = (limit_aspect(grow_to_side(box, min_side, wh), max_aspect, wh) for box in padded)
    return merge_duplicates(snap_to_pixels(box, wh) for box in grown)[:max_boxes]


def _share(part: float, whole: float) -> float:
    """``part / whole``; 0 if the area is 0 in floating point."""
    return part / whole if whole > 0 else 0.0


def _moved(box: Box, xyxy: XYXY) -> Box:
    """Copy of the box with other edges."""
    return Box.from_xyxy(xyxy, label=box.label, score=box.score)


def _grown(box: Box, min_width: float, min_height: float, wh: WH) -> Box:
    x_min, x_max = _grown_span(box.x_min, box.x_max, min_width, wh[0])
    y_min, y_max = _grown_span(box.y_min, box.y_max, min_height, wh[1])
    return _moved(box, (x_min, y_min, x_max, y_max))


def _grown_span(low: float, high: float, length: float, limit: int) -> tuple[float, float]:
    """An interval of at least ``length`` around the middle of the given one, moved to lie in ``[0, limit]``."""
    length = min(length, float(limit))
    if high - low >= length:
        return low, high
    start = min(max(0.0, (low + high - length) / 2), limit - length)
    return start, min(start + length, float(limit))


def _snapped(low: float, high: float, limit: int) -> tuple[int, int]:
    first = min(max(0, math.floor(low + SNAP_TOLERANCE_PX)), limit - 1)
    return first, max(first + 1, min(limit, math.ceil(high - SNAP_TOLERANCE_PX)))
