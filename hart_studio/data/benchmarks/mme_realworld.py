"""MME-RealWorld and its Lite part, the rows of the published JSON. There are no gold boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hart_studio.data.rows import find_picture, get_field, strip_letters, to_letter, to_text, to_texts
from hart_studio.records import GoldSample


def read_mme_realworld_row(row: Any, image_root: Path) -> GoldSample:
    """One question.

    The category is ``<Task>/<Subtask>``, as ``Perception/Autonomous_Driving``: the columns of the paper's Table 2.
    Option letters are taken off the texts; the Chinese part writes them in full-width brackets.

    Args:
        row: An object with ``Question_id``, ``Image``, ``Text``, ``Answer choices``, ``Ground truth``, ``Task`` and
            ``Subtask``.
        image_root: Folder that ``Image`` starts from.

    Raises:
        ValueError: If a field is missing or is not what it should be, or if the picture is missing.
        InputError: If the picture's name leads out of the folder.
    """
    choices = strip_letters(to_texts(get_field(row, "Answer choices"), "Answer choices"))
    task, subtask = to_text(get_field(row, "Task"), "Task"), to_text(get_field(row, "Subtask"), "Subtask")
    return GoldSample(
        id=to_text(get_field(row, "Question_id"), "Question_id"),
        image=find_picture(image_root, get_field(row, "Image")),
        question=to_text(get_field(row, "Text"), "Text"),
        choices=choices,
        answer=to_letter(to_text(get_field(row, "Ground truth"), "Ground truth"), choices),
        category=f"{task}/{subtask}",
        source="MME-RealWorld",
        gold_boxes=(),
    )
