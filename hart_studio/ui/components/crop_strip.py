"""Model inputs: the overview at its real size and the crops at native resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hart_studio.records import Box
from hart_studio.ui.components.display import Display, serve

_TEMPLATE: Final = '<section class="hs-model-inputs" aria-label="Model inputs"></section>'


@dataclass(frozen=True)
class Overview:
    """The down-sampled image of the grounding turn."""

    path: Path
    width: int
    """Pixels after the model's image processor."""
    height: int
    """Pixels after the model's image processor."""


@dataclass(frozen=True)
class Crop:
    """One region cut from the original, not resized."""

    path: Path
    area: Box
    """Cropped rectangle, original pixels."""


@dataclass(frozen=True)
class ModelInputs:
    """All images the model got for one question."""

    original_wh: tuple[int, int]
    """(width, height) of the original image, pixels."""
    overview: Overview
    crops: tuple[Crop, ...]
    no_crops_reason: str = ""
    """Shown if there is no crop."""


class CropStrip(Display):
    """Shows the model inputs; ``None`` draws nothing."""

    def __init__(self, **layout: Any) -> None:
        super().__init__(_TEMPLATE, "crop_strip.js", **layout)

    def postprocess(self, value: ModelInputs | None) -> dict[str, Any] | None:  # type: ignore[override]
        """The images as JSON with their sizes and their share of the original's area."""
        if value is None:
            return None
        area = value.original_wh[0] * value.original_wh[1]
        overview = value.overview
        return {
            "overview": {
                "image": serve(overview.path),
                "width": overview.width,
                "height": overview.height,
                "pixel_share": overview.width * overview.height / area,
            },
            "crops": [
                {
                    "image": serve(crop.path),
                    "width": crop.area.width,
                    "height": crop.area.height,
                    "area_share": crop.area.area / area,
                    "area": crop.area.model_dump(exclude={"label", "score"}),
                }
                for crop in value.crops
            ],
            "no_crops_reason": value.no_crops_reason,
        }
