"""Pretraining tasks: grounding and questions on overviews, reading crops, close-ups, lookup of options.

Scenes are drawn on the fly at overview size, so no image is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from hart_studio import prompts
from hart_studio.experiments.pretraining.curriculum import Level
from hart_studio.experiments.pretraining.packing import Branch, PackedRow, VisualTokenTarget
from hart_studio.needle.drawing import draw_scene
from hart_studio.needle.questions import Question, make_detail_question, make_gist_question
from hart_studio.needle.scenes import Scene, SceneObject, SceneSettings, make_scene
from hart_studio.parsing import format_boxes
from hart_studio.prompts import IMAGE, PromptPart
from hart_studio.records import Box

_USER: Final = "<|im_start|>user\n"
_REPLY: Final = "<|im_end|>\n<|im_start|>assistant\n"
_STEP: Final = 32
_CLOSE_UP_PX: Final = 96
_STEMS: Final = (f"{prompts.GROUNDING_INSTRUCTION}\n", prompts.CROPS_ONLY_AFTER)
"""Shared prefixes of user turns in the branches of a row."""


def thousandths(box: Box, width: float, height: float) -> tuple[float, float, float, float]:
    """Convert a scene box to the frame of the family: 0 to 1000 of the image's sides."""
    return (box.x_min / width * 1000, box.y_min / height * 1000, box.x_max / width * 1000, box.y_max / height * 1000)


def grounding_text(question: Question, scene: Scene) -> str:
    """Format the boxes of a question in the native JSON of the family."""
    boxes = [(thousandths(box, scene.width, scene.height), box.label) for box in question.gold_boxes]
    return format_boxes(boxes, "qwen_json")


def _user_text(parts: Sequence[PromptPart], images: Sequence[np.ndarray]) -> tuple[tuple[str | np.ndarray, ...], str]:
    """Split a prompt after its last image: (prefix with images, text after them)."""
    left = iter(images)
    filled = [next(left) if part is IMAGE else str(part) for part in parts]
    cut = max(index for index, part in enumerate(parts) if part is IMAGE) + 1
    return tuple(filled[:cut]), "".join(str(part) for part in parts[cut:])


def _branch(
    parts: Sequence[PromptPart],
    reply: str,
    is_grounding: bool = False,
    target_box: tuple[float, float, float, float] | None = None,
) -> Branch:
    _, text = _user_text(parts, [np.empty(0)] * sum(part is IMAGE for part in parts))
    stem = next((stem for stem in _STEMS if text.startswith(stem)), "")
    return Branch(text.removeprefix(stem) + _REPLY, reply, is_grounding, stem, target_box)


def _only_box(question: Question, scene: Scene) -> tuple[float, float, float, float] | None:
    """Box of the only object of a question, in thousandths; None if it is about two objects."""
    boxes = question.gold_boxes
    return thousandths(boxes[0], scene.width, scene.height) if len(boxes) == 1 else None


def _grounding(question: Question, scene: Scene) -> Branch:
    target_box = _only_box(question, scene)
    return _branch(prompts.grounding_prompt(question.text), grounding_text(question, scene), True, target_box)


def _confuse_box(rng: np.random.Generator, question: Question, scene: Scene, share: float) -> Question:
    """Simulate careless annotation: sometimes use the box of another object of the same color or shape.

    Args:
        rng: Source of randomness.
        question: Question with its gold boxes.
        scene: The scene.
        share: Share of wrong boxes among questions about one object, if such another object exists.
    """
    if share == 0 or len(question.gold_boxes) > 1 or rng.random() >= share:
        return question
    (gold,) = question.gold_boxes
    color, _, shape = str(gold.label).partition(" ")
    alike = [item for item in scene.objects if (item.color == color) != (item.shape == shape)]
    if not alike:
        return question
    other = alike[int(rng.integers(len(alike)))]
    return replace(question, gold_boxes=(other.box().model_copy(update={"label": gold.label}),))


def overview_row(rng: np.random.Generator, level: Level) -> PackedRow:
    """Build an overview row: grounding turns, gist questions, and sometimes an unanswerable detail question."""
    scene = make_scene(rng, level.scenes)
    image = draw_scene(scene, level.size_wh)
    branches = []
    for item in _sample_objects(rng, scene.objects, level.groundings):
        question = _confuse_box(rng, make_detail_question(rng, scene, item), scene, level.confusion_rate)
        branches.append(_grounding(question, scene))
    branches += point_branches(rng, scene, level.points)
    for turn in range(level.gists):
        gist = make_gist_question(rng, scene)
        if gist is None:
            continue
        if turn == 0 and rng.random() < 0.4 * level.groundings:
            branches.append(_grounding(_confuse_box(rng, gist, scene, level.confusion_rate), scene))
        choices = gist.choices if rng.random() < 0.35 else ()
        target_box = _only_box(gist, scene)
        branches.append(_branch(prompts.direct_prompt(gist.text, choices), gist.value, target_box=target_box))
    if rng.random() < 0.15:
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        detail = make_detail_question(rng, scene, item)
        branches.append(_branch(prompts.direct_prompt(detail.text, detail.choices), detail.value))
    return PackedRow(
        (_USER, image), tuple(branches), cells(scene, level.size_wh, has_details=level.scenes.detail_scale[0] > 1)
    )


