"""Select crop regions and cut them from the ORIGINAL image (docs/concept.md, Closed loop)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from hart_studio.geometry import plan_crops
from hart_studio.models.chat import ChatModel, ImageInput
from hart_studio.models.families import Family, PixelBudget
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box


class CropSource(Protocol):
    """Source of crops of an original: a ``SourceImage``, or a part of one."""

    def crops(self, boxes: Iterable[Box]) -> tuple[Image.Image, ...]:
        """Return the native pixels of each region, given in pixels of the original."""


@dataclass(frozen=True)
class Crops:
    """The crops I_s of one rollout.

    Attributes:
        boxes: The regions, whole pixels of the original; empty if there was no valid box.
        images: One image per region at native resolution, for the model.
    """

    boxes: tuple[Box, ...] = ()
    images: tuple[ImageInput, ...] = ()


def select_crop_regions(
    boxes: Sequence[Box], original_wh: tuple[int, int], family: Family, settings: LoopSettings
) -> tuple[Box, ...]:
    """Convert predicted boxes to crop regions.

    Args:
        boxes: Predicted boxes in original pixels, in the order of the output.
        original_wh: Width and height of the original image in pixels.
        family: Its limits apply if they are stricter than the settings.
        settings: Padding, minimum side, maximum aspect ratio and number of crops.

    Returns:
        Regions in whole original pixels, inside the image; empty only when ``boxes`` is. If the family allows fewer
        crops than there are regions, the result is the one region that encloses all.
    """
    limits = {
        "min_side": max(settings.min_side, family.min_side),
        "max_aspect": min(settings.max_aspect, family.max_aspect),
    }
    regions = plan_crops(boxes, original_wh, padding=settings.padding, max_boxes=settings.max_boxes, **limits)
    if family.max_crops is None or len(regions) <= family.max_crops:
        return regions
    return plan_crops([_enclose(regions)], original_wh, padding=0.0, max_boxes=1, **limits)


def crop_budget(model: ChatModel, settings: LoopSettings) -> PixelBudget:
    """Minimum and maximum area of one crop in the model input, pixels."""
    max_pixels = settings.crop_max_pixels or model.crop_budget.max_pixels
    return PixelBudget(min(model.crop_budget.min_pixels, max_pixels), max_pixels)


def extract_crops(
    image: CropSource, plans: Sequence[tuple[Box, ...]], model: ChatModel, settings: LoopSettings
) -> list[Crops]:
    """Cut the regions of several rollouts on one image.

    Args:
        image: The original.
        plans: Regions of each rollout, whole original pixels.
        model: Its crop budget applies if the settings set none.
        settings: Only ``crop_max_pixels`` is used.

    Returns:
        The crops of each rollout. A region that occurs in several plans is cut once and is one image object, so the
        model encodes it once.

    Raises:
        ImageError: If the original cannot be decoded in full.
    """
    regions = {box.xyxy: box for plan in plans for box in plan}
    budget = crop_budget(model, settings)
    cuts = image.crops(regions.values())
    images = {
        key: ImageInput(cut, budget.min_pixels, budget.max_pixels) for key, cut in zip(regions, cuts, strict=True)
    }
    return [Crops(plan, tuple(images[box.xyxy] for box in plan)) for plan in plans]


def _enclose(boxes: Sequence[Box]) -> Box:
    """Smallest box that contains all of them."""
    x_mins, y_mins, x_maxs, y_maxs = zip(*(box.xyxy for box in boxes), strict=True)
    return Box.from_xyxy((min(x_mins), min(y_mins), max(x_maxs), max(y_maxs)))
