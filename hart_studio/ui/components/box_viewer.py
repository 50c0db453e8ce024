"""Image viewer with numbered boxes: zoom, pan, keyboard. Coordinates are original pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hart_studio.records import Box
from hart_studio.ui.components.display import Display, serve

_TEMPLATE: Final = """
<section class="hs-viewer hs-is-empty" aria-label="Image viewer">
  <header class="hs-viewer-bar">
    <span class="hs-viewer-name"></span>
    <div role="toolbar" aria-label="Zoom">
      <button type="button" data-command="-" aria-label="Zoom out" title="Zoom out (-)">&#8722;</button>
      <output class="hs-zoom" aria-label="Zoom factor">1.0&#215;</output>
      <button type="button" data-command="+" aria-label="Zoom in" title="Zoom in (+)">+</button>
      <button type="button" data-command="f" title="Fit image (f)">Fit</button>
    </div>
  </header>
  <div class="hs-canvas" tabindex="0" role="application" aria-label="Image">
    <svg xmlns="http://www.w3.org/2000/svg" preserveAspectRatio="xMidYMid meet">
      <image preserveAspectRatio="none" x="0" y="0"></image><g></g>
    </svg>
    <div class="hs-empty">
      <svg viewBox="0 0 160 110" aria-hidden="true">
        <rect x="8" y="8" width="144" height="94" rx="10"></rect>
        <path d="M8 84l36-32 26 22 30-36 52 46"></path><circle cx="48" cy="34" r="9"></circle>
        <rect class="hs-empty-roi" x="92" y="24" width="40" height="32" rx="3"></rect>
      </svg>
      <strong>No image selected</strong>
      <p>Choose an image or an example and ask a question. The model predicts the regions it needs and answers from
      their crops.</p>
    </div>
  </div>
  <p class="hs-viewer-help">Click the image, then scroll to zoom &#183; drag or arrow keys to pan &#183;
  1-9 to zoom to a region &#183; f to fit</p>
  <ol class="hs-box-list" aria-label="Regions"></ol>
</section>
"""


@dataclass(frozen=True)
class ImageCopy:
    """A scaled copy of an image for the page."""

    path: Path
    width: int
    """Pixels; the height follows from the image's aspect ratio."""


@dataclass(frozen=True)
class ViewerImage:
    """An image and its predicted regions."""

    name: str
    width: int
    """Pixels of the ORIGINAL upright image."""
    height: int
    """Pixels of the ORIGINAL upright image."""
    preview: ImageCopy
    """Shown first."""
    detail: ImageCopy
    """Swapped in when the viewer zooms past the preview's resolution."""
    boxes: tuple[Box, ...] = ()
    """Predicted regions, numbered in this order."""
    crops: tuple[Box, ...] = ()
    """Cropped regions, drawn as thin outlines."""


class BoxViewer(Display):
    """Shows a ``ViewerImage``; ``None`` is the empty state."""

    def __init__(self, **layout: Any) -> None:
        super().__init__(_TEMPLATE, ("image_viewer.js", "image_viewer_controls.js", "box_viewer.js"), **layout)

    def postprocess(self, value: ViewerImage | None) -> dict[str, Any] | None:  # type: ignore[override]
        """The scene as JSON; coordinates stay in original pixels."""
        if value is None:
            return None
        return {
            "name": value.name,
            "width": value.width,
            "height": value.height,
            "preview": {"image": serve(value.preview.path), "width": value.preview.width},
            "detail": {"image": serve(value.detail.path), "width": value.detail.width},
            "boxes": [box.model_dump(exclude={"score"}) for box in value.boxes],
            "crops": [crop.model_dump(exclude={"score", "label"}) for crop in value.crops],
        }
