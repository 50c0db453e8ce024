"""The needle world: the questions that ``python -m hart_studio.needle`` writes."""

from __future__ import annotations

from typing import Any, Final

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.sources import read_sample_row
from hart_studio.records import GoldSample

SOURCE: Final = "needle"
"""Name of the data set."""


def read_needle_row(row: Any, images: ImageResolver) -> GoldSample:
    """One question; its category is ``detail`` or ``gist``: what the overview cannot show, and what it can.

    Args:
        row: An object of ``samples.jsonl``.
        images: Where the images are.

    Raises:
        ValueError: If a field is missing or is not what it should be, or if the image is missing.
        InputError: If the image's name leads out of the folder.
    """
    return read_sample_row(row, images.root, SOURCE)
