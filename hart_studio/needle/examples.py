"""Draw the examples of the Ask tab: ``python -m hart_studio.needle.examples --out assets/examples``.

They come from the validation split, which no training run sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from hart_studio.files import write_json
from hart_studio.needle.dataset import SPLITS, write_image
from hart_studio.needle.questions import Question, make_detail_question, make_gist_question
from hart_studio.needle.scenes import Scene, SceneSettings, make_scene
from hart_studio.subcommands import CommandParser

EXAMPLE_SEED: Final = 2026
"""Seed of the examples within the validation split."""

EXAMPLES: Final = (
    ("a character", "character", SceneSettings()),
    ("a colored mark", "mark", SceneSettings()),
    ("dots to count", "dots", SceneSettings()),
    ("a character in 8K", "character", SceneSettings(width=8192, height=5460, radius=(0.035, 0.055))),
    ("color of a shape", "colour", SceneSettings()),
    ("left or right", "side", SceneSettings()),
)
"""Title, topic and scene of each example; the last two can be answered from the overview."""

JPEG_QUALITY: Final = 72


def generate_question(topic: str, settings: SceneSettings, start: int) -> tuple[Scene, Question]:
    """The first scene from ``start`` on whose question is about the topic."""
    index = start
    while True:
        rng = np.random.default_rng([SPLITS["val"], EXAMPLE_SEED, index])
        scene = make_scene(rng, settings)
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        question = (
            make_gist_question(rng, scene) if topic in ("colour", "side") else make_detail_question(rng, scene, item)
        )
        if question is not None and question.topic == topic:
            return scene, question
        index += 1


def write_examples(out: Path) -> None:
    """Write one JPEG per example and ``examples.json``: title, image, question, choices, answer."""
    out.mkdir(parents=True, exist_ok=True)
    listed = []
    for number, (title, topic, settings) in enumerate(EXAMPLES):
        scene, question = generate_question(topic, settings, start=100 * number)
        name = f"{number + 1}-{topic}.jpg"
        write_image(scene, out / name, quality=JPEG_QUALITY, optimize=True)
        listed.append(
            {
                "title": title,
                "image": name,
                "question": question.text,
                "choices": list(question.choices),
                "answer": question.letter,
            }
        )
    write_json(out / "examples.json", listed)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the examples; returns 0."""
    parser = CommandParser(
        prog="python -m hart_studio.needle.examples",
        description=__doc__,
        example="python -m hart_studio.needle.examples --out examples",
    )
    parser.add_argument("--out", type=Path, default=Path("assets/examples"))
    write_examples(parser.parse_args(argv).out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
