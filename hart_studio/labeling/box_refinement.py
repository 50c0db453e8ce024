"""Shrink boxes while their crops still give the answer: IoG rewards large boxes, people want tight ones.

A binary search per side moves each edge inward. The answer alone would cut objects in two, because a part of an object
often suffices. So no edge moves past the median box that the rollouts predict, except for the ``overshoot``. Each step
asks about all labels in one call of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from PIL import Image
from pydantic import Field

from hart_studio.errors import ImageError
from hart_studio.geometry import clip, intersection_area, snap_to_pixels
from hart_studio.models.chat import ChatModel
from hart_studio.pipeline.closed_loop import FailedSample, PreparedSample
from hart_studio.pipeline.cropping import Crops
from hart_studio.pipeline.given_boxes import answer_crops, crop_given_boxes
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box, Record, Rollout


class BoxRefinementSettings(Record):
    """Settings of the box refinement. Not from the paper."""

    steps: int = Field(default=2, ge=1, le=6)
    """Binary search steps per side; the first step moves an edge farthest."""
    overshoot: float = Field(default=0.0, ge=0, lt=0.5)
    """How far an edge may move past the median predicted box, as a share of the box's width or height."""
    answers: int = Field(default=3, ge=1, le=16)
    """Sampled answers that must all be the expected one for a smaller box to count as sufficient."""

    @property
    def calls(self) -> int:
        """Model calls, independent of the number of labels."""
        return 1 + 4 * self.steps


IsSufficient = Callable[[Rollout], bool]
"""Whether a rollout gives the expected answer."""

_MOSTLY_INSIDE: Final = 0.5
_MAX_MOVE: Final = 0.45  # two edges that move toward each other never meet

SIDES: Final = (0, 1, 2, 3)
"""Indices of ``xyxy``: left, top, right, bottom."""


@dataclass(frozen=True)
class CachedRegion:
    """Part of an original image in memory: the file is decoded once for all crops.

    Attributes:
        box: Region of the original, whole pixels.
        pixels: Its native pixels.
    """

    box: Box
    pixels: Image.Image

    def crops(self, boxes: Iterable[Box]) -> tuple[Image.Image, ...]:
        """Crop regions inside the part, given in whole pixels of the original."""
        left, top = int(self.box.x_min), int(self.box.y_min)
        return tuple(
            self.pixels.crop((int(box.x_min) - left, int(box.y_min) - top, int(box.x_max) - left, int(box.y_max) - top))
            for box in boxes
        )


@dataclass
class _Search:
    """Search state of one label: how far each edge has moved and may move, as shares of the box size."""

    view: PreparedSample
    boxes: tuple[Box, ...]
    regions: list[CachedRegion]
    is_sufficient: IsSufficient
    limits: list[float]
    moves: list[float] = field(default_factory=lambda: [0.0] * len(SIDES))
    is_open: bool = True
    low: float = 0.0
    high: float = 0.0


def refine_boxes(
    model: ChatModel,
    views: Sequence[PreparedSample | FailedSample],
    boxes: Sequence[tuple[Box, ...]],
    predicted: Sequence[Sequence[Sequence[Box]]],
    are_sufficient: Sequence[IsSufficient],
    settings: LoopSettings,
    refinement: BoxRefinementSettings,
) -> list[tuple[Box, ...]]:
    """Shrink the boxes of each label whose crops give the expected answer.

    All boxes of a label move together, each by the same share of its size.

    Args:
        model: The model.
        views: Prepared images; each original is decoded once and closed again.
        boxes: Per view, the boxes in original pixels.
        predicted: Per view and rollout, the predicted boxes in original pixels.
        are_sufficient: Per view, whether a rollout gives the expected answer.
        settings: Settings of the answer turns; their temperature is used when several answers are sampled.
        refinement: Settings of the refinement.

    Returns:
        Per view, the smaller boxes, or the same ones where the crops never gave the expected answer.
    """
    sampled = settings if refinement.answers > 1 else settings.model_copy(update={"temperature": 0.0})
    searches = [
        _begin(view, own, compute_limits(own, sets, refinement.overshoot), is_sufficient, model, settings)
        if isinstance(view, PreparedSample) and own
        else None
        for view, own, sets, is_sufficient in zip(views, boxes, predicted, are_sufficient, strict=True)
    ]
    active = [search for search in searches if search]
    for search, is_good in zip(active, _ask(model, active, sampled, refinement.answers), strict=True):
        search.is_open = is_good
    active = [search for search in active if search.is_open]
    for side in SIDES:
        for search in active:
            search.low, search.high = 0.0, search.limits[side]
            search.moves[side] = search.limits[side]
        for step in range(refinement.steps):
            movable = [search for search in active if search.limits[side] > 0]
            goods = _ask(model, movable, sampled, refinement.answers)
            for search, is_good in zip(movable, goods, strict=True):
                if is_good:
                    search.low = search.moves[side]
                else:
                    search.high = search.moves[side]
                is_last = step == refinement.steps - 1
                search.moves[side] = search.low if is_last else (search.low + search.high) / 2
    return [
        tuple(_move(box, search.moves) for box in own) if search and search.is_open else own
        for search, own in zip(searches, boxes, strict=True)
    ]


