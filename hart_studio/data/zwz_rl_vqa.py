"""ZwZ-RL-VQA: training questions of Region-to-Image Distillation (arXiv 2602.11858), in Parquet with image files.

The columns are those that the authors' published conversion writes: ``images``, ``problem``, ``answer``, ``bbox`` and
``status``. Their images show the region of the question as a drawn box.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hart_studio.data.benchmarks.images import ImageResolver, content_id
from hart_studio.data.benchmarks.published_files import find_tables
from hart_studio.data.cells import extract_options, repair_boxes
from hart_studio.data.rows import LoadedSamples, collect_samples, get_field, to_letter, to_text
from hart_studio.data.tables import read_rows
from hart_studio.records import GoldSample

SOURCE: Final = "ZwZ-RL-VQA"

_TABLES: Final = ("*.parquet", "*.jsonl")
_IMAGE_MARK: Final = "<image>"


def load_zwz_rl_vqa(path: Path, cache: Path, *, image_root: Path | None = None) -> LoadedSamples[GoldSample]:
    """Read the questions of a file, or of all Parquet files in a folder.

    Args:
        path: File or folder.
        cache: Folder for embedded images, created if missing.
        image_root: Base folder of image paths; default: the folder, or the folder of the file.

    Raises:
        DataError: If there is no such file, or it contains no valid row.
    """
    tables = find_tables(path, _TABLES, has_parts=True) if path.is_dir() else (path,)
    cache.mkdir(parents=True, exist_ok=True)
    images = ImageResolver(image_root or (path if path.is_dir() else path.parent), cache)

    def read(row: Any) -> GoldSample:
        if isinstance(row, ValueError):
            raise row
        return read_zwz_row(row, images)

    rows = (
        (f"{table.name} {location}" if len(tables) > 1 else location, row)
        for table in tables
        for location, row in read_rows(table)
    )
    return collect_samples(SOURCE, rows, read, needs_answer=True)


def read_zwz_row(row: Any, images: ImageResolver) -> GoldSample:
    """Convert one question; the box becomes a gold box, which training cannot access.

    Args:
        row: An object with ``images`` (a list of one image), ``problem`` with its options, ``answer`` (a letter, or a
            text without options), and optionally ``bbox``, four numbers in pixels.
        images: Resolves the images.

    Raises:
        ValueError: If a field is missing or invalid, there is not exactly one image, or the box is not in the image.
        HartError: If the image cannot be read, or is outside the folder.
    """
    cells = get_field(row, "images")
    if not isinstance(cells, (list, tuple)) or len(cells) != 1:
        raise ValueError("expected a list of one image in 'images'")
    published = to_text(get_field(row, "problem"), "problem").replace(_IMAGE_MARK, "").strip()
    question, choices = extract_options(published)
    answer = to_text(get_field(row, "answer"), "answer").strip()
    image = images.locate(cells[0])
    box = row.get("bbox")
    return GoldSample(
        id=content_id(image.rpartition("/")[2], question, *choices),
        image=image,
        question=question,
        choices=choices,
        answer=to_letter(answer, choices) if choices else answer,
        source=SOURCE,
        gold_boxes=() if box is None else repair_boxes([box], image),
    )
