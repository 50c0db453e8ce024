"""Where the rows of a project come from: one door for the command line and the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hart_studio.data.columns import Columns, guess_columns
from hart_studio.data.rows import LoadedSamples
from hart_studio.data.sources import load_jsonl
from hart_studio.data.tables import load_table, peek_table
from hart_studio.errors import InputError
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.labeling.formats.table import FORMATS, find_format
from hart_studio.labeling.picture_sets import load_picture_folder, load_picture_zip

TABLES: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Endings of tables of questions."""

KINDS: Final = ("auto", "questions", "table", "pictures", "hugging_face", *FORMATS)
"""What a source can be. ``questions``: the JSONL form of ``data.sources.load_jsonl``, with answers as letters."""

_LONGEST_CELL: Final = 120
_QUESTIONS_FILE: Final = "samples.jsonl"
_QUESTION_FIELDS: Final = frozenset({"id", "image", "question", "choices", "answer"})


@dataclass(frozen=True)
class SourceSettings:
    """How to read a source.

    Attributes:
        kind: One of ``KINDS``; ``auto`` looks at the path.
        columns: For tables and data sets: field of ``Columns`` -> column, where the guess is wrong; empty text = none.
        image_root: Folder that pictures' paths start from.
        question: What is asked about each picture that has no question, or for each label that has none.
        choices: Option texts for that question.
        split: Split of a data set that has several.
        config: Configuration of a data set that has several.
    """

    kind: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    image_root: Path | None = None
    question: str = ""
    choices: tuple[str, ...] = ()
    split: str | None = None
    config: str | None = None


def load_source(name: str, cache: Path, settings: SourceSettings) -> LoadedSamples[Any]:
    """Read the rows of a source.

    Args:
        name: Path of a file or folder, or a hub id.
        cache: Folder for pictures that a source holds as bytes.
        settings: How.

    Returns:
        Samples, gold samples or labeled samples, whichever the source has.

    Raises:
        InputError: If the kind cannot be told, or something that it needs is missing.
        DataError: If it cannot be read.
    """
    path = Path(name)
    kind = guess_kind(name) if settings.kind == "auto" else settings.kind
    if kind == "pictures":
        if not settings.question.strip():
            raise InputError("expected a question to ask about each picture, got none; give one")
        if path.is_dir():
            return load_picture_folder(path, settings.question, settings.choices)
        return load_picture_zip(path, cache, settings.question, settings.choices)
    if kind == "questions":
        file = path / _QUESTIONS_FILE if path.is_dir() else path
        return load_jsonl(file, image_root=settings.image_root, needs_answer=False)
    if kind == "table":
        columns = map_columns(peek_table(path)[0], settings.columns)
        return load_table(path, cache, columns, image_root=settings.image_root)
    if kind == "hugging_face":
        return _load_hugging_face(name, cache, settings)
    options = ImportOptions(image_root=settings.image_root, picture_cache=cache)
    if settings.question.strip():
        options = replace(options, template=settings.question)
    return find_format(kind).load(path, options)


def peek_source(name: str) -> dict[str, Any]:
    """What a source most likely is: ``kind``; of a table also ``names``, guessed ``columns``, and its first rows.

    Raises:
        InputError: If it cannot be told.
        DataError: If it cannot be read.
    """
    kind = guess_kind(name)
    if kind != "table":
        return {"kind": kind}
    names, rows = peek_table(Path(name))
    columns = {
        field: ", ".join(value) if isinstance(value, tuple) else value or ""
        for field, value in vars(guess_columns(names)).items()
    }
    shown = [{name: _shorten(row.get(name)) for name in names} for row in rows]
    return {"kind": kind, "names": names, "columns": columns, "rows": shown}


def guess_kind(name: str) -> str:
    """What a source most likely is.

    Raises:
        InputError: If it cannot be told.
    """
    path = Path(name)
    if path.is_dir():
        if any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json", "dataset_info.json")):
            return "hugging_face"
        if (path / "data.yaml").is_file():
            return "yolo"
        if (path / "Annotations").is_dir():
            return "pascal_voc"
        if (path / _QUESTIONS_FILE).is_file():
            return "questions"
        return "pictures"
    if path.suffix.lower() == ".zip":
        return "pictures"
    if path.suffix.lower() in TABLES:
        return _guess_table(path)
    if not path.exists() and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return "hugging_face"
    raise InputError(f"expected a file, a folder or a hub id, got {name!r}; check the path, or name its kind: {KINDS}")


def _shorten(value: Any) -> str:
    text = f"{len(value):,} bytes" if isinstance(value, (bytes, bytearray)) else str("" if value is None else value)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"


def _guess_table(path: Path) -> str:
    """A table of rows with fields that the form's own names have is read as that form."""
    names, rows = peek_table(path)
    if "schema" in names and str(rows[0].get("schema", "")).startswith("hart.label/"):
        return "native"
    has_options = all(isinstance(row.get("choices"), list) for row in rows)
    return "questions" if has_options and set(names) >= _QUESTION_FIELDS else "table"


def map_columns(names: list[str], chosen: Mapping[str, str]) -> Columns:
    """The guessed columns with some of them set by a person.

    Raises:
        InputError: If a field is none of ``Columns``, or one that cannot be missing is.
    """
    columns = guess_columns(names)
    for name, value in chosen.items():
        if name not in Columns.__dataclass_fields__:
            raise InputError(f"expected one of {', '.join(Columns.__dataclass_fields__)}, got {name!r}")
        if name in ("image", "question") and not value:
            raise InputError(f"expected a column for {name}, got none; choose one")
        found: Any = value or None
        if name == "choices" and value and "," in value:
            found = tuple(part.strip() for part in value.split(","))
        columns = replace(columns, **{name: found})
    return columns


def _load_hugging_face(name: str, cache: Path, settings: SourceSettings) -> LoadedSamples[Any]:
    from hart_studio.data.hugging_face import load_hugging_face, read_column_names  # noqa: PLC0415 - takes seconds

    columns = map_columns(read_column_names(name, settings.config, settings.split), settings.columns)
    return load_hugging_face(
        name,
        cache,
        columns,
        config=settings.config,
        split=settings.split,
        image_root=settings.image_root,
        needs_answer=False,
    )
