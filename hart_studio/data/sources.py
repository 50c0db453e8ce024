"""Samples from folders: our JSONL form, the needle world's, and MME-RealWorld as published.

Names of images come from the files. They are resolved below a folder that the caller names and never leave it.
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
    """The first path of the settings that does not exist on this machine; empty when all do, or none is needed.

    What may be a data set of the Hugging Face hub is not looked up.
    """
    is_local = settings.source != "hf" or not is_hub_id(settings.path)
    for path in (settings.path if is_local else "", settings.image_root):
        # os.path.exists, because Path.exists raises where a name is longer than the system allows.
        if path and not os.path.exists(path):  # noqa: PTH110
            return path
    return ""


def load_jsonl(
    path: Path, *, image_root: Path | None = None, source: str | None = None, needs_answer: bool = True
) -> LoadedSamples[GoldSample]:
    """Read a JSONL file: one object per line with ``id``, ``image``, ``question``, ``choices`` and ``answer``.

    ``choices`` are option texts without letters, empty for an open question. ``answer`` is the option's letter, or the
    expected text of an open question, or null. Optional are ``gold_boxes``, a list of ``[x_min, y_min, x_max, y_max]``
    in original pixels, for evaluation; ``label_boxes``, for SFT on grounded answers, a list of objects with such a
    ``box`` and its ``label``; and ``kind``, or else ``category``. Other fields are ignored.

    Args:
        path: The file.
        image_root: Folder that the images' names start from; the file's own by default.
        source: Name of the data set; the file's folder by default.
        needs_answer: Whether a row without a known answer is a bad one.

    Raises:
        DataError: If the file cannot be read, or holds no sample at all.
    """
    root = image_root or path.parent
    name = source or path.resolve().parent.name
    try:
        file = open_regular_file(path, follow_symlinks=True)
    except OSError as error:
        raise DataError(f"expected a readable file at {path}, got {error.strerror}; check the path") from error

    def read(line: bytes | None) -> GoldSample:
        if line is None:
            raise ValueError(LINE_TOO_LONG)
        return read_sample_row(parse_bounded_json(line.rstrip(b"\r\n")), root, name)

    with file:
        lines = ((f"line {number}", line) for number, line in read_lines(file) if line is None or line.strip())
        return collect_samples(name, lines, read, needs_answer=needs_answer)


def read_sample_row(row: Any, image_root: Path, source: str) -> GoldSample:
    """One object of the JSONL form, as ``load_jsonl`` describes it.

    Args:
        row: The object.
        image_root: Folder that the image's name starts from.
        source: Name of the data set.

    Raises:
        ValueError: If a field is missing or is not what it should be, or if the image is missing.
        InputError: If the image's name leads out of the folder.
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
    """Read a folder that ``python -m hart_studio.needle`` wrote: ``samples.jsonl`` and the images that it names.

    Raises:
        DataError: If there is no such file, or it holds no sample at all.
    """
    return load_jsonl(folder / "samples.jsonl", source="needle")


def load_mme_realworld(path: Path, *, image_root: Path | None = None) -> LoadedSamples[GoldSample]:
    """Read MME-RealWorld, or its Lite part, in the published form: a JSON list of questions beside their images.

    Args:
        path: The JSON file, or a folder with exactly one.
        image_root: Folder that the images' names start from; the JSON file's own by default.

    Raises:
        DataError: If the file cannot be found or read, or holds no sample at all.
    """
    file = _only_json(path) if path.is_dir() else path
    images = ImageResolver(image_root or file.parent)
    rows = ((f"row {number}", row) for number, row in enumerate(_read_list(file), start=1))
    return collect_samples(MME_REALWORLD, rows, lambda row: read_mme_realworld_row(row, images), needs_answer=True)


def _only_json(folder: Path) -> Path:
    found = sorted(folder.glob("*.json"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"expected exactly one JSON file in {folder}, got {names}; name the file itself")
    return found[0]


def _read_list(file: Path) -> list[Any]:
    try:
        rows = parse_bounded_json(read_regular_file(file, MAX_DOCUMENT_BYTES, follow_symlinks=True))
    except OSError as error:
        raise DataError(f"expected a readable file at {file}, got {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"expected a JSON list in {file}, got text that is not JSON: {error}; repair the file"
        ) from error
    if not isinstance(rows, list):
        raise DataError(f"expected a JSON list of questions in {file}, got {type(rows).__name__}; name another file")
    return rows
