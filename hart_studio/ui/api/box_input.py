"""Validate boxes sent by clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import ConfigDict, Field, ValidationError

from hart_studio.errors import InputError
from hart_studio.geometry import WH, clip
from hart_studio.records import Box, Record

_EDGES: Final = "x_min, y_min, x_max and y_max in pixels of the original image"


class BoxInput(Record):
    """Box of a request, original pixels."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    x_min: float
    """Left edge."""
    y_min: float
    """Top edge."""
    x_max: float
    """Right edge, beyond x_min."""
    y_max: float
    """Bottom edge, beyond y_min."""
    label: str = Field(default="", max_length=200)
    """Label. Text only, never HTML."""


def parse_boxes(value: Any, max_boxes: int, min_boxes: int = 0) -> tuple[Box, ...]:
    """Parse boxes of a request.

    Args:
        value: List of ``BoxInput`` objects, untrusted.
        max_boxes: Greatest number of boxes.
        min_boxes: Smallest number of boxes.

    Raises:
        InputError: If it is not such a list, or a box has edges that are not finite or not in order.
    """
    if not isinstance(value, (list, tuple)):
        raise InputError(f"Expected a list of boxes, each with {_EDGES}, got {type(value).__name__}.")
    if not min_boxes <= len(value) <= max_boxes:
        bounds = f"{min_boxes} to {max_boxes}" if min_boxes else f"at most {max_boxes}"
        raise InputError(f"expected {bounds} boxes, got {len(value)}")
    boxes = []
    for number, sent in enumerate(value, start=1):
        try:
            boxes.append(Box(**BoxInput.model_validate(sent).model_dump()))
        except ValidationError as error:
            first = error.errors()[0]
            message = ": ".join([f"box {number}", *map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
            raise InputError(f"Invalid boxes: {message}. Each box needs {_EDGES}.") from error
    return tuple(boxes)


def clip_boxes(boxes: Iterable[Box], wh: WH) -> tuple[Box, ...]:
    """Clip boxes to the image.

    Args:
        boxes: In original pixels.
        wh: Size of the image, pixels.

    Raises:
        InputError: If a box lies outside the image.
    """
    kept = []
    for number, box in enumerate(boxes, start=1):
        inside = clip(box, wh)
        if inside is None:
            edges = ", ".join(f"{edge:g}" for edge in box.xyxy)
            raise InputError(
                f"Box {number} [{edges}] is outside the image of {wh[0]} x {wh[1]} pixels. Use pixel coordinates of "
                "the original image."
            )
        kept.append(inside)
    return tuple(kept)
