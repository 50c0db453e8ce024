"""Samples from a Hugging Face data set: saved to disk, a local folder of data files, or a hub id.

Whoever imports this module waits for the ``datasets`` library, so only jobs that read such a data set should.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import datasets

from hart_studio.data.rows import (
    LoadedSamples,
    collect_samples,
    find_picture,
    strip_letters,
    to_boxes,
    to_letter,
    to_text,
    to_texts,
)
from hart_studio.errors import DataError
from hart_studio.files import write_atomically
from hart_studio.image_kinds import HEAD_BYTES, SUPPORTED, kind_of
from hart_studio.prompts import OPTION_LETTERS
from hart_studio.records import GoldSample

_LONGEST_NAME: Final = 1024
"""A longer text in the image column is no path."""


@dataclass(frozen=True)
class Columns:
    """Which column holds what. Every column that is named must exist."""

    image: str = "image"
    """Pictures: an image feature, bytes, base64 text, or paths."""
    question: str = "question"
    """Questions without their choices."""
    answer: str = "answer"
    """The option's letter or its text; for an open question the expected text."""
    choices: str | tuple[str, ...] | None = None
    """Options: a column of lists, a column of text with one option a line, or one column per option. None: open
    questions. Letters in front of the options are taken off."""
    id: str | None = None
    """Ids; None: the row's number."""
    category: str | None = None
    """Kinds of question."""
    gold_boxes: str | None = None
    """Lists of ``[x_min, y_min, x_max, y_max]`` in original pixels, for evaluation only."""

    @property
    def named(self) -> tuple[str, ...]:
        """Every column that is read."""
        values = (getattr(self, each.name) for each in fields(self))
        return tuple(name for value in values if value for name in ((value,) if isinstance(value, str) else value))


def load_hugging_face(
    name: str,
    cache: Path,
    columns: Columns,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    image_root: Path | None = None,
    needs_answer: bool = True,
) -> LoadedSamples[GoldSample]:
    """Read a data set.

    Args:
        name: A folder made by ``save_to_disk``, a folder of data files, or a hub id.
        cache: Folder for the pictures that are stored as bytes, made when missing. Files are named by content, so
            questions about one picture share one file.
        columns: Which column holds what.
        config: Configuration of a data set that has several.
        split: Split; needed when there are several.
        revision: Version of a hub data set.
        image_root: Folder that pictures given as paths must lie in. By default the data set's own folder, or for a hub
            id the library's cache.
        needs_answer: Whether a row without a known answer is a bad one.

    Raises:
        DataError: If it cannot be read, lacks a column, has several splits and none was named, or holds no sample.
    """
    folder = Path(name) if Path(name).is_dir() else None
    table = _pick_split(_open(name, folder, config, revision), name, split)
    missing = sorted(set(columns.named) - set(table.column_names))
    if missing:
        raise DataError(
            f"expected the columns {', '.join(missing)} in {name}, got {', '.join(table.column_names)}; map the columns"
        )
    table = table.select_columns(list(dict.fromkeys(columns.named))).with_format(None)
    if isinstance(table.features[columns.image], datasets.Image):
        # The bytes as they are: nothing is decoded, nothing is encoded again.
        table = table.cast_column(columns.image, datasets.Image(decode=False))
    cache.mkdir(parents=True, exist_ok=True)
    root = image_root or folder or Path(datasets.config.HF_CACHE_HOME)
    source = folder.resolve().name if folder else name

    def read(index: int) -> GoldSample:
        row = table[index]
        choices = _read_choices(row, columns)
        answer = row[columns.answer]
        return GoldSample(
            id=to_text(row[columns.id], columns.id) if columns.id else f"{index + 1:06d}",
            image=_locate_picture(row[columns.image], root, cache),
            question=to_text(row[columns.question], columns.question),
            choices=choices,
            answer=None if answer is None else _read_answer(to_text(answer, columns.answer), choices),
            category=to_text(row[columns.category], columns.category) if columns.category else "",
            source=source,
            gold_boxes=to_boxes(row[columns.gold_boxes], columns.gold_boxes) if columns.gold_boxes else (),
        )

    rows = ((f"row {index + 1}", index) for index in range(len(table)))
    return collect_samples(source, rows, read, needs_answer=needs_answer)


def _open(name: str, folder: Path | None, config: str | None, revision: str | None) -> Any:
    """The data set, or a mapping of its splits."""
    is_saved = folder is not None and any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json"))
    try:
        if is_saved:
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, name=config, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(
            f"expected a data set at {name!r}, got: {reason}; check the name, or give a local folder"
        ) from error


def _pick_split(opened: Any, name: str, split: str | None) -> datasets.Dataset:
    if isinstance(opened, datasets.Dataset):
        return opened
    chosen = split or (next(iter(opened)) if len(opened) == 1 else None)
    if chosen not in opened:
        raise DataError(f"expected one of the splits {', '.join(opened)} of {name}, got {chosen}; name one")
    return opened[chosen]


def _read_choices(row: dict[str, Any], columns: Columns) -> tuple[str, ...]:
    if columns.choices is None:
        return ()
    if isinstance(columns.choices, tuple):
        texts = ["" if row[name] is None else to_text(row[name], name) for name in columns.choices]
        while texts and not texts[-1]:  # a question with fewer options leaves the last columns empty
            texts.pop()
        return tuple(texts)
    value = row[columns.choices]
    lines = [line for line in value.splitlines() if line.strip()] if isinstance(value, str) else value
    return strip_letters(to_texts(lines, columns.choices))


def _read_answer(answer: str, choices: tuple[str, ...]) -> str:
    """The answer as a sample has it: a letter when there are choices."""
    if not choices:
        return answer
    same = [index for index, choice in enumerate(choices) if choice.strip() == answer.strip()]
    if len(same) != 1:
        return to_letter(answer, choices)
    letter = OPTION_LETTERS[same[0]]
    try:
        read = to_letter(answer, choices)
    except ValueError:
        return letter
    if read != letter:
        raise ValueError(f"the answer {answer!r} is the letter of one option and the text of another")
    return letter


def _locate_picture(value: Any, root: Path, cache: Path) -> str:
    """The path of a picture; bytes are written to the cache first."""
    if isinstance(value, dict):  # an image feature: bytes, or the path of a file
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return _keep_picture(value, cache)
    if not isinstance(value, str):
        raise ValueError(f"expected a picture, got {type(value).__name__}")
    decoded = _decode_base64(value)
    if kind_of(decoded[:HEAD_BYTES]) in SUPPORTED:  # a path can be base64 by its letters, but not a picture
        return _keep_picture(decoded, cache)
    if len(value) > _LONGEST_NAME:
        raise ValueError("expected a picture, got text that is neither one in base64 nor a path")
    path = Path(value)
    if not path.is_absolute():
        return find_picture(root, value)
    try:
        return find_picture(root, str(path.resolve().relative_to(root.resolve())))
    except ValueError as error:
        raise ValueError(f"the picture is missing or lies outside of {root}") from error


def _decode_base64(text: str) -> bytes:
    """The bytes; none when the text is not base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return b""


def _keep_picture(data: bytes, cache: Path) -> str:
    kind = kind_of(data[:HEAD_BYTES])
    if kind not in SUPPORTED:
        raise ValueError(f"expected one of {', '.join(SUPPORTED)}, got {kind or 'data that is no picture'}")
    path = cache / f"{hashlib.sha256(data).hexdigest()[:32]}.{kind.lower()}"
    if not path.is_file():
        write_atomically(path, data)
    return str(path.resolve())
