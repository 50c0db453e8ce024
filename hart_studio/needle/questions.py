"""Questions about a scene, in the paper's multiple-choice format, with exact gold boxes for evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from hart_studio.needle.scenes import CHARACTERS, COLORS, SHAPES, Scene, SceneObject
from hart_studio.records import Box

DETAIL_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "character": (
        "Which character is on the {name}?",
        "What character is written on the {name}?",
        "Read the character on the {name}.",
    ),
    "mark": (
        "What colour is the mark on the {name}?",
        "What color is the mark on the {name}?",
        "Which colour does the small mark on the {name} have?",
    ),
    "dots": (
        "How many dots are on the {name}?",
        "Count the dots on the {name}.",
    ),
}
COLOR_WORDS: Final = (
    "What colour is the {shape}?",
    "What color is the {shape}?",
    "Which colour does the {shape} have?",
)
SHAPE_WORDS: Final = ("What shape is the {colour} object?", "Which shape does the {colour} object have?")
SIDE_WORDS: Final = (
    "Is the {first} left or right of the {second}?",
    "Is the {first} to the left or to the right of the {second}?",
)

Kind = Literal["detail", "gist"]

_LETTERS: Final = "ABCD"


def all_question_forms() -> Iterator[str]:
    """Every phrasing with every name filled in: what the tokenizer is learned from."""
    names = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    for forms in DETAIL_WORDS.values():
        yield from (form.format(name=name) for form in forms for name in names)
    yield from (form.format(shape=shape) for form in COLOR_WORDS for shape in SHAPES)
    yield from (form.format(colour=color) for form in SHAPE_WORDS for color in COLORS)
    yield from (form.format(first=name, second=name) for form in SIDE_WORDS for name in names)


@dataclass(frozen=True)
class Question:
    """One question with its options already shuffled.

    Attributes:
        text: The question.
        kind: ``detail`` needs the crop, ``gist`` can be answered from the overview.
        topic: ``character``, ``mark``, ``dots``, ``colour``, ``shape`` or ``side``.
        choices: Two options for ``side``, four otherwise.
        value: The right option's text.
        gold_boxes: Boxes of the objects asked about, scene pixels.
    """

    text: str
    kind: Kind
    topic: str
    choices: tuple[str, ...]
    value: str
    gold_boxes: tuple[Box, ...]

    @property
    def letter(self) -> str:
        """Letter of the right option."""
        return _LETTERS[self.choices.index(self.value)]


def make_detail_question(rng: np.random.Generator, scene: Scene, item: SceneObject) -> Question:
    """A question that only the crop answers; other objects' details come first as wrong options."""
    if item.detail == "character":
        pool: list[str] = list(CHARACTERS)
    elif item.detail == "mark":
        pool = list(COLORS)
    else:
        pool = ["1", "2", "3", "4", "5"]
    tempting = [o.value for o in scene.objects if o.detail == item.detail and o.value != item.value]
    text = str(rng.choice(DETAIL_WORDS[item.detail])).format(name=item.name)
    choices = _choose(rng, item.value, tempting, pool)
    return Question(text, "detail", item.detail, choices, item.value, (item.box(),))


def make_gist_question(rng: np.random.Generator, scene: Scene) -> Question | None:
    """A question that the overview answers, or None when nothing in the scene is unique enough to ask about."""
    shapes = Counter(o.shape for o in scene.objects)
    colors = Counter(o.color for o in scene.objects)
    by_shape = [o for o in scene.objects if shapes[o.shape] == 1]
    by_color = [o for o in scene.objects if colors[o.color] == 1]
    pairs = [(a, b) for a in scene.objects for b in scene.objects if a is not b and abs(a.x - b.x) > 0.15 * scene.width]
    topics = [name for name, found in (("colour", by_shape), ("shape", by_color), ("side", pairs)) if found]
    if not topics:
        return None
    topic = str(rng.choice(topics))
    if topic == "side":
        first, second = pairs[int(rng.integers(len(pairs)))]
        value = "left" if first.x < second.x else "right"
        text = str(rng.choice(SIDE_WORDS)).format(first=first.name, second=second.name)
        sides = ("left", "right") if rng.random() < 0.5 else ("right", "left")
        return Question(text, "gist", topic, sides, value, (first.box(), second.box()))
    if topic == "colour":
        item = by_shape[int(rng.integers(len(by_shape)))]
        text = str(rng.choice(COLOR_WORDS)).format(shape=item.shape)
        choices = _choose(rng, item.color, [o.color for o in scene.objects], list(COLORS))
        return Question(text, "gist", topic, choices, item.color, (item.box(),))
    item = by_color[int(rng.integers(len(by_color)))]
    text = str(rng.choice(SHAPE_WORDS)).format(colour=item.color)
    choices = _choose(rng, item.shape, [o.shape for o in scene.objects], list(SHAPES))
    return Question(text, "gist", topic, choices, item.shape, (item.box(),))


def make_question(rng: np.random.Generator, scene: Scene, gist_share: float) -> Question:
    """One question: ``gist`` with probability ``gist_share`` where the scene allows it, else ``detail``."""
    if rng.random() < gist_share:
        question = make_gist_question(rng, scene)
        if question is not None:
            return question
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    return make_detail_question(rng, scene, item)


def _choose(rng: np.random.Generator, value: str, tempting: list[str], pool: list[str]) -> tuple[str, ...]:
    """Four shuffled options: the right one, then as many tempting ones as there are, then any of the pool."""
    wrong = [text for text in dict.fromkeys(rng.permutation(tempting).tolist() if tempting else []) if text != value]
    wrong += [text for text in rng.permutation(pool).tolist() if text != value and text not in wrong]
    return tuple(rng.permutation([value, *wrong[:3]]).tolist())
