"""Needle scenes as plain data: objects on a large canvas, each with a detail too small for the overview.

A scene is a description, not pixels, so the same scene can be drawn at 4096 x 3072, at overview size
for training, or through any window for a crop. Everything is a function of a seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from hart_studio.errors import InputError
from hart_studio.records import Box

Detail = Literal["character", "mark", "dots"]

COLORS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 48, 49),
    "orange": (240, 140, 30),
    "yellow": (245, 214, 60),
    "green": (46, 160, 67),
    "cyan": (60, 200, 215),
    "blue": (40, 90, 210),
    "purple": (130, 62, 180),
    "white": (245, 245, 240),
}
"""Name -> RGB of an object's or a mark's fill."""

CHARACTERS: Final = "EFHKLPTUXZ2457"
"""Characters of details: distinguishable at a height of a few pixels, and not an option
letter, so that an answer of one character is unambiguous."""


def _regular(count: int, start_degrees: float) -> tuple[tuple[float, float], ...]:
    angles = [math.radians(start_degrees + 360 * i / count) for i in range(count)]
    return tuple((math.cos(angle), math.sin(angle)) for angle in angles)


def _star() -> tuple[tuple[float, float], ...]:
    points = []
    for i in range(10):
        angle, reach = math.radians(-90 + 36 * i), 1.0 if i % 2 == 0 else 0.5
        points.append((reach * math.cos(angle), reach * math.sin(angle)))
    return tuple(points)


_A: Final = 0.36
SHAPES: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "circle": _regular(48, 0),
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "triangle": ((0.0, -1.05), (1.0, 0.72), (-1.0, 0.72)),
    "star": _star(),
    "hexagon": _regular(6, 0),
    "diamond": ((0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)),
    "cross": (
        (-_A, -1.0), (_A, -1.0), (_A, -_A), (1.0, -_A), (1.0, _A), (_A, _A),
        (_A, 1.0), (-_A, 1.0), (-_A, _A), (-1.0, _A), (-1.0, -_A), (-_A, -_A),
    ),
}  # fmt: skip
"""Name -> outline in units of the object's radius, y down, around the object's center (x, y)."""


@dataclass(frozen=True)
class SceneObject:
    """One colored shape with its detail. Lengths and positions are in scene pixels."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    tilt_degrees: float
    detail: Detail
    value: str
    """The character, the color name of the mark, or the number of dots as a digit."""
    detail_x: float
    detail_y: float
    detail_scale: float
    """1 is the default size: a character with about a fifth of the height of the object."""

    @property
    def name(self) -> str:
        """Name in questions, for example ``red triangle``; unique in its scene."""
        return f"{self.color} {self.shape}"

    def outline(self) -> np.ndarray:
        """Corner points ``[N, 2]`` in scene pixels."""
        angle = math.radians(self.tilt_degrees)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        corners: np.ndarray = np.array(SHAPES[self.shape]) @ turn.T * self.radius + (self.x, self.y)
        return corners

    def box(self) -> Box:
        """Tight box around the outline, in scene pixels: the gold box of questions about this object."""
        corners = self.outline()
        (x_min, y_min), (x_max, y_max) = corners.min(axis=0), corners.max(axis=0)
        return Box.from_xyxy((float(x_min), float(y_min), float(x_max), float(y_max)), label=self.name)


@dataclass(frozen=True)
class Scene:
    """An image to be drawn."""

    width: int
    height: int
    objects: tuple[SceneObject, ...]
    seed: int
    """Seed of the background only; the objects are listed."""
    clutter: float
    is_default: bool = False
    """Whether it was created with the default ``SceneSettings``."""


@dataclass(frozen=True)
class SceneSettings:
    """Difficulty of the scenes.

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        objects: Minimum and maximum number of objects.
        radius: Minimum and maximum object radius as a share of the width.
        clutter: 0 draws a plain background, 1 the default background texture and small distractors.
        detail_scale: Minimum and maximum size of the details; 1 is the default size.
        colors: Colors of objects; marks may have any color.
    """

    width: int = 4096
    height: int = 3072
    objects: tuple[int, int] = (6, 12)
    radius: tuple[float, float] = (0.05, 0.078)
    clutter: float = 1.0
    detail_scale: tuple[float, float] = (1.0, 1.0)
    colors: tuple[str, ...] = tuple(COLORS)

    def __post_init__(self) -> None:
        least, most = self.objects
        most_names = len(self.colors) * len(SHAPES)
        if not 1 <= least <= most <= most_names:
            raise InputError(f"expected 1 <= fewest <= most objects <= {most_names}, got {self.objects}")
        if min(self.width, self.height) < 64:
            raise InputError(f"expected a scene of at least 64 x 64 pixels, got {self.width} x {self.height}")
        if not 0 < self.radius[0] <= self.radius[1] <= 0.4:
            raise InputError(f"expected object radii between 0 and 0.4 of the width, got {self.radius}")


def make_scene(rng: np.random.Generator, settings: SceneSettings) -> Scene:
    """Place unique objects without overlap.

    If the canvas is too full for the drawn number of objects, the scene has fewer; objects never overlap.

    Args:
        rng: Source of randomness.
        settings: Size and difficulty.
    """
    wanted = int(rng.integers(settings.objects[0], settings.objects[1] + 1))
    names = [(color, shape) for color in settings.colors for shape in SHAPES]
    order = rng.permutation(len(names))[:wanted]
    details = rng.choice(["character", "mark", "dots"], size=wanted)
    placed: list[SceneObject] = []
    for index, detail in zip(order, details, strict=True):
        color, shape = names[int(index)]
        spot = _find_spot(rng, settings, placed)
        if spot is None:
            continue
        x, y, radius = spot
        shift_x, shift_y = rng.uniform(-0.09, 0.09, size=2) * radius
        placed.append(
            SceneObject(
                shape=shape,
                color=color,
                x=x,
                y=y,
                radius=radius,
                tilt_degrees=float(rng.uniform(-9, 9)),
                detail=str(detail),  # type: ignore[arg-type]
                value=_draw_value(rng, detail, color),
                detail_x=x + float(shift_x),
                detail_y=y + float(shift_y),
                detail_scale=float(rng.uniform(*settings.detail_scale)),
            )
        )
    seed = int(rng.integers(2**31))
    is_default = settings == SceneSettings()
    return Scene(settings.width, settings.height, tuple(placed), seed, settings.clutter, is_default)


def _find_spot(
    rng: np.random.Generator, settings: SceneSettings, placed: list[SceneObject]
) -> tuple[float, float, float] | None:
    for _ in range(60):
        radius = float(rng.uniform(*settings.radius)) * settings.width
        margin = radius * 1.08
        if 2 * margin >= settings.height:
            continue
        x = float(rng.uniform(margin, settings.width - margin))
        y = float(rng.uniform(margin, settings.height - margin))
        if all(math.hypot(x - o.x, y - o.y) > 1.08 * (radius + o.radius) for o in placed):
            return x, y, radius
    return None


def _draw_value(rng: np.random.Generator, detail: str, color: str) -> str:
    if detail == "character":
        return str(rng.choice(list(CHARACTERS)))
    if detail == "mark":
        return str(rng.choice([name for name in COLORS if name != color]))
    return str(rng.integers(1, 6))
