"""Question templates of needle scenes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hart_studio.needle.scenes import COLORS, SHAPES

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


def all_question_forms() -> Iterator[str]:
    """Every phrasing with every name filled in: what the tokenizer is learned from."""
    names = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    for forms in DETAIL_WORDS.values():
        yield from (form.format(name=name) for form in forms for name in names)
    yield from (form.format(shape=shape) for form in COLOR_WORDS for shape in SHAPES)
    yield from (form.format(colour=color) for form in SHAPE_WORDS for color in COLORS)
    yield from (form.format(first=name, second=name) for form in SIDE_WORDS for name in names)
