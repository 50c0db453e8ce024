"""Images of the miniature benchmarks, each with a question, and their encodings."""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hart_studio.needle.drawing import draw_scene
from hart_studio.needle.questions import Question, make_detail_question, make_gist_question
from hart_studio.needle.scenes import SceneSettings, make_scene
from tests.images import encoded

SMALL = (320, 240)
LARGE = (1600, 1200)
"""One image of each benchmark is large enough to be cropped."""


@dataclass(frozen=True)
class Drawn:
    """An image with a question about it."""

    jpeg: bytes
    question: Question
    wh: tuple[int, int]

    @property
    def base64(self) -> str:
        return base64.b64encode(self.jpeg).decode()

    @property
    def boxes(self) -> list[list[int]]:
        """Gold boxes, whole pixels."""
        return [[round(edge) for edge in box.xyxy] for box in self.question.gold_boxes]


@cache
def draw(number: int, kind: str = "detail") -> Drawn:
    """The image of a number, always the same; number 0 is large."""
    wh = SMALL if number else LARGE
    rng = np.random.default_rng([77, number])
    scene = make_scene(rng, SceneSettings(width=wh[0], height=wh[1], objects=(4, 5), radius=(0.08, 0.12)))
    question = make_gist_question(rng, scene) if kind == "gist" else None
    question = question or make_detail_question(rng, scene, scene.objects[0])
    return Drawn(encoded(Image.fromarray(draw_scene(scene, wh)), "JPEG", quality=90), question, wh)


def pairs(count: int) -> Iterator[tuple[int, Drawn]]:
    """Numbers and images; every third question is about the whole image."""
    return ((number, draw(number, "gist" if number % 3 == 2 else "detail")) for number in range(count))


def lettered(choices: Sequence[str]) -> dict[str, str]:
    """A column per letter; those without an option are empty."""
    return {letter: choices[at] if at < len(choices) else "" for at, letter in enumerate("ABCD")}


def save(path: Path, drawn: Drawn) -> None:
    """The image as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drawn.jpeg)


def write_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write a TSV table; return its path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table in Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
