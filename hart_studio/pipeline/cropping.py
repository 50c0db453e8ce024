"""Between the turns: decide which regions to cut, then cut them from the ORIGINAL image (method, Sec. 2.2)."""

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
    """Something that regions of an original can be cut from: a ``SourceImage``, or a part of one."""

    def crops(self, boxes: Iterable[Box]) -> tuple[Image.Image, ...]:
        """Native pixels of each region, which is given in pixels of the original."""


@dataclass(frozen=True)
class Crops:
    """The crops I_s of one rollout.

    Attributes:
        boxes: The regions, whole pixels of the original; empty when there was no usable box.
        images: One image per region at native resolution, for the model.
    """

    boxes: tuple[Box, ...] = ()
    images: tuple[ImageInput, ...] = ()


def select_crop_regions(
    boxes: Sequence[Box], original_wh: tuple[int, int], family: Family, settings: LoopSettings
) -> tuple[Box, ...]:
    """Turn predicted boxes into regions fit to be cut and read.

    Args:
        boxes: Predicted boxes in original pixels, in the order of the output.
        original_wh: Width and height of the original image in pixels.
        family: Its limits hold where they are stricter than the settings.
        settings: Padding, least side, greatest aspect ratio and number of crops.

    Returns:
        Regions in whole original pixels, inside the image; empty only when ``boxes`` is. A family that reads fewer
        crops than there are regions gets the one region that encloses them all, so that none is lost.
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
    """Least and greatest area in pixels at which the model reads one crop."""
    max_pixels = settings.crop_max_pixels or model.crop_budget.max_pixels
    return PixelBudget(min(model.crop_budget.min_pixels, max_pixels), max_pixels)


def extract_crops(
    image: CropSource, plans: Sequence[tuple[Box, ...]], model: ChatModel, settings: LoopSettings
) -> list[Crops]:
    """Cut the regions of several rollouts over one image.

    Args:
        image: The original.
        plans: Regions of each rollout, whole original pixels.
        model: Whose crop budget holds where the settings name none.
        settings: ``crop_max_pixels`` is read.

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
    """The least box that holds all of them."""
    x_mins, y_mins, x_maxs, y_maxs = zip(*(box.xyxy for box in boxes), strict=True)
    return Box.from_xyxy((min(x_mins), min(y_mins), max(x_maxs), max(y_maxs)))
