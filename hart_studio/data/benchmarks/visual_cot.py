"""Visual-CoT: questions without choices, with one gold box each, in thirteen subsets, of which the paper uses some."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from hart_studio.data.benchmarks.images import ImageResolver, content_id
from hart_studio.data.cells import read_literal, repair_boxes
from hart_studio.data.rows import get_field, to_text
from hart_studio.records import GoldSample

SUBSETS: Final = ("gqa", "sroie", "textcap", "textvqa", "visual7w")
"""Inferred: the paper uses 4,042 questions, without yes/no and descriptive ones, and does not name the subsets.
Omitting flickr30k, is the only choice of subsets with this number."""

_OTHER_NAMES: Final = {"v7w": "visual7w"}
_REQUEST: Final = re.compile(r"\s*Please provide the bounding box coordinates? of the region [^\n]{0,120}\Z")
_BOX_MARK: Final = "###"


def is_included(row: Any, subsets: Collection[str]) -> bool:
    """Whether a row is in one of the subsets and not a yes/no question; invalid rows are included, to be counted."""
    try:
        answer = _words(row, 3)
        return _subset(row) in subsets and answer.strip().rstrip(".").casefold() not in ("yes", "no")
    except ValueError:
        return True


def read_visual_cot_row(row: Any, images: ImageResolver) -> GoldSample:
    """Convert one question.

    The gold box follows ``###`` in the second entry of ``image``, in original pixels. The one in the conversation
    is the same box in units of a padded square, and is ignored.

    Args:
        row: An object with ``dataset``, ``question_id``, ``image`` (the path, and the path with the box) and
            ``conversations`` (question, box, image, answer).
        images: Resolves the images.

    Raises:
        ValueError: If a field is missing or invalid, or no part of the box is in the image.
        HartError: If the image cannot be read.
    """
    subset = _subset(row)
    paths = get_field(row, "image")
    if not isinstance(paths, (list, tuple)) or len(paths) < 2:
        raise ValueError("expected two entries in 'image': the path, and the path with the box")
    name, _, box = to_text(paths[1], "image").partition(_BOX_MARK)
    question = _REQUEST.sub("", _words(row, 0).replace("<image>", "")).strip()
    number = to_text(get_field(row, "question_id"), "question_id")
    image = images.locate(name.strip())
    return GoldSample(
        id=f"{subset}/{number}-{content_id(paths[1], question)}",
        image=image,
        question=question,
        answer=_words(row, 3).strip(),
        category=subset,
        source="Visual-CoT",
        gold_boxes=repair_boxes([read_literal(box, "image")], image),
    )


def _subset(row: Any) -> str:
    name = to_text(get_field(row, "dataset"), "dataset")
    return _OTHER_NAMES.get(name, name)


def _words(row: Any, turn: int) -> str:
    """Text of a turn of the conversation."""
    turns = get_field(row, "conversations")
    if not isinstance(turns, (list, tuple)) or len(turns) <= turn:
        raise ValueError(f"expected four turns in 'conversations', got {type(turns).__name__}")
    return to_text(get_field(turns[turn], "value"), "value")
