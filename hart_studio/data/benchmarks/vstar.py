"""V* Bench: ``test_questions.jsonl`` with image folders, or a table with embedded images.

Letters come from the questions only. The JSON file of each image is read for boxes only: it lists the right option
first, so letters derived from it would always be A.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.cells import extract_options, read_lettered, read_options, repair_boxes
from hart_studio.data.rows import get_field, to_letter, to_text, to_texts
from hart_studio.files import from_stored_path, read_regular_file, resolve_inside
from hart_studio.prompts import OPTION_LETTERS
from hart_studio.records import Box, GoldSample

_INSTRUCTION: Final = re.compile(r"\s*Answer with the option['’]s letter from the given choices directly\.?\s*\Z")


def read_vstar_row(row: Any, images: ImageResolver) -> GoldSample:
    """Convert one question.

    Args:
        row: An object with ``category``, ``image``, the question with its options in ``text`` and the letter in
            ``label``; or ``question``, ``answer`` (a letter, or a number from 0), and options in ``choices`` or in a
            column for each letter.
        images: Resolves the images. Only image files have gold boxes.

    Raises:
        ValueError: If a field is missing or invalid, or a box is not in the image.
        HartError: If the image or the JSON file of its boxes cannot be read.
    """
    text = "text" if "text" in (row if isinstance(row, dict) else {}) else "question"
    published = _INSTRUCTION.sub("", to_text(get_field(row, text), text))
    question, choices = extract_options(published, read_options(row.get("choices"), "choices") or read_lettered(row))
    answer = get_field(row, "label" if "label" in row else "answer")
    category = to_text(get_field(row, "category"), "category")
    key = "question_id" if "question_id" in row else "index"
    cell = get_field(row, "image")
    image = images.locate(cell)
    is_number = isinstance(answer, int) and 0 <= answer < len(choices)
    return GoldSample(
        id=f"{category}/{to_text(get_field(row, key), key)}",
        image=image,
        question=question,
        choices=choices,
        answer=OPTION_LETTERS[answer] if is_number else to_letter(to_text(answer, "label"), choices),
        category=category,
        source="V* Bench",
        gold_boxes=_read_boxes(image),
    )


def _read_boxes(image: str) -> tuple[Box, ...]:
    """Read the boxes in the JSON file of an image, published as ``[x, y, width, height]``; empty without a file."""
    image_path = from_stored_path(image)
    boxes_file = resolve_inside(image_path.parent, f"{image_path.stem}.json")
    if not boxes_file.is_file():
        return ()
    annotation = json.loads(read_regular_file(boxes_file, follow_symlinks=True))
    labels = to_texts(annotation.get("target_object"), "target_object") if isinstance(annotation, dict) else ()
    return repair_boxes(get_field(annotation, "bbox"), image, labels, is_xywh=True)
