"""TreeBench: questions with one or several gold boxes each, grounding is counted per box (paper, Table 6)."""

from __future__ import annotations

from typing import Any, Final

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.cells import (
    extract_options,
    read_lettered,
    read_literal,
    read_options,
    repair_boxes,
    split_options,
)
from hart_studio.data.rows import get_field, to_letter, to_text
from hart_studio.records import GoldSample

_OCR: Final = "Perception/OCR"


def read_treebench_row(row: Any, images: ImageResolver) -> GoldSample:
    """Convert one question.

    Questions about text, of category ``Perception/OCR``, contain their options; they are extracted, so that every
    question has the same format. A question may have up to 26 options.

    Args:
        row: An object with ``index``, ``image`` in base64, ``question``, ``answer``, ``category``, ``target_instances``
            (text of ``[x_min, y_min, x_max, y_max]`` lists in original pixels), and ``multi-choice options`` with one
            option a line, or a column for each letter.
        images: Resolves the images.

    Raises:
        ValueError: If a field is missing or invalid, or a box is not in the image.
        HartError: If the image cannot be read.
    """
    published = to_text(get_field(row, "question"), "question")
    category = to_text(get_field(row, "category"), "category")
    listed = read_options(row.get("multi-choice options"), "multi-choice options") or read_lettered(row)
    question, choices = extract_options(published, listed)
    if category == _OCR:
        question, inlined = split_options(published)
        choices = listed if len(listed) >= len(inlined) else inlined
    boxes = get_field(row, "target_instances")
    image = images.locate(get_field(row, "image"))
    return GoldSample(
        id=to_text(get_field(row, "index"), "index"),
        image=image,
        question=question,
        choices=choices,
        answer=to_letter(to_text(get_field(row, "answer"), "answer"), choices),
        category=category,
        source="TreeBench",
        gold_boxes=repair_boxes(read_literal(boxes, "target_instances") if isinstance(boxes, str) else boxes, image),
    )
