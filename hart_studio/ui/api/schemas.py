"""What programs are told: the answers of ``/locate`` and ``/verify``, and the shape of that of ``/ask``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict

from hart_studio.imaging import SourceImage
from hart_studio.labeling.records import BoxCheck, Caution
from hart_studio.pipeline.grounding import GroundingResult
from hart_studio.records import Box, Outcome, Protocol, Record

_EDGES = {"x_min", "y_min", "x_max", "y_max"}


class ApiModel(Record):
    """A part of an answer; its JSON schema has the words under each field."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ImageInfo(ApiModel):
    """The image that was asked about."""

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
    """What its maker called it. Text only, never HTML."""


class LocateResponse(ApiModel):
    """Where a model looks, from the grounding turn alone."""

    image: ImageInfo
    """The image."""
    model: str
    """The model, as it was named in the question."""
    outcome: Outcome
    """How the turn ended."""
    boxes: tuple[Region, ...]
    """Where to look, in the order of the output; empty unless the outcome is ``ok``."""
    text: str
    """Raw output. Text only, never HTML."""
    visual_tokens: int
    """What the image cost."""
    seconds: float
    """Time of the turn."""
    warnings: tuple[str, ...]
    """Read these first: why the boxes may mean nothing, such as a model that was not made for such images."""


class VerifyResponse(ApiModel):
    """What speaks for given boxes. None = could not be said."""

    image: ImageInfo
    """The image."""
    model: str
    """The model, as it was named in the question."""
    boxes: tuple[Region, ...]
    """The boxes that were asked about: those given, cut to the image."""
    evidence: Literal["known_answer", "agreement"]
    """What answers were compared with: the known answer, or, without one, the answer from the full image."""
    crops_answer: str | None
    """The answer from the crops of these boxes alone: a letter or normalised text."""
    full_answer: str | None
    """The answer from the full image."""
    masked_answer: str | None
    """The answer from the full image with the boxes painted over."""
    crops_right: bool | None
    """Whether the answer from the crops is the known one; None without a known one."""
    full_right: bool | None
    """Whether the answer from the full image is; None without a known one."""
    sufficient: bool | None
    """Whether the crops alone are enough: they give the known answer, or, without one, that of the full image."""
    necessary: bool | None
    """Whether painting the boxes over spoils the answer from the full image."""
    area_share: float
    """Share of the image that the boxes cover, in [0, 1]. A box over everything is sufficient for nothing."""
    cautions: tuple[Caution, ...]
    """What is odd about the boxes."""
    warnings: tuple[str, ...]
    """Read these first: why the answers may mean nothing, such as a model that was not made for such images."""


class ProtocolAnswer(ApiModel):
    """What one protocol says."""

    answer: str | None
    """What was read from the text: a letter when there are choices; None when nothing could be read."""
    text: str | None
    """Raw output. Text only, never HTML."""
    value: float | None
    """1 right, 0 wrong, None when the answer is not known."""
    used_fallback: bool
    """Whether this is an answer from the full image in place of one from crops."""
    visual_tokens: int
    """What the images of all turns cost."""
    seconds: float
    """Time of all turns."""


class SelfCheck(ApiModel):
    """What speaks for the boxes of ``/ask``. None = could not be measured."""

    evidence: Literal["known_answer", "agreement"]
    """What answers were compared with."""
    sufficiency: float | None
    """Share of the answers from crops that are right."""
    necessity: bool | None
    """Whether painting the region over spoils the answer from the full image."""
    consensus: float | None
    """Mean IoU of the regions of several rollouts."""
    agreement: float | None
    """Share of several rollouts with the most frequent answer."""
    area_share: float | None
    """Share of the image that the boxes cover."""


class AskResponse(ApiModel):
    """Where a model looks, and what it answers: the object that ``pipeline.trace.summarize_trace`` makes."""

    image: ImageInfo
    """The image."""
    model: str
    """The model, as it was named in the question."""
    outcome: Outcome
    """How it ended."""
    boxes: tuple[Region, ...]
    """Where to look, in the order of the output."""
    crops: tuple[Area, ...]
    """What was cut for the answer."""
    protocols: dict[Protocol, ProtocolAnswer]
    """Answers by how the image is seen: crops alone, full image, or both."""
    verification: SelfCheck | None
    """The self-check; None when ``crops_only`` was not asked for."""
    warnings: tuple[str, ...]
    """Read these first: why the answers may mean nothing, such as a model that was not made for such images."""


def to_locate_response(
    image: SourceImage, model: str, grounding: GroundingResult, warnings: Sequence[str]
) -> LocateResponse:
    """The answer of ``/locate``."""
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
    """The answer of ``/verify``.

    Args:
        image: The image.
        model: The model, as it was named in the question.
        boxes: What was asked about.
        check: What came out.
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
        crops_right=check.crops_right if is_known else None,
        full_right=check.full_right if is_known else None,
        sufficient=check.crops_right if is_known else agrees,
        necessary=check.necessity,
        area_share=check.area_share,
        cautions=check.cautions,
        warnings=tuple(warnings),
    )


def _describe(image: SourceImage) -> ImageInfo:
    return ImageInfo(name=image.name, width=image.width, height=image.height)


def _regions(boxes: Sequence[Box]) -> tuple[Region, ...]:
    return tuple(Region(**box.model_dump(include=_EDGES | {"label"})) for box in boxes)
