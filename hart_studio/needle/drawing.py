"""Draw a scene, or a window of it, at any size.

Small results are drawn at twice the asked size and averaged down, which is close to what a decoder's scaled mode
and the processor's resize make of the full image; ``test_drawing`` measures how close.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from hart_studio.needle.opencv import cv2
from hart_studio.needle.scenes import COLORS, Scene, SceneObject
from hart_studio.records import Box

Pixels = np.ndarray
_SUBPIXEL_BITS: Final = 4
_SUPERSAMPLED_BELOW_PX: Final = 1024
_INK: Final = (28, 30, 36)

GLYPHS: Final[dict[str, tuple[tuple[tuple[float, float], ...], ...]]] = {
    "E": (((1.0, 0.0), (0.1, 0.0), (0.1, 1.0), (1.0, 1.0)), ((0.1, 0.5), (0.8, 0.5))),
    "F": (((1.0, 0.0), (0.1, 0.0), (0.1, 1.0)), ((0.1, 0.5), (0.8, 0.5))),
    "H": (((0.05, 0.0), (0.05, 1.0)), ((0.95, 0.0), (0.95, 1.0)), ((0.05, 0.5), (0.95, 0.5))),
    "K": (((0.1, 0.0), (0.1, 1.0)), ((0.95, 0.0), (0.1, 0.55)), ((0.35, 0.4), (0.95, 1.0))),
    "L": (((0.15, 0.0), (0.15, 1.0), (0.95, 1.0)),),
    "P": (((0.1, 1.0), (0.1, 0.0), (0.7, 0.0), (0.95, 0.14), (0.95, 0.42), (0.7, 0.56), (0.1, 0.56)),),
    "T": (((0.0, 0.0), (1.0, 0.0)), ((0.5, 0.0), (0.5, 1.0))),
    "U": (((0.05, 0.0), (0.05, 0.7), (0.25, 0.97), (0.75, 0.97), (0.95, 0.7), (0.95, 0.0)),),
    "X": (((0.0, 0.0), (1.0, 1.0)), ((1.0, 0.0), (0.0, 1.0))),
    "Z": (((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)),),
    "2": (((0.05, 0.22), (0.3, 0.0), (0.7, 0.0), (0.95, 0.24), (0.85, 0.45), (0.05, 1.0), (1.0, 1.0)),),
    "4": (((0.75, 1.0), (0.75, 0.0), (0.0, 0.7), (1.0, 0.7)),),
    "5": (((0.95, 0.0), (0.15, 0.0), (0.1, 0.45), (0.6, 0.4), (0.95, 0.65), (0.65, 1.0), (0.05, 0.95)),),
    "7": (((0.0, 0.0), (1.0, 0.0), (0.35, 1.0)),),
}
"""Stroke font, cell of height 1 and width 0.72, y down. Own strokes, so that no font file changes the images."""

_DOT_POSITIONS: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "1": ((0, 0),),
    "2": ((-1, -1), (1, 1)),
    "3": ((-1, -1), (0, 0), (1, 1)),
    "4": ((-1, -1), (1, -1), (-1, 1), (1, 1)),
    "5": ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)),
}


class _Canvas:
    """A window of the scene: maps scene pixels to canvas pixels and draws with sub-pixel precision."""

    def __init__(self, window: tuple[float, float, float, float], size_wh: tuple[int, int]) -> None:
        x_min, y_min, x_max, y_max = window
        self.window = window
        self.size_wh = size_wh
        self.scale = np.array([size_wh[0] / (x_max - x_min), size_wh[1] / (y_max - y_min)])
        self.offset = np.array([x_min, y_min])
        self.unit = float(math.sqrt(self.scale[0] * self.scale[1]))
        self.pixels: Pixels = np.empty((size_wh[1], size_wh[0], 3), np.uint8)

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        mapped = (points - self.offset) * self.scale - 0.5
        fixed: np.ndarray = np.rint(mapped * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        return fixed

    def polygon(self, points: np.ndarray, color: tuple[int, int, int]) -> None:
        cv2.fillPoly(self.pixels, [self._fixed(points)], color, cv2.LINE_AA, _SUBPIXEL_BITS)

    def stroke(self, points: np.ndarray, color: tuple[int, int, int], width: float) -> None:
        thickness = max(1, round(width * self.unit))
        cv2.polylines(self.pixels, [self._fixed(points)], False, color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    def disc(self, center: np.ndarray, radius: float, color: tuple[int, int, int]) -> None:
        x, y = self._fixed(center)
        reach = max(1, round(radius * self.unit * (1 << _SUBPIXEL_BITS)))
        cv2.circle(self.pixels, (int(x), int(y)), reach, color, -1, cv2.LINE_AA, _SUBPIXEL_BITS)


def draw_scene(scene: Scene, size_wh: tuple[int, int], window: Box | None = None) -> Pixels:
    """Draw a scene.

    Args:
        scene: What to draw.
        size_wh: Width and height of the result in pixels.
        window: The part to draw, in scene pixels; the whole scene when None.

    Returns:
        RGB pixels, uint8 ``[height, width, 3]``.
    """
    seen = window.xyxy if window else (0.0, 0.0, float(scene.width), float(scene.height))
    factor = 2 if max(size_wh) < _SUPERSAMPLED_BELOW_PX else 1
    canvas = _Canvas(seen, (factor * size_wh[0], factor * size_wh[1]))
    _draw_background(canvas, scene, size_wh)
    for item in scene.objects:
        reach = item.radius * 1.3
        if seen[0] - reach < item.x < seen[2] + reach and seen[1] - reach < item.y < seen[3] + reach:
            _draw_object(canvas, item)
    return canvas.pixels if factor == 1 else cv2.resize(canvas.pixels, size_wh, interpolation=cv2.INTER_AREA)


def _draw_background(canvas: _Canvas, scene: Scene, size_wh: tuple[int, int]) -> None:
    """Two muted tones blended by smooth noise, weave at two finer scales, and distractors: thin lines and specks."""
    rng = np.random.default_rng(scene.seed)
    base = rng.uniform(70, 190)
    tones = np.clip(base + rng.uniform(-14, 14, size=(2, 3)) + rng.uniform(-26, 26, size=(2, 1)), 40, 215)
    blend = _sample_noise(canvas, scene, rng, size_wh, cells=5)
    weave = np.zeros_like(blend)
    if scene.clutter > 0:
        for cells, strength in ((24, 14.0), (150, 12.0)):
            weave += (_sample_noise(canvas, scene, rng, size_wh, cells) - 0.5) * np.float32(strength * scene.clutter)
    channels = [
        cv2.convertScaleAbs(blend * np.float32(second - first) + weave + np.float32(first)) for first, second in tones.T
    ]
    background = cv2.merge(channels)
    if canvas.size_wh != size_wh:
        background = cv2.resize(background, canvas.size_wh, interpolation=cv2.INTER_NEAREST)
    canvas.pixels = background
    if scene.clutter > 0:
        _draw_clutter(canvas, scene, rng, base)


def _sample_noise(
    canvas: _Canvas, scene: Scene, rng: np.random.Generator, size_wh: tuple[int, int], cells: int
) -> np.ndarray:
    """Smooth noise in [0, 1] of ``cells`` cells across the scene, sampled in the window: ``[h, w]`` float32."""
    rows = max(2, round(cells * scene.height / scene.width))
    grid = rng.random((rows + 1, cells + 1), dtype=np.float32)
    x_min, y_min, x_max, y_max = canvas.window
    width, height = size_wh
    step_x, step_y = (x_max - x_min) / width * cells / scene.width, (y_max - y_min) / height * rows / scene.height
    to_grid = np.array(
        [[step_x, 0, x_min * cells / scene.width + step_x / 2], [0, step_y, y_min * rows / scene.height + step_y / 2]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(grid, to_grid, size_wh, flags=flags, borderMode=cv2.BORDER_REFLECT)


def _draw_clutter(canvas: _Canvas, scene: Scene, rng: np.random.Generator, base: float) -> None:
    side = scene.width
    for _ in range(int(26 * scene.clutter)):
        start = rng.uniform(0, 1, 2) * (scene.width, scene.height)
        angle, length, bend = rng.uniform(0, 2 * math.pi), rng.uniform(0.02, 0.14) * side, rng.uniform(-0.6, 0.6)
        steps = np.linspace(0, 1, 6)
        headings = angle + bend * steps
        path = start + np.stack([np.cos(headings), np.sin(headings)], axis=1) * (steps * length)[:, None]
        gray = int(np.clip(base + rng.uniform(-46, 46), 20, 235))
        canvas.stroke(path, (gray, gray, gray), rng.uniform(0.0008, 0.0022) * side)
    for _ in range(int(60 * scene.clutter)):
        spot = rng.uniform(0, 1, 2) * (scene.width, scene.height)
        tint = np.clip(base + rng.uniform(-60, 60) + rng.uniform(-18, 18, 3), 10, 245).astype(int)
        canvas.disc(spot, rng.uniform(0.0008, 0.0035) * side, (int(tint[0]), int(tint[1]), int(tint[2])))


def _shade(color: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = (int(min(255, channel * factor)) for channel in color)
    return (red, green, blue)


def _draw_object(canvas: _Canvas, item: SceneObject) -> None:
    fill = COLORS[item.color]
    outline = item.outline()
    center = np.array([item.x, item.y])
    canvas.polygon(outline, _shade(fill, 0.55))
    canvas.polygon(center + (outline - center) * 0.93, fill)
    unit = item.radius * item.detail_scale
    detail_center = np.array([item.detail_x, item.detail_y])
    ink = _INK if sum(fill) > 330 else (250, 250, 250)
    if item.detail == "character":
        for line in GLYPHS[item.value]:
            canvas.stroke((np.array(line) - 0.5) * (0.26 * unit, 0.36 * unit) + detail_center, ink, 0.052 * unit)
    elif item.detail == "mark":
        canvas.disc(detail_center, 0.117 * unit, _INK)
        canvas.disc(detail_center, 0.094 * unit, COLORS[item.value])
    else:
        for column_row in _DOT_POSITIONS[item.value]:
            canvas.disc(detail_center + np.array(column_row) * 0.136 * unit, 0.052 * unit, ink)
