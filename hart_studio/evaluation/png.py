"""Render figures as PNG in the light theme: the renderer ignores the rules of the dark theme."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import resvg_py
from PIL import ImageFont

from hart_studio.evaluation.fonts import load_font

SCALE: Final = 2
"""Pixels per unit of the figure, for high-resolution screens and print."""


def to_png(svg: str) -> bytes:
    """Render a figure.

    Args:
        svg: SVG document.

    Raises:
        ValueError: If it is no SVG.
    """
    font = load_font(16)
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow was built without vector fonts
        return resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", zoom=SCALE)
    family = font.getname()[0] or ""
    if isinstance(font.path, (str, bytes)):
        return _render(svg, family, [])
    # The renderer knows only system fonts; Pillow's own font must be passed as a file.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "font.ttf"
        file.write_bytes(font.font_bytes)
        return _render(svg, family, [str(file)])


def _render(svg: str, family: str, files: list[str]) -> bytes:
    return resvg_py.svg_to_bytes(
        svg_string=svg,
        background="#ffffff",
        zoom=SCALE,
        font_family=family,
        sans_serif_family=family,
        font_files=files,
    )
