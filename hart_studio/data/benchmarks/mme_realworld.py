"""MME-RealWorld, its Lite part and its training part. There are no gold boxes.

Three formats are published: JSON with image files; tables with images in base64, in a column ``bytes`` or ``image``;
and a table of training questions that has an image feature and no categories.
"""

from __future__ import annotations

from typing import Any

from hart_studio.data.benchmarks.images import ImageResolver, content_id
from hart_studio.data.cells import read_options
from hart_studio.data.rows import get_field, strip_letters, to_letter, to_text, to_texts
from hart_studio.records import GoldSample

SOURCE = "MME-RealWorld"
"""Name of the dataset."""


def read_mme_realworld_row(row: Any, images: ImageResolver) -> GoldSample:
    """Convert one question.

    The category is ``<Task>/<Subtask>``, as ``Perception/Autonomous_Driving``: the columns of the paper's Table 2. The
    training table has none. Option letters are removed from the texts; the Chinese part writes them in full-width
    brackets.

    Args:
        row: JSON: an object with ``Question_id``, ``Image``, ``Text``, ``Answer choices``, ``Ground truth``,
            ``Task`` and ``Subtask``. Table: ``question``, ``answer``, the options in ``multi-choice options`` or
            ``choices``, the image in ``bytes`` or ``image``, and usually ``index`` and ``category``.
        images: Resolves the images.

    Raises:
        ValueError: If a field is missing or invalid, or the image is missing.
        InputError: If the image is outside the folder.
    """
    return _read_table_row(row, images) if isinstance(row, dict) and "question" in row else _read_json(row, images)


def _read_json(row: Any, images: ImageResolver) -> GoldSample:
    choices = strip_letters(to_texts(get_field(row, "Answer choices"), "Answer choices"))
    task, subtask = to_text(get_field(row, "Task"), "Task"), to_text(get_field(row, "Subtask"), "Subtask")
    return GoldSample(
        id=to_text(get_field(row, "Question_id"), "Question_id"),
        image=images.locate(get_field(row, "Image")),
        question=to_text(get_field(row, "Text"), "Text"),
        choices=choices,
        answer=to_letter(to_text(get_field(row, "Ground truth"), "Ground truth"), choices),
        category=f"{task}/{subtask}",
        source=SOURCE,
        gold_boxes=(),
    )


def _read_table_row(row: dict[str, Any], images: ImageResolver) -> GoldSample:
    name = next((each for each in ("multi-choice options", "choices") if each in row), "multi-choice options")
    choices = read_options(get_field(row, name), name)
    answer = to_letter(to_text(get_field(row, "answer"), "answer"), choices)
    question = to_text(get_field(row, "question"), "question")
    image = images.locate(row["bytes"] if row.get("bytes") else get_field(row, "image"))
    index = row.get("index")
    return GoldSample(
        id=content_id(image.rpartition("/")[2], question, *choices) if index is None else to_text(index, "index"),
        image=image,
        question=question,
        choices=choices,
        answer=answer,
        category=to_text(row.get("category") or "", "category"),
        source=SOURCE,
        gold_boxes=(),
    )
