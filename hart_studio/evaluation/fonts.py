"""Load a sans-serif font for drawn images on any machine."""

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
    """Load the first available font; without any, Pillow's own, which has few glyphs.

    Args:
        size_px: Font size, pixels.
    """
    for name in _NAMES:
        with suppress(OSError):
            return ImageFont.truetype(name, size_px)
    return ImageFont.load_default(size_px)