def crop_row(rng: np.random.Generator, growth: float) -> PackedRow:
    """Build a row of one to three crops of a full scene with questions about them, under the crops-only instruction.

    Args:
        rng: Source of randomness.
        growth: 0 = details up to twice the default size, 1 = default size and loose crops.
    """
    largest = 1.0 + (1 - growth)
    scene = make_scene(
        rng, SceneSettings(objects=(3, 9), detail_scale=(min(largest, 1.0 + 0.5 * (1 - growth)), largest))
    )
    count = int(rng.choice([1, 2, 3], p=[0.8, 0.14, 0.06]))
    shown = _sample_objects(rng, scene.objects, count)
    windows = [crop_window(rng, scene, item, looseness=0.2 + 0.6 * growth) for item in shown]
    images = [draw_scene(scene, _processor_size(window), window) for window in windows]
    labels = [cell for window in windows for cell in cells(scene, _processor_size(window), window, has_details=True)]
    branches = []
    for item in shown:
        for _ in range(2 if len(shown) == 1 else 1):
            question = make_detail_question(rng, scene, item)
            choices = question.choices if rng.random() < 0.6 else ()
            parts = prompts.crops_only_prompt(question.text, choices, len(shown))
            branches.append(_branch(parts, question.value))
    gist = make_gist_question(rng, Scene(scene.width, scene.height, tuple(shown), scene.seed, scene.clutter))
    if gist is not None and gist.topic != "side":
        choices = gist.choices if rng.random() < 0.6 else ()
        parts = prompts.crops_only_prompt(gist.text, choices, len(shown))
        branches.append(_branch(parts, gist.value))
    prefix, _ = _user_text(prompts.crops_only_prompt("q", (), len(shown)), images)
    return PackedRow((_USER + str(prefix[0]), *prefix[1:]), tuple(branches), tuple(labels))


def detail_row(rng: np.random.Generator, growth: float) -> PackedRow:
    """Build a close-up of one detail, at the size in a crop; no text, only cells.

    In a crop the detail covers a few of about fifty visual tokens; here it fills the image, so the vision
    tower learns to read it many times faster.

    Args:
        rng: Source of randomness.
        growth: See ``crop_row``.
    """
    largest = 1.0 + 0.3 * (1 - growth)
    scene = make_scene(rng, SceneSettings(objects=(1, 1), clutter=0.0, detail_scale=(1.0, largest)))
    item = scene.objects[0]
    side = _CLOSE_UP_PX * item.radius / rng.uniform(75, 112)  # radii of objects in a crop, pixels
    reach = 0.5 * side - 0.24 * item.radius * item.detail_scale
    x, y = item.detail_x + rng.uniform(-reach, reach), item.detail_y + rng.uniform(-reach, reach)
    window = Box.from_xyxy((x - side / 2, y - side / 2, x + side / 2, y + side / 2))
    size_wh = (_CLOSE_UP_PX, _CLOSE_UP_PX)
    shown = cells(scene, size_wh, window, has_details=True)
    without_shape = tuple(cell._replace(words=(cell.words[0], "", cell.words[2])) for cell in shown)
    return PackedRow((_USER, draw_scene(scene, size_wh, window)), (), without_shape)


def point_branches(rng: np.random.Generator, scene: Scene, count: int) -> list[Branch]:
    """Build short exchanges about single objects: its position, and the object at a position.

    Grounding and gist questions consist of finding an object by name, and a name by position; here it is
    trained with a tenth of the tokens.
    """
    branches = []
    for item in _sample_objects(rng, scene.objects, count):
        x, y = (round(1000 * share) for share in (item.x / scene.width, item.y / scene.height))
        target_box = thousandths(item.box(), scene.width, scene.height)
        branches.append(
            Branch(f"Point to the {item.name}.{_REPLY}", f"[{x}, {y}]", is_grounding=True, target_box=target_box)
        )
        if rng.random() < 0.2:
            branches.append(Branch(f"What is at [{x}, {y}]?{_REPLY}", item.name, target_box=target_box))
    return branches


