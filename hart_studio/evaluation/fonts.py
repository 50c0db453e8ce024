"""One sans-serif font for everything that is drawn as pixels, whatever the machine has."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Final

from PIL import ImageFont

_NAMES: Final = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
    "Helvetica.ttc",
)
"""Candidate fonts, those with the most glyphs first."""


@lru_cache(maxsize=16)
def load_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The first font that there is; Pillow's own, which has few letters, when there is none.

    Args:
        size_px: Height of the letters, pixels.
    """
    for name in _NAMES:
        with suppress(OSError):
            return ImageFont.truetype(name, size_px)
    return ImageFont.load_default(size_px)
