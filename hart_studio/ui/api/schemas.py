"""Schemas of ``/ask``, ``/locate`` and ``/verify``: boxes of requests, and responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from hart_studio.errors import InputError
from hart_studio.geometry import WH, clip
from hart_studio.imaging import SourceImage
from hart_studio.labeling.records import BoxCheck, Caution
from hart_studio.pipeline.turns import GroundingResult
from hart_studio.records import Box, Outcome, Protocol, Record

_EDGES: Final = {"x_min", "y_min", "x_max", "y_max"}
_NEEDED: Final = "x_min, y_min, x_max and y_max in pixels of the original image"


class ApiModel(Record):
    """Base of the models; field docstrings become descriptions in the JSON schema."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class BoxInput(ApiModel):
    """Box of a request, original pixels."""

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


class ImageInfo(ApiModel):
    """Name and size of the image."""

    name: str
    """File name without folders."""
    width: int
    """Pixels of the original, upright."""
    height: int
    """Pixels of the original, upright."""


class Area(ApiModel):
    """A rectangle in pixels of the original, upright image; the max edges are exclusive."""

    x_min: float
    """Left edge."""
    y_min: float
    """Top edge."""
    x_max: float
    """Right edge."""
    y_max: float
    """Bottom edge."""


class Region(Area):
    """A box with a name."""

    label: str = ""
    """Label. Text only, never HTML."""


class LocateResponse(ApiModel):
    """Result of the grounding turn."""

    image: ImageInfo
    """The image."""
    model: str
    """The model, as named in the request."""
    outcome: Outcome
    """How the turn ended."""
    boxes: tuple[Region, ...]
    """Predicted regions in output order; empty unless the outcome is ``ok``."""
    text: str
    """Raw output. Text only, never HTML."""
    visual_tokens: int
    """Visual tokens of the image."""
    seconds: float
    """Time of the turn."""
    warnings: tuple[str, ...]
    """Why the boxes may be meaningless, such as a model that does not support this image domain."""


class VerifyResponse(ApiModel):
    """Verification of given boxes. None = unknown."""

    image: ImageInfo
    """The image."""
    model: str
    """The model, as named in the request."""
    boxes: tuple[Region, ...]
    """The given boxes, clipped to the image."""
    evidence: Literal["known_answer", "agreement"]
    """Reference of the comparison: the known answer, or, without one, the answer from the full image."""
    crops_answer: str | None
    """The answer from the crops of these boxes alone: a letter or normalized text."""
    full_answer: str | None
    """The answer from the full image."""
    masked_answer: str | None
    """The answer from the full image with the boxes masked."""
    crops_correct: bool | None
    """Whether the answer from the crops is the known one; None without a known one."""
    full_correct: bool | None
    """Whether the answer from the full image is; None without a known one."""
    sufficient: bool | None
    """Whether the crops alone give the known answer, or, without one, that of the full image."""
    necessary: bool | None
    """Whether masking the boxes breaks the answer from the full image."""
    area_share: float
    """Share of the image that the boxes cover, in [0, 1]. A box over the whole image is trivially sufficient."""
    cautions: tuple[Caution, ...]
    """Warnings about the boxes."""
    warnings: tuple[str, ...]
    """Why the answers may be meaningless, such as a model that does not support this image domain."""


class ProtocolAnswer(ApiModel):
    """Answer of one protocol."""

    answer: str | None
    """Parsed answer: a letter for multiple choice; None if no answer could be parsed."""
    text: str | None
    """Raw output. Text only, never HTML."""
    value: float | None
    """1 correct, 0 wrong, None when the answer is not known."""
    used_fallback: bool
    """Whether the answer comes from the full image because no valid box was predicted."""
    visual_tokens: int
    """Visual tokens of all turns."""
    seconds: float
    """Time of all turns."""


class SelfCheck(ApiModel):
    """Self-check of ``/ask``. None = not measured."""

    evidence: Literal["known_answer", "agreement"]
    """Reference of the comparison."""
    sufficiency: float | None
    """Share of correct answers from crops."""
    necessity: bool | None
    """Whether masking the region breaks the answer from the full image."""
    consensus: float | None
    """Mean IoU of the regions of several rollouts."""
    agreement: float | None
    """Share of several rollouts with the most frequent answer."""
    area_share: float | None
    """Share of the image that the boxes cover."""


class AskResponse(ApiModel):
    """Regions and answers of a model, as made by ``pipeline.trace.summarize_trace``."""

    image: ImageInfo
    """The image."""
    model: str
    """The model, as named in the request."""
    outcome: Outcome
    """Outcome of the grounding turn."""
    boxes: tuple[Region, ...]
    """Predicted regions in output order."""
    crops: tuple[Area, ...]
    """Crops used for the answer."""
    protocols: dict[Protocol, ProtocolAnswer]
    """Answers by protocol: crops alone, full image, or both."""
    verification: SelfCheck | None
    """The self-check; None without the protocol ``crops_only``."""
    warnings: tuple[str, ...]
    """Why the answers may be meaningless, such as a model that does not support this image domain."""


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
        raise InputError(f"Expected a list of boxes, each with {_NEEDED}, got {type(value).__name__}.")
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
            raise InputError(f"Invalid boxes: {message}. Each box needs {_NEEDED}.") from error
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


def to_locate_response(
    image: SourceImage, model: str, grounding: GroundingResult, warnings: Sequence[str]
) -> LocateResponse:
    """Response of ``/locate``."""
    return LocateResponse(
        image=_describe(image),
        model=model,
        outcome=grounding.outcome,
        boxes=_regions(grounding.boxes),
        text=grounding.turn.text,
        visual_tokens=grounding.turn.visual_tokens,
        seconds=round(grounding.turn.seconds, 3),
        warnings=tuple(warnings),
    )


def to_verify_response(
    image: SourceImage, model: str, boxes: Sequence[Box], check: BoxCheck, warnings: Sequence[str]
) -> VerifyResponse:
    """Response of ``/verify``.

    Args:
        image: The image.
        model: The model, as it was named in the question.
        boxes: The verified boxes.
        check: Result of the verification.
        warnings: From ``models.catalog.find_warnings``.
    """
    is_known = check.kind == "known_answer"
    agrees = None if check.full_answer is None else check.crops_answer == check.full_answer
    return VerifyResponse(
        image=_describe(image),
        model=model,
        boxes=_regions(boxes),
        evidence=check.kind,
        crops_answer=check.crops_answer,
        full_answer=check.full_answer,
        masked_answer=check.masked_answer,
        crops_correct=check.crops_correct if is_known else None,
        full_correct=check.full_correct if is_known else None,
        sufficient=check.crops_correct if is_known else agrees,
        necessary=check.necessity,
        area_share=check.area_share,
        cautions=check.cautions,
        warnings=tuple(warnings),
    )


def _describe(image: SourceImage) -> ImageInfo:
    return ImageInfo(name=image.name, width=image.width, height=image.height)


def _regions(boxes: Sequence[Box]) -> tuple[Region, ...]:
    return tuple(Region(**box.model_dump(include=_EDGES | {"label"})) for box in boxes)
