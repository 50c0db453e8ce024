"""HR-Bench 4K and 8K: every question four times, with its options rotated by one position each time."""

from __future__ import annotations

from typing import Any

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.cells import read_lettered
from hart_studio.data.rows import get_field, to_letter, to_text
from hart_studio.records import GoldSample


def read_hr_bench_row(row: Any, images: ImageResolver) -> GoldSample:
    """Convert one question in one of its cycles. There are no gold boxes.

    The category, such as ``single/cycle 0``, is the question type, ``single`` or ``cross``, and the cycle of options.

    Args:
        row: An object with ``index``, ``image`` in base64 or as a feature, ``question``, ``A`` to ``D``, ``answer``,
            ``category`` and ``cycle_category``.
        images: Resolves the images.

    Raises:
        ValueError: If a field is missing or invalid, or the image is missing.
        InputError: If the image is outside the folder.
    """
    cycle = to_text(get_field(row, "cycle_category"), "cycle_category")
    choices = read_lettered(row)
    return GoldSample(
        id=f"{to_text(get_field(row, 'index'), 'index')}/cycle {cycle}",
        image=images.locate(get_field(row, "image")),
        question=to_text(get_field(row, "question"), "question"),
        choices=choices,
        answer=to_letter(to_text(get_field(row, "answer"), "answer"), choices),
        category=f"{to_text(get_field(row, 'category'), 'category')}/cycle {cycle}",
        source="HR-Bench",
        gold_boxes=(),
    )
