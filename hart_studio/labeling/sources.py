"""Sources of the rows of a project, for the command line and the page: location, loading, preview."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from hart_studio.data.cells import resolve_image
from hart_studio.data.columns import ColumnMapping, infer_columns
from hart_studio.data.rows import InvalidRow, LoadedSamples, collect_samples
from hart_studio.data.sources import load_jsonl
from hart_studio.data.tables import load_table, preview_table
from hart_studio.errors import DataError, HartError, InputError
from hart_studio.files import to_printable, to_stored_path
from hart_studio.labeling.formats.reading import (
    PLACEHOLDERS,
    ImportOptions,
    check_placeholders,
    fill_template,
    name_image,
)
from hart_studio.labeling.formats.table import FORMATS, get_format
from hart_studio.labeling.source_detection import (
    IMAGE_SUFFIXES,
    TABLES,
    choose_table,
    detect_folder_kind,
    detect_table_kind,
    list_folder,
    list_images,
)
from hart_studio.labeling.zip_archives import ProgressCallback, ZipArchive
from hart_studio.records import Sample

KINDS: Final = ("auto", "questions", "table", "images", "hugging_face", *FORMATS)
"""Kinds of sources. ``questions``: JSONL form of ``data.sources.load_jsonl``, with letters as answers."""

KIND_TITLES: Final = {
    "questions": "HART Studio questions (JSONL)",
    "table": "Table (CSV, TSV, JSON, Parquet)",
    "images": "Images only",
    "hugging_face": "Hugging Face dataset",
}
"""Display names of kinds; other kinds have the title of their format."""

ZIP: Final = ".zip"
"""Suffix of archives, which are read like folders."""

IMAGE_PLACEHOLDERS: Final = {name: PLACEHOLDERS[name] for name in ("name", "folder")}
"""Placeholders of a question about an image without labels, with their meanings."""

_WITH_ONE_TABLE: Final = frozenset({"questions", "table", "native"})

MAX_PREVIEW_IMAGES: Final = 6

_MAX_CELL_CHARS: Final = 120


@dataclass(frozen=True)
class SourceSettings:
    """Settings to read a source.

    Attributes:
        kind: One of ``KINDS``; ``auto`` detects it from the path.
        columns: For tables and datasets: ``ColumnMapping`` field -> column, overrides the detection; empty = none.
        image_root: Base folder of relative image paths.
        question: Question for each image or label without a question.
        choices: Option texts of that question.
        split: Split of a hub dataset.
        config: Configuration of a hub dataset.
    """

    kind: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    image_root: Path | None = None
    question: str = ""
    choices: tuple[str, ...] = ()
    split: str | None = None
    config: str | None = None


class Source(NamedTuple):
    """A located source."""

    kind: str
    """One of ``KINDS`` except ``auto``."""
    name: str
    """Path of a file or folder, or a hub id."""
    invalid_rows: tuple[InvalidRow, ...] = ()
    """Files of an archive that could not be unpacked."""
    unpacked: Path | None = None
    """Folder that the archive was unpacked to, if it is new."""

    def forget(self) -> None:
        """Remove unpacked files that are not used."""
        if self.unpacked:
            shutil.rmtree(self.unpacked, ignore_errors=True)


def locate_source(name: str, cache: Path, settings: SourceSettings, progress: ProgressCallback | None = None) -> Source:
    """Detect the kind of a source. A zip is unpacked; a folder with one table of questions counts as that table.

    Args:
        name: Path of a file or folder, or a hub id.
        cache: Folder for unpacked files.
        settings: Settings; only ``kind`` and ``question`` are used.
        progress: Called for each file of a zip.

    Raises:
        InputError: If the kind cannot be detected, or a required setting is missing.
        DataError: If it cannot be read.
        OSError: If a zip cannot be unpacked to the cache.
    """
    kind = detect_source_kind(name) if settings.kind == "auto" else settings.kind
    if kind == "images":
        check_question(settings.question)
    path = Path(name)
    invalid_rows: tuple[InvalidRow, ...] = ()
    unpacked = None
    if is_zip(path):
        with ZipArchive(path) as archive:
            path, invalid_rows, is_new = archive.unpack(cache, progress)
            unpacked = path if is_new else None
            if kind != "images":  # its question may contain the folder name
                path /= archive.root
    elif kind == "hugging_face" and not path.exists():
        return Source(kind, name)
    source = Source(kind, str(path), invalid_rows, unpacked)
    if kind in _WITH_ONE_TABLE and path.is_dir():
        try:
            return source._replace(name=str(path / _choose_table(path, kind, name)))
        except HartError:
            source.forget()
            raise
    return source


def _choose_table(folder: Path, kind: str, name: str) -> str:
    table = choose_table(list_folder(folder), kind)
    if table is None:
        raise InputError(f"No table of questions ({', '.join(TABLES)}) in {name}. Pass the path of the table.")
    return table


def load_source(
    source: Source, cache: Path, settings: SourceSettings, negative_question: str | None = None
) -> LoadedSamples[Any]:
    """Read the rows of a source.

    Args:
        source: Source from ``locate_source``.
        cache: Folder for images embedded in the source.
        settings: Settings of the source.
        negative_question: Question for images that another tool left without a box; None = they are invalid rows.

    Returns:
        Samples, gold samples or labeled samples, depending on the source.

    Raises:
        InputError: If a required setting is missing.
        DataError: If it cannot be read.
    """
    try:
        loaded = _load(source, cache, settings, negative_question)
    except DataError as error:
        if not source.invalid_rows:
            raise
        first = source.invalid_rows[0]
        problem = f"{len(source.invalid_rows)} files of the zip are invalid, such as {first.row!r}: {first.reason}"
        raise DataError(f"{error}; {problem}") from error
    return replace(loaded, invalid_rows=(*source.invalid_rows, *loaded.invalid_rows))


def _load(source: Source, cache: Path, settings: SourceSettings, negative_question: str | None) -> LoadedSamples[Any]:
    kind, name = source.kind, source.name
    path = Path(name)
    if kind == "images":
        return load_unlabeled_images(path, settings.question, settings.choices)
    if kind == "questions":
        return load_jsonl(path, image_root=settings.image_root, needs_answer=False)
    if kind == "table":
        columns = map_columns(preview_table(path)[0], settings.columns)
        return load_table(path, cache, columns, image_root=settings.image_root)
    if kind == "hugging_face":
        return _load_hugging_face(name, cache, settings)
    options = ImportOptions(image_root=settings.image_root, image_cache=cache, negative_question=negative_question)
    if settings.question.strip():
        options = replace(options, template=settings.question)
    return get_format(kind).load(path, options)


def detect_source_kind(name: str) -> str:
    """Detect the kind of a source.

    Raises:
        InputError: If it cannot be detected.
        DataError: If it cannot be read.
    """
    path = Path(name)
    if path.is_dir():
        return detect_folder_kind(list_folder(path), lambda table: path / table)
    if is_zip(path):
        with ZipArchive(path) as archive, tempfile.TemporaryDirectory(prefix="hart-zip-") as folder:
            root = archive.root
            return detect_folder_kind(
                archive.list_folder(root), lambda table: archive.unpack_table(root + table, Path(folder))
            )
    if path.suffix.lower() in TABLES:
        return detect_table_kind(path)
    if not path.exists() and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return "hugging_face"
    if path.suffix.lower() in IMAGE_SUFFIXES and path.exists():
        raise InputError(f"{path.name!r} is a single image. Choose its folder, or a zip of images.")
    kinds = ", ".join(KINDS[1:])
    raise InputError(f"{name!r} is not a file, folder or hub id. Check the path, or choose a kind: {kinds}.")


def is_zip(path: Path) -> bool:
    """Whether a source is an archive."""
    return path.suffix.lower() == ZIP and not path.is_dir()


def map_columns(names: list[str], chosen: Mapping[str, str]) -> ColumnMapping:
    """Combine detected columns with those set by the user.

    Raises:
        InputError: If a field does not exist, or a required one has no column.
    """
    columns = infer_columns(names)
    for name, value in chosen.items():
        if name not in ColumnMapping.__dataclass_fields__:
            raise InputError(f"expected one of {', '.join(ColumnMapping.__dataclass_fields__)}, got {name!r}")
        if name in ("image", "question") and not value:
            raise InputError(f"No column for {name}. Choose one.")
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


def preview_source(name: str, image_root: Path | None = None, image_column: str = "") -> dict[str, Any]:
    """Preview a source: its detected kind and first rows.

    Args:
        name: Path of a file or folder, or a hub id.
        image_root: Base folder of image paths; the table's folder by default.
        image_column: Column of the images, if the user has chosen one.

    Returns:
        ``kind``. For images also ``count`` and the first ones, ``shown``. For a table ``names`` of the columns, the
        first ``rows``, the detected ``columns`` unless the table is in native form, the number of images ``found`` for
        these rows, and why the first other one is ``missing``.

    Raises:
        InputError: If the source has no preview.
        DataError: If it cannot be read.
    """
    kind, path = detect_source_kind(name), Path(name)
    if kind == "images":
        return {"kind": kind, **_preview_images(path)}
    if kind not in ("table", "questions"):
        return {"kind": kind}
    with tempfile.TemporaryDirectory(prefix="hart-preview-") as place:
        folder = Path(place)  # holds a table from a zip, and images embedded in a table
        if is_zip(path):
            with ZipArchive(path) as archive:
                inside = archive.root + str(choose_table(archive.list_folder(archive.root), kind))
                table = archive.unpack_table(inside, folder)
                return {
                    "kind": kind,
                    **_preview_rows(
                        table, kind, partial(_check_archive_member, archive, image_root, folder), image_column
                    ),
                }
        table = path / str(choose_table(list_folder(path), kind)) if path.is_dir() else path
        root = image_root or table.parent
        preview = _preview_rows(table, kind, lambda value: resolve_image(value, root, folder), image_column)
        return {"kind": kind, **preview}


def _preview_images(path: Path) -> dict[str, Any]:
    if is_zip(path):
        with ZipArchive(path) as archive:
            names = sorted(name for name in archive.files if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES)
    else:
        names = [image.relative_to(path).as_posix() for image in list_images(path)]
    return {"count": len(names), "shown": names[:MAX_PREVIEW_IMAGES]}


def _check_archive_member(archive: ZipArchive, image_root: Path | None, folder: Path, value: Any) -> None:
    """Find the image of a row in an archive, without unpacking it.

    Raises:
        ValueError: If it is missing or no image.
    """
    wanted = (PurePosixPath(archive.root) / value).as_posix() if isinstance(value, str) else ""
    if wanted in archive.files:
        archive.check_member(wanted)
        return
    try:
        resolve_image(value, image_root or folder, folder)
    except (ValueError, HartError) as error:
        if image_root is None and isinstance(value, str):
            raise ValueError(f"image not found in {archive.path.name}") from error
        raise


def _preview_rows(table: Path, kind: str, locate: Callable[[Any], object], image_column: str) -> dict[str, Any]:
    names, rows = preview_table(table)
    column = image_column or infer_columns(names).image
    has_images = column in names
    found, missing = 0, "" if has_images else "no image column detected"
    for row in rows if has_images else ():
        try:
            locate(row.get(column))
            found += 1
        except (ValueError, HartError) as error:
            missing = missing or str(error)
    shown = [{name: _shorten(row.get(name)) for name in names} for row in rows]
    preview = {"names": names, "rows": shown, "found": found, "missing": missing}
    return preview if kind == "questions" else {**preview, "columns": _guess_column_map(names)}


def _guess_column_map(names: Sequence[str]) -> dict[str, str]:
    """Field -> column; empty if none was detected."""
    return {
        field: ", ".join(value) if isinstance(value, tuple) else value if value in names else ""
        for field, value in vars(infer_columns(names)).items()
    }


def _shorten(value: Any) -> str:
    text = f"{len(value):,} bytes" if isinstance(value, (bytes, bytearray)) else str("" if value is None else value)
    return text if len(text) <= _MAX_CELL_CHARS else f"{text[:_MAX_CELL_CHARS]}…"


def check_question(question: str) -> None:
    """Check the question for images without labels.

    Raises:
        InputError: If it is empty, or contains ``{label}`` or another unknown placeholder.
    """
    if not question.strip():
        raise InputError("No question to ask about each image. Enter one.")
    if "{label}" in question:
        raise InputError(
            "The question has {label}, but images alone have no labels. Use {name} for the file name, or "
            "{folder} for the folder name."
        )
    check_placeholders(question, IMAGE_PLACEHOLDERS)


def load_unlabeled_images(folder: Path, question: str, choices: Sequence[str] = ()) -> LoadedSamples[Sample]:
    """Create one question per image of a folder.

    Args:
        folder: Folder, searched with subfolders; links are not followed.
        question: Question template; ``{name}`` = file name without suffix, ``{folder}`` = name of its folder.
        choices: Option texts without letters.

    Raises:
        DataError: If there is no such folder, no image in it, or too many files.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise DataError(f"{folder} is not a folder of images. Check the path.")

    def read(path: Path) -> Sample:
        name = to_stored_path(path.relative_to(root))
        return _ask(name, to_stored_path(path), question, choices, to_printable(root.name))

    images = ((to_stored_path(path.relative_to(root)), path) for path in list_images(root))
    return collect_samples(root.name, images, read, needs_answer=False)


def _ask(name: str, image: str, question: str, choices: Sequence[str], source: str) -> Sample:
    text = fill_template(question, name_image(name))
    return Sample(id=name, image=image, question=text, choices=tuple(choices), source=source)
