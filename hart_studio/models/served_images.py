"""Images for a server, resized here to a size that its processor keeps, so that the box frame is known.

A server does not report the size at which the model saw an image, and boxes of some families are in pixels of that
size. So the image is resized here with the code of the processor, the sent image is already aligned to the patch
grid, and its size is within the limits of the server (``served_limits``).
"""

from __future__ import annotations

import base64
import io
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import SizeDict
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from hart_studio.models.chat import ImageInput
from hart_studio.models.families import Family, PixelBudget
from hart_studio.models.inputs import resized_size
from hart_studio.models.served_limits import KeptTokens, fit_size
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


def resize_for_server(image: ImageInput, family: Family, kept: KeptTokens | None = None) -> Image.Image:
    """Resize an image to the size at which an in-process model of the family would see it.

    Families with tiles get the image unchanged: the processor of the server determines the tiles.

    Args:
        image: The image with its budget.
        family: Family of the model.
        kept: Limits within which the server keeps the size; None = the size does not matter.

    Raises:
        InputError: If the image's budget is empty.
        ModelError: If no similar size is within the limits.
    """
    budget = PixelBudget(image.min_pixels, image.max_pixels)
    pixels = image.pixels.convert("RGB")
    size_wh = resized_size(pixels.size, budget, family)
    if size_wh != pixels.size:
        pixels = pixels.resize(size_wh, Image.Resampling.BICUBIC)
    if family.budget_kind != "area":
        return pixels
    factor = family.resize_factor
    height, width = smart_resize(*pixels.size[::-1], factor, *budget)
    if kept is not None:
        width, height = fit_size((width, height), kept, factor)
    if pixels.size == (width, height):
        return pixels
    # The processor's own method would choose a size again.
    made = TorchvisionBackend.resize(
        _grid_resizer(),
        torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None],
        size=SizeDict(height=height, width=width),
        resample=Image.Resampling.BICUBIC,
    )
    return Image.fromarray(made[0].permute(1, 2, 0).contiguous().numpy())


def encode_image(image: ImageInput, settings: ServedSettings, kept: KeptTokens | None = None) -> SentImage:
    """Resize an image and encode it as a data URL.

    Args:
        image: The image with its budget.
        settings: Settings of the server.
        kept: Limits within which the server keeps the size. None, for families whose boxes do not depend on it: the
            size is that of the stated budget, or the sent one.

    Raises:
        InputError: If the image's budget is empty.
        ModelError: If no similar size is within the limits.
    """
    family, budget = settings.family_row, settings.processor_budget
    pixels = resize_for_server(image, family, kept)
    size_wh, visual_tokens = pixels.size, 0
    if family.budget_kind == "area":
        if budget is not None and kept is None:  # a size within our budget may still be outside the processor's
            height, width = smart_resize(*size_wh[::-1], family.resize_factor, *budget)
            size_wh = (width, height)
        visual_tokens = size_wh[0] * size_wh[1] // family.resize_factor**2
    return SentImage(encode_pixels(pixels, settings), size_wh, visual_tokens)


def encode_pixels(pixels: Image.Image, settings: ServedSettings) -> str:
    """Encode an image as a data URL in the format of the settings."""
    file = io.BytesIO()
    kind = settings.sent_format
    if kind == "png":  # run lengths instead of a search: two thirds of the time of level 1, and smaller on photographs
        pixels.save(file, "PNG", compress_type=zlib.Z_RLE)
    elif kind == "webp":
        pixels.save(file, "WEBP", lossless=True, method=0, quality=0)
    else:
        pixels.save(file, "JPEG", quality=_JPEG_QUALITY)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{kind};base64,{text}"


class SentImageCache:
    """Encoded images: each is encoded once, however many turns and protocols send it, and dropped with its image."""

    def __init__(self, encode: Callable[[ImageInput], SentImage]) -> None:
        """Start empty.

        Args:
            encode: Encodes an image.
        """
        self._encode = encode
        self._guard = threading.Lock()
        self._locks: WeakKeyDictionary[ImageInput, threading.Lock] = WeakKeyDictionary()
        self._cached: WeakKeyDictionary[ImageInput, SentImage] = WeakKeyDictionary()

    def get(self, image: ImageInput) -> SentImage:
        """Return the encoded image. Threads that request the same image wait for the first one."""
        with self._guard:
            lock = self._locks.setdefault(image, threading.Lock())
        with lock:
            sent = self._cached.get(image)
            if sent is None:
                sent = self._encode(image)
                with self._guard:
                    self._cached[image] = sent
            return sent

    def clear(self) -> None:
        """Drop all images, because the server may keep other sizes now."""
        with self._guard:
            self._cached.clear()


@cache
def _grid_resizer() -> Any:
    """Image processor of the families with an area budget, used only for resizing."""
    return Qwen2VLImageProcessor()
