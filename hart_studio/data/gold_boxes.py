"""Repair published gold boxes: sort corners, clip to the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hart_studio.geometry import clip
from hart_studio.imaging import SourceImage
from hart_studio.records import Box


def repair_boxes(values: Any, image: str, labels: Sequence[str] = (), *, is_xywh: bool = False) -> tuple[Box, ...]:
    """Convert lists of four numbers to boxes in original pixels.

    Some published boxes have corners in the wrong order or exceed the image. Corners are sorted and edges
    clipped. A box without area inside the image is an error, because no prediction could match it.

    Args:
        values: List of ``[x_min, y_min, x_max, y_max]`` in pixels of the upright image.
        image: Path of the image; only its header is read.
        labels: Labels of the boxes, in order; missing ones are empty.
        is_xywh: Whether the numbers are ``[x_min, y_min, width, height]`` instead.

    Raises:
        ValueError: If the value is not a list of boxes, or a box has no area inside the image.
        ImageError: If the image cannot be read.
    """
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"expected a list of gold boxes, got {type(values).__name__}")
    named = labels if len(labels) == len(values) else [""] * len(values)
    with SourceImage(image) as source_image:
        wh = source_image.wh
    return tuple(_repair(value, wh, label, is_xywh) for value, label in zip(values, named, strict=True))


def _repair(value: Any, wh: tuple[int, int], label: str, is_xywh: bool) -> Box:
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise ValueError("expected four numbers for each gold box")
    first_x, first_y, second_x, second_y = (_to_number(each) for each in value)
    if is_xywh:
        second_x, second_y = first_x + second_x, first_y + second_y
    x_min, x_max = sorted((first_x, second_x))
    y_min, y_max = sorted((first_y, second_y))
    inside = clip(Box.from_xyxy((x_min, y_min, x_max, y_max), label), wh) if x_min < x_max and y_min < y_max else None
    if inside is None:
        raise ValueError("a gold box without area inside the image")
    return inside


def _to_number(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("expected finite numbers in each gold box")
    return number
