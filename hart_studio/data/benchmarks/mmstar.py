"""MMStar: options inside the question, as ``Options: A: one, B: two``, or in a column per letter."""

from __future__ import annotations

from typing import Any

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.cells import extract_options, read_lettered
from hart_studio.data.rows import get_field, to_letter, to_text
from hart_studio.records import GoldSample


def read_mmstar_row(row: Any, images: ImageResolver) -> GoldSample:
    """Convert one question. There are no gold boxes.

    The category is the ability and its axis, such as ``coarse perception/image scene and topic``.

    Args:
        row: An object with ``index``, ``image`` as a feature, bytes or base64, ``question``, ``answer``, ``category``,
            ``l2_category``, and optionally a column for each letter.
        images: Resolves the images.

    Raises:
        ValueError: If a field is missing or invalid, or the image is missing.
        InputError: If the image is outside the folder.
    """
    published = to_text(get_field(row, "question"), "question")
    question, choices = extract_options(published, read_lettered(row))
    axis = "l2_category" if "l2_category" in row else "l2-category"
    parts = (to_text(get_field(row, name), name) for name in ("category", axis))
    return GoldSample(
        id=to_text(get_field(row, "index"), "index"),
        image=images.locate(get_field(row, "image")),
        question=question,
        choices=choices,
        answer=to_letter(to_text(get_field(row, "answer"), "answer"), choices),
        category="/".join(parts),
        source="MMStar",
        gold_boxes=(),
    )
