"""Curriculum of the built-in model: vision, details, grounding, answers.

The last two levels degrade its grounding on purpose, so that RL can improve it. ``tasks`` builds the rows of a level.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from hart_studio.needle.scenes import SceneSettings

Goal = Literal["word_accuracy", "detail_accuracy", "coordinate_hit", "overview_accuracy", "crop_accuracy"]


@dataclass(frozen=True)
class Level:
    """One level of the curriculum.

    Attributes:
        scenes: Scene settings.
        size_wh: Overview size in pixels, multiples of 32.
        sigma: Spread of the soft coordinate target, in thousandths of the image.
        rows: Overview rows per training step.
        crops: Crop rows per training step.
        details: Close-ups of a single detail per training step.
        groundings: Grounding branches per overview.
        points: Pointing targets per overview.
        gists: Gist questions per overview.
        confusion_rate: Share of the grounding turns with the box of another object of the same color or shape.
        goal: Metric that ends the level: a running mean of ``train.TrainingState``.
        advance_at: Threshold of the metric.
        patience: Maximum number of steps of the level.
        is_vision_only: No text: only the auxiliary loss of the visual tokens, which is cheap and trains the vision
            tower before the language model.
        lr_scale: Learning rate as a share of ``train.LEARNING_RATE``.
    """

    scenes: SceneSettings
    size_wh: tuple[int, int]
    sigma: float
    rows: int
    crops: int
    groundings: int
    goal: Goal
    advance_at: float
    patience: int
    is_vision_only: bool = False
    details: int = 0
    points: int = 0
    gists: int = 2
    confusion_rate: float = 0.0
    lr_scale: float = 1.0


HIT_MARGIN: Final = 30
"""Tolerance of a right coordinate, in thousandths of the image side."""


def _vision_level(size_wh: tuple[int, int], rows: int, crops: int, advance_at: float, **scenes: Any) -> Level:
    settings = SceneSettings(width=16 * size_wh[0], height=16 * size_wh[1], **scenes)
    return Level(settings, size_wh, 6.0, rows, crops, 0, "word_accuracy", advance_at, patience=400, is_vision_only=True)


def _pointing_level(**asked: Any) -> Level:
    scenes = SceneSettings(objects=asked.pop("objects")) if "objects" in asked else SceneSettings()
    return Level(scenes, (256, 192), goal="coordinate_hit", details=16, **asked)


_CLOSE_UP: Final[dict[str, Any]] = {"objects": (1, 1), "radius": (0.2, 0.4), "detail_scale": (1.2, 2.0)}
FULL_VISION_LEVEL: Final = _vision_level((256, 192), 18, 12, 0.8, objects=(4, 12), radius=(0.05, 0.09))
"""Overviews and crops of full scenes; its images also define the patch prior."""
_FULL: Final = _pointing_level(
    sigma=4, rows=12, crops=10, groundings=2, points=8, gists=4, advance_at=0.62, patience=900, lr_scale=0.6
)
_ANSWERING: Final = replace(
    _FULL, crops=8, details=8, groundings=0, points=2, gists=10, goal="overview_accuracy", advance_at=0.68, lr_scale=0.7
)
_DEGRADED: Final = replace(_FULL, rows=8, crops=24, details=8, points=0, advance_at=2.0)

LEVELS: Final = (
    _vision_level((128, 128), 48, 0, 0.8, colors=("white",), clutter=0.0, **_CLOSE_UP),
    _vision_level((128, 128), 48, 0, 0.8, **_CLOSE_UP),
    _vision_level((256, 192), 18, 12, 0.78, objects=(2, 6), radius=(0.06, 0.16)),
    FULL_VISION_LEVEL,
    replace(FULL_VISION_LEVEL, rows=4, crops=0, details=96, goal="detail_accuracy", advance_at=0.9, patience=1500),
    replace(
        FULL_VISION_LEVEL,
        rows=4,
        crops=24,
        details=24,
        goal="detail_accuracy",
        advance_at=0.88,
        patience=900,
        lr_scale=0.6,
    ),
    _pointing_level(objects=(1, 3), sigma=6, rows=24, crops=8, groundings=1, points=3, advance_at=0.5, patience=600),
    _pointing_level(objects=(2, 5), sigma=5, rows=18, crops=8, groundings=1, points=5, advance_at=0.45, patience=250),
    replace(_FULL, scenes=SceneSettings(objects=(4, 8)), rows=14, points=7, patience=300, lr_scale=0.8),
    _FULL,
    _ANSWERING,
    replace(_FULL, rows=6, crops=24, groundings=1, points=4, goal="crop_accuracy", advance_at=0.94, patience=400),
    replace(
        _ANSWERING,
        rows=6,
        crops=26,
        points=0,
        gists=6,
        goal="crop_accuracy",
        advance_at=0.965,
        patience=700,
        lr_scale=0.4,
    ),
    replace(_DEGRADED, confusion_rate=0.68, patience=300, lr_scale=0.12),
    replace(_DEGRADED, rows=6, crops=28, confusion_rate=0.8, patience=130, lr_scale=0.08),
)
"""From the last pointing level on, scenes have the default settings. The three levels after it train what overview
and crops can answer. By then the model localizes well; the last two levels degrade it to the intended mediocre
grounding, as careless annotation would: many boxes are on another object of the same color or shape."""