def conversation_row(rng: np.random.Generator, level: Level) -> PackedRow:
    """Build the two-turn conversation of ``full_and_crops``: overview, boxes, then the crop and the question."""
    scene = make_scene(rng, level.scenes)
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    first = make_detail_question(rng, scene, item)
    window = crop_window(rng, scene, item, looseness=0.3)
    crop = draw_scene(scene, _processor_size(window), window)
    grounding = str(prompts.grounding_prompt(first.text)[1])
    history = grounding + _REPLY + grounding_text(first, scene) + "<|im_end|>\n" + _USER + prompts.FULL_AND_CROPS
    branches = []
    for _ in range(2):
        question = make_detail_question(rng, scene, item)
        parts = prompts.full_and_crops_prompt(question.text, question.choices, 1)
        branches.append(_branch(parts, question.value))
    return PackedRow((_USER, draw_scene(scene, level.size_wh), history, crop), tuple(branches))


def make_step_rows(
    rng: np.random.Generator, level: Level, growth: float, share: float = 1.0
) -> tuple[list[PackedRow], list[PackedRow]]:
    """Build the rows of one training step: overview rows, and crop rows with a conversation once crops are readable.

    Args:
        rng: Source of randomness.
        level: The level of the curriculum.
        growth: See ``crop_row``.
        share: Share of the rows to build, for one of several processes.
    """
    overviews = [overview_row(rng, level) for _ in range(math.ceil(level.rows * share))]
    crops = [crop_row(rng, growth) for _ in range(math.ceil(level.crops * share))]
    crops += [detail_row(rng, growth) for _ in range(math.ceil(level.details * share))]
    if level.is_vision_only:
        return [replace(row, branches=()) for row in overviews], [replace(row, branches=()) for row in crops]
    if growth >= 0.5:
        crops += [conversation_row(rng, level) for _ in range(1)]
    return overviews, crops


def crop_window(rng: np.random.Generator, scene: Scene, item: SceneObject, looseness: float) -> Box:
    """Crop window of an object: its gold box with random offsets on all sides.

    Args:
        rng: Source of randomness.
        scene: The scene.
        item: The object that the crop shows.
        looseness: 0 = the gold box; 1 = each side moved outwards by up to half the box, or slightly inwards.

    Returns:
        The window in scene pixels, inside the scene.
    """
    box = item.box()
    left, top, right, bottom = rng.uniform(-0.12 * looseness, 0.5 * looseness, size=4)
    return Box.from_xyxy(
        (
            max(0.0, box.x_min - left * box.width),
            max(0.0, box.y_min - top * box.height),
            min(float(scene.width), box.x_max + right * box.width),
            min(float(scene.height), box.y_max + bottom * box.height),
        )
    )


def cells(
    scene: Scene, size_wh: tuple[int, int], window: Box | None = None, has_details: bool = False
) -> tuple[VisualTokenTarget, ...]:
    """Targets of each visual token of a drawn window, row by row.

    Args:
        scene: The scene.
        size_wh: Size of the generated image, multiples of 32 pixels.
        window: The drawn part, in scene pixels; None = the whole scene.
        has_details: Whether details are readable at this size; not in the overview.
    """
    x_min, y_min, x_max, y_max = window.xyxy if window else (0.0, 0.0, float(scene.width), float(scene.height))
    columns, rows = size_wh[0] // _STEP, size_wh[1] // _STEP
    width, height = (x_max - x_min) / columns, (y_max - y_min) / rows
    found = []
    for row in range(rows):
        for column in range(columns):
            x, y = x_min + (column + 0.5) * width, y_min + (row + 0.5) * height
            reach = max(width, height) / 2
            candidates = [o for o in scene.objects if max(abs(o.x - x), abs(o.y - y)) < o.radius + reach]
            if not candidates:
                found.append(VisualTokenTarget())
                continue
            item = min(candidates, key=lambda o: (o.x - x) ** 2 + (o.y - y) ** 2)
            box = item.box()
            seen = Box.from_xyxy((box.x_min - x_min, box.y_min - y_min, box.x_max - x_min, box.y_max - y_min))
            holds_detail = has_details and max(abs(item.detail_x - x) / width, abs(item.detail_y - y) / height) < 0.75
            words = (item.color, item.shape, item.value if holds_detail else "")
            found.append(VisualTokenTarget(thousandths(seen, x_max - x_min, y_max - y_min), words))
    return tuple(found)


def _processor_size(window: Box) -> tuple[int, int]:
    """Width and height of a large image of this shape with the budget of the processor (multiples of 32)."""
    area, aspect = 224 * 224, window.width / window.height
    width, height = (area * aspect) ** 0.5, (area / aspect) ** 0.5
    return max(_STEP, int(width // _STEP) * _STEP), max(_STEP, int(height // _STEP) * _STEP)


def _sample_objects(rng: np.random.Generator, items: Sequence[SceneObject], count: int) -> list[SceneObject]:
    order = rng.permutation(len(items))[:count]
    return [items[int(index)] for index in order]
