"""Load samples from folders: JSONL, needle, and published MME-RealWorld.

Image names come from the files. They are resolved below a folder given by the caller and cannot leave it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.benchmarks.mme_realworld import SOURCE as MME_REALWORLD
from hart_studio.data.benchmarks.mme_realworld import read_mme_realworld_row
from hart_studio.data.benchmarks.published_files import is_hub_id
from hart_studio.data.rows import (
    LoadedSamples,
    collect_samples,
    get_field,
    resolve_image_path,
    to_boxes,
    to_label_boxes,
    to_text,
    to_texts,
)
from hart_studio.data.tables import LINE_TOO_LONG
from hart_studio.errors import DataError
from hart_studio.files import MAX_DOCUMENT_BYTES, open_regular_file, parse_bounded_json, read_lines, read_regular_file
from hart_studio.records import GoldSample
from hart_studio.runs.config import DataConfig


def find_missing_path(settings: DataConfig) -> str:
    """Find the first path of the settings that does not exist; empty if all exist or none is needed.

    A possible Hub dataset is not checked.
    """
    is_local = settings.source != "hf" or not is_hub_id(settings.path)
    for path in (settings.path if is_local else "", settings.image_root):
        # os.path.exists, because Path.exists raises if a name is too long for the system.
        if path and not os.path.exists(path):  # noqa: PTH110
            return path
    return ""


def load_jsonl(
    path: Path, *, image_root: Path | None = None, source: str | None = None, needs_answer: bool = True
) -> LoadedSamples[GoldSample]:
    """Read a JSONL file: one object per line with ``id``, ``image``, ``question``, ``choices`` and ``answer``.

    ``choices`` are option texts without letters, empty for an open question. ``answer`` is the letter of an option, or
    the expected text of an open question, or null. Optional fields: ``gold_boxes``, a list of ``[x_min, y_min, x_max,
    y_max]`` in original pixels, for evaluation; ``label_boxes``, for SFT on grounded answers, a list of objects with
    such a ``box`` and its ``label``; and ``category``, over which a ``kind`` takes precedence.
    Other fields are ignored.

    Args:
        path: The file.
        image_root: Base folder of image names; default: the folder of the file.
        source: Name of the dataset; default: the name of the folder.
        needs_answer: Whether a row without a known answer is invalid.

    Raises:
        DataError: If the file cannot be read, or contains no valid row.
    """
    root = image_root or path.parent
    name = source or path.resolve().parent.name
    try:
        file = open_regular_file(path, follow_symlinks=True)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check the path.") from error

    def read(line: bytes | None) -> GoldSample:
        if line is None:
            raise ValueError(LINE_TOO_LONG)
        return read_sample_row(parse_bounded_json(line.rstrip(b"\r\n")), root, name)

    with file:
        lines = ((f"line {number}", line) for number, line in read_lines(file) if line is None or line.strip())
        return collect_samples(name, lines, read, needs_answer=needs_answer)


def read_sample_row(row: Any, image_root: Path, source: str) -> GoldSample:
    """Convert one JSONL object, as described in ``load_jsonl``.

    Args:
        row: The object.
        image_root: Base folder of image names.
        source: Name of the dataset.

    Raises:
        ValueError: If a field is missing or invalid, or the image is missing.
        InputError: If the image is outside the folder.
    """
    answer = get_field(row, "answer")
    return GoldSample(
        id=to_text(get_field(row, "id"), "id"),
        image=resolve_image_path(image_root, get_field(row, "image")),
        question=to_text(get_field(row, "question"), "question"),
        choices=to_texts(get_field(row, "choices"), "choices"),
        answer=None if answer is None else to_text(answer, "answer"),
        category=to_text(row.get("kind") or row.get("category") or "", "kind"),
        source=source,
        label_boxes=to_label_boxes(row.get("label_boxes"), "label_boxes"),
        gold_boxes=to_boxes(row.get("gold_boxes"), "gold_boxes"),
    )


def load_needle(folder: Path) -> LoadedSamples[GoldSample]:
    """Load a folder written by ``python -m hart_studio.needle``: ``samples.jsonl`` and its images.

    Raises:
        DataError: If there is no such file, or it contains no valid row.
    """
    return load_jsonl(folder / "samples.jsonl", source="needle")


def load_mme_realworld(path: Path, *, image_root: Path | None = None) -> LoadedSamples[GoldSample]:
    """Read MME-RealWorld, or its Lite part, in the published format: a JSON list of questions and an image folder.

    Args:
        path: The JSON file, or a folder with exactly one JSON file.
        image_root: Base folder of image names; default: the folder of the JSON file.

    Raises:
        DataError: If the file cannot be found or read, or contains no valid row.
    """
    file = _only_json(path) if path.is_dir() else path
    images = ImageResolver(image_root or file.parent)
    rows = ((f"row {number}", row) for number, row in enumerate(_read_list(file), start=1))
    return collect_samples(MME_REALWORLD, rows, lambda row: read_mme_realworld_row(row, images), needs_answer=True)


def _only_json(folder: Path) -> Path:
    found = sorted(folder.glob("*.json"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"expected exactly one JSON file in {folder}, got {names}; give the path of the file")
    return found[0]


def _read_list(file: Path) -> list[Any]:
    try:
        rows = parse_bounded_json(read_regular_file(file, MAX_DOCUMENT_BYTES, follow_symlinks=True))
    except OSError as error:
        raise DataError(f"Cannot read {file}: {error.strerror}. Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON: {error}. Repair the file.") from error
    if not isinstance(rows, list):
        raise DataError(
            f"{file} must contain a JSON list of questions, got {type(rows).__name__}. Choose another file."
        )
    return rows