def compute_limits(boxes: Sequence[Box], predicted: Sequence[Sequence[Box]], overshoot: float) -> list[float]:
    """Return how far each side of the boxes may move inward: left, top, right, bottom, as shares of width or height.

    The limit of one box is the distance to the median of the predicted boxes inside it. Several boxes move together, so
    the shortest distance counts.

    Args:
        boxes: Boxes of one label.
        predicted: Per rollout, the predicted boxes.
        overshoot: Added to the limit.

    Returns:
        Four shares in [0, 0.45]; 0 for a box that holds no predicted box.
    """
    distances = []
    for box in boxes:
        inside = [
            each for sets in predicted for each in sets if intersection_area(each, box) >= _MOSTLY_INSIDE * each.area
        ]
        if not inside:
            return [0.0] * len(SIDES)
        left, top, right, bottom = (median(edges) for edges in zip(*(each.xyxy for each in inside), strict=True))
        distances.append(
            (
                (left - box.x_min) / box.width,
                (top - box.y_min) / box.height,
                (box.x_max - right) / box.width,
                (box.y_max - bottom) / box.height,
            )
        )
    return [min(_MAX_MOVE, max(0.0, min(distance) + overshoot)) for distance in zip(*distances, strict=True)]


def _begin(
    view: PreparedSample,
    boxes: tuple[Box, ...],
    limits: list[float],
    is_sufficient: IsSufficient,
    model: ChatModel,
    settings: LoopSettings,
) -> _Search | None:
    """Load the pixels around the boxes; None when no side may move, or the crops are too many or unreadable."""
    if max(limits) == 0 or len(boxes) > min(settings.max_boxes, model.family.max_crops or settings.max_boxes):
        return None
    try:
        regions = [_cache_region(view, box, max(settings.min_side, model.family.min_side)) for box in boxes]
    except ImageError:
        return None
    finally:
        view.image.close()
    return _Search(view, boxes, regions, is_sufficient, limits)


def _cache_region(view: PreparedSample, box: Box, min_side: int) -> CachedRegion:
    """Crop the box with a margin, because the crop of a small or thin box grows."""
    margin = max(min_side, max(box.width, box.height) / 4)
    part = Box.from_xyxy((box.x_min - margin, box.y_min - margin, box.x_max + margin, box.y_max + margin))
    whole = snap_to_pixels(clip(part, view.image.wh) or part, view.image.wh)
    return CachedRegion(whole, view.image.crop(whole))


def _ask(model: ChatModel, searches: Sequence[_Search], settings: LoopSettings, answers: int) -> list[bool]:
    """Whether all answers from the moved boxes are the expected one, for all searches in one call."""
    asked = []
    for search in searches:
        crops_by_box = [
            crop_given_boxes(model, region, search.view.image.wh, [_move(box, search.moves)], settings)
            for box, region in zip(search.boxes, search.regions, strict=True)
        ]
        crops = Crops(
            tuple(box for each in crops_by_box for box in each.boxes),
            tuple(image for each in crops_by_box for image in each.images),
        )
        asked.append((search.view.sample, crops))
    groups = answer_crops(model, asked, settings, answers)
    return [
        all(search.is_sufficient(rollout) for rollout in group) for search, group in zip(searches, groups, strict=True)
    ]


def _move(box: Box, moves: Sequence[float]) -> Box:
    """The box with its edges moved inward by shares of its size."""
    left, top, right, bottom = moves
    return Box.from_xyxy(
        (
            box.x_min + left * box.width,
            box.y_min + top * box.height,
            box.x_max - right * box.width,
            box.y_max - bottom * box.height,
        ),
        label=box.label,
    )
