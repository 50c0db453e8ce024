"""Images for a server, resized here to a size that its processor keeps, so that the box frame is known.

A server does not report the size at which the model saw an image, and boxes of some families are in pixels of that
size. So the image is resized here with the code of the processor, and the sent image is already aligned to the patch
grid.
"""

from __future__ import annotations

import base64
import io
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor
from transformers.image_utils import SizeDict
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from hart_studio.models.chat import ImageInput
from hart_studio.models.families import Family, PixelBudget
from hart_studio.models.inputs import resized_size
from hart_studio.models.served_settings import ServedSettings

_JPEG_QUALITY = 95


@dataclass(frozen=True)
class SentImage:
    """An image as it is sent.

    Attributes:
        url: ``data:image/...;base64,...``.
        size_wh: (width, height) in pixels in the model input. For families with tiles, whose
            boxes do not depend on it, the sent size.
        visual_tokens: Number of visual tokens; 0 for families with tiles, because only the server knows it.
    """

    url: str
    size_wh: tuple[int, int]
    visual_tokens: int


def resize_for_server(image: ImageInput, family: Family) -> Image.Image:
    """Resize an image to the size at which an in-process model of the family would see it.

    Families with tiles get the image unchanged: the processor of the server determines the tiles.

    Raises:
        InputError: If the image's budget is empty.
    """
    budget = PixelBudget(image.min_pixels, image.max_pixels)
    pixels = image.pixels.convert("RGB")
    size_wh = resized_size(pixels.size, budget, family)
    if size_wh != pixels.size:
        pixels = pixels.resize(size_wh, Image.Resampling.BICUBIC)
    if family.budget_kind != "area":
        return pixels
    made = _grid_resizer().resize(
        torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None],
        size=SizeDict(shortest_edge=budget.min_pixels, longest_edge=budget.max_pixels),
        resample=Image.Resampling.BICUBIC,
        factor=family.resize_factor,
    )
    return Image.fromarray(made[0].permute(1, 2, 0).contiguous().numpy())


def encode_image(image: ImageInput, settings: ServedSettings) -> SentImage:
    """Resize an image and encode it as a data URL. A server with an unknown budget is expected to keep its size.

    Raises:
        InputError: If the image's budget is empty.
    """
    family, budget = settings.family_row, settings.processor_budget
    pixels = resize_for_server(image, family)
    size_wh, visual_tokens = pixels.size, 0
    if family.budget_kind == "area":
        if budget is not None:  # a size within our budget may still be outside the processor's
            height, width = smart_resize(*size_wh[::-1], family.resize_factor, *budget)
            size_wh = (width, height)
        visual_tokens = size_wh[0] * size_wh[1] // family.resize_factor**2
    file = io.BytesIO()
    if settings.image_format == "png":
        pixels.save(file, "PNG", compress_level=1)
    else:
        pixels.save(file, "JPEG", quality=_JPEG_QUALITY)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return SentImage(f"data:image/{settings.image_format};base64,{text}", size_wh, visual_tokens)


class SentImageCache:
    """Images of one call: each is encoded once, on first use, and dropped after its last use."""

    def __init__(self, uses: Iterable[ImageInput], settings: ServedSettings) -> None:
        """Count the uses of each image.

        Args:
            uses: Every image, once per later call of ``get``.
            settings: Settings of the server.
        """
        self._remaining_uses = Counter(uses)
        self._locks = {image: threading.Lock() for image in self._remaining_uses}
        self._cached: dict[ImageInput, SentImage] = {}
        self._settings = settings

    def get(self, image: ImageInput) -> SentImage:
        """Return the encoded image. Threads that request the same image wait for the first one."""
        with self._locks[image]:
            sent = self._cached.pop(image, None) or encode_image(image, self._settings)
            self._remaining_uses[image] -= 1
            if self._remaining_uses[image] > 0:
                self._cached[image] = sent
            return sent


@cache
def _grid_resizer() -> Any:
    """Image processor of the families with an area budget, used only for resizing."""
    return Qwen2VLImageProcessor()
