"""What the built-in model is taught, in which order: first to see, then to read details, then to point and to answer.

The last two levels spoil its pointing. ``lessons`` makes the rows of a level.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from hart_studio.needle.scenes import SceneSettings

Goal = Literal["word_right", "detail_right", "coordinate_hit", "overview_right", "crop_right"]


@dataclass(frozen=True)
class Level:
    """One stage of the curriculum.

    Attributes:
        scenes: What is drawn.
        size_wh: Overview size in pixels, multiples of 32.
        sigma: Spread of the soft coordinate target, in thousandths of the image.
        rows: Overviews in a lesson.
        crops: Crop rows in a lesson.
        details: Close-ups of a single detail in a lesson.
        groundings: Grounding branches on one overview.
        points: Objects pointed at on one overview.
        gists: Questions on one overview that it answers.
        confusion_rate: Share of the grounding turns whose box is that of another object of the same color or shape.
        goal: What ends the level: a running mean of ``pretrain.Progress``.
        advance_at: The value of it that does.
        patience: Steps after which the level ends all the same.
        is_vision_only: No text: only the auxiliary loss of the visual tokens, which costs little and teaches the vision
            tower what to see before the language model learns to ask for it.
        lr_scale: Learning rate as a share of ``pretrain.LEARNING_RATE``.
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
"""A coordinate counts as right within this many thousandths of the image's side."""


def _vision_level(size_wh: tuple[int, int], rows: int, crops: int, advance_at: float, **scenes: Any) -> Level:
    settings = SceneSettings(width=16 * size_wh[0], height=16 * size_wh[1], **scenes)
    return Level(settings, size_wh, 6.0, rows, crops, 0, "word_right", advance_at, patience=400, is_vision_only=True)


def _pointing_level(**asked: Any) -> Level:
    scenes = SceneSettings(objects=asked.pop("objects")) if "objects" in asked else SceneSettings()
    return Level(scenes, (256, 192), goal="coordinate_hit", details=16, **asked)


_CLOSE_UP: Final[dict[str, Any]] = {"objects": (1, 1), "radius": (0.2, 0.4), "detail_scale": (1.2, 2.0)}
FULL_VISION_LEVEL: Final = _vision_level((256, 192), 18, 12, 0.8, objects=(4, 12), radius=(0.05, 0.09))
"""Overviews and crops of full scenes; its images set the patch prior too."""
_FULL: Final = _pointing_level(
    sigma=4, rows=12, crops=10, groundings=2, points=8, gists=4, advance_at=0.62, patience=900, lr_scale=0.6
)
_ANSWERING: Final = replace(
    _FULL, crops=8, details=8, groundings=0, points=2, gists=10, goal="overview_right", advance_at=0.68, lr_scale=0.7
)
_DEGRADED: Final = replace(_FULL, rows=8, crops=24, details=8, points=0, advance_at=2.0)

LEVELS: Final = (
    _vision_level((128, 128), 48, 0, 0.8, colors=("white",), clutter=0.0, **_CLOSE_UP),
    _vision_level((128, 128), 48, 0, 0.8, **_CLOSE_UP),
    _vision_level((256, 192), 18, 12, 0.78, objects=(2, 6), radius=(0.06, 0.16)),
    FULL_VISION_LEVEL,
    replace(FULL_VISION_LEVEL, rows=4, crops=0, details=96, goal="detail_right", advance_at=0.9, patience=1500),
    replace(
        FULL_VISION_LEVEL,
        rows=4,
        crops=24,
        details=24,
        goal="detail_right",
        advance_at=0.88,
        patience=900,
        lr_scale=0.6,
    ),
    _pointing_level(objects=(1, 3), sigma=6, rows=24, crops=8, groundings=1, points=3, advance_at=0.5, patience=600),
    _pointing_level(objects=(2, 5), sigma=5, rows=18, crops=8, groundings=1, points=5, advance_at=0.45, patience=250),
    replace(_FULL, scenes=SceneSettings(objects=(4, 8)), rows=14, points=7, patience=300, lr_scale=0.8),
    _FULL,
    _ANSWERING,
    replace(_FULL, rows=6, crops=24, groundings=1, points=4, goal="crop_right", advance_at=0.94, patience=400),
    replace(
        _ANSWERING, rows=6, crops=26, points=0, gists=6, goal="crop_right", advance_at=0.965, patience=700, lr_scale=0.4
    ),
    replace(_DEGRADED, confusion_rate=0.68, patience=300, lr_scale=0.12),
    replace(_DEGRADED, rows=6, crops=28, confusion_rate=0.8, patience=130, lr_scale=0.08),
)
"""Scenes are the published ones from the last pointing level on. The three after it teach what overview and crops
can answer. By then the model points well; the last two levels make it the mediocre model that it has to be, as careless
annotators do it: many of its boxes lie on another object of the same color or shape."""
