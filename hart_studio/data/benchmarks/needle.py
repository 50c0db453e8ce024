"""Needle: questions written by ``python -m hart_studio.needle``."""

from __future__ import annotations

from typing import Any, Final

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.sources import read_sample_row
from hart_studio.records import GoldSample

SOURCE: Final = "needle"
"""Name of the dataset."""


def read_needle_row(row: Any, images: ImageResolver) -> GoldSample:
    """Convert one question; its category is ``detail`` (not visible in the overview) or ``gist`` (visible).

    Args:
        row: An object of ``samples.jsonl``.
        images: Resolves the images.

    Raises:
        ValueError: If a field is missing or invalid, or the image is missing.
        InputError: If the image is outside the folder.
    """
    return read_sample_row(row, images.root, SOURCE)
