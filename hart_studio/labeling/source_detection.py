"""Detect the kind of a folder or table: images, questions or labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from hart_studio.data.rows import get_field
from hart_studio.data.tables import preview_table
from hart_studio.errors import DataError, HartError, InputError
from hart_studio.labeling.formats import coco, native
from hart_studio.labeling.formats.reading import META, iterate_lines, parse_line, read_json
from hart_studio.labeling.formats.table import FORMATS

TABLES: Final = (".jsonl", ".csv", ".tsv", ".parquet", ".json")
"""Suffixes of tables of questions. A JSON file in a folder is a table only if it holds a list of rows."""

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""Suffixes of images; other files are ignored. The content decides in the end."""

LABEL_SUFFIXES: Final = frozenset({*TABLES, ".arrow", ".txt", ".xml", ".yaml", ".yml", ".names"})
"""Suffixes of files with questions or labels."""

QUESTIONS: Final = "samples.jsonl"
"""Table of a folder in the form of ``data.sources.load_jsonl``."""

MAX_FILES: Final = 200_000
"""Maximum files of a folder or archive that are inspected. Project default."""

_HUGGING_FACE: Final = frozenset({"state.json", "dataset_dict.json", "dataset_info.json"})
_COCO_LISTS: Final = ("images", "annotations", "categories")
_QUESTION_FIELDS: Final = frozenset({"id", "image", "question", "choices", "answer"})


def list_folder(folder: Path) -> Collection[str]:
    """Names of the files and folders in a folder; folders end in ``/``."""
    return {path.name + ("/" if path.is_dir() else "") for path in folder.iterdir()}


def is_system_file(name: str) -> bool:
    """Whether macOS created the file to hold attributes of another one.

    Args:
        name: Parts separated by ``/``.
    """
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith("._")


def list_images(root: Path) -> Iterator[Path]:
    """Iterate over the images below a folder, sorted; links are not followed.

    Raises:
        DataError: If there are too many files.
    """
    found = 0
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or is_system_file(path.name):
            continue
        if path.is_file() and not path.is_symlink():
            found += 1
            if found > MAX_FILES:
                raise DataError(f"More than {MAX_FILES:,} images in {root}. Split the folder.")
            yield path


def detect_kind_by_names(names: Collection[str]) -> str | None:
    """Detect the kind of a folder from the names in it; None if the names do not determine it.

    Args:
        names: Names from ``list_folder``.
    """
    if _HUGGING_FACE & set(names):
        return "hugging_face"
    if "data.yaml" in names:
        return "yolo"
    if "Annotations/" in names:
        return "pascal_voc"
    if f"{coco.ANNOTATIONS}/" in names:
        return "coco"
    return "questions" if QUESTIONS in names else None


def list_tables(names: Collection[str]) -> list[str]:
    """Names of the tables in a folder; a JSON file counts only if it is the only one.

    Native records beside an export do not count: another tool may have changed the labels since.
    """
    files = (name for name in names if not name.endswith("/") and name != META and not is_system_file(name))
    tables = sorted(name for name in files if PurePosixPath(name).suffix.lower() in TABLES)
    return [name for name in tables if not name.lower().endswith(".json")] or (tables if len(tables) == 1 else [])


def choose_table(names: Collection[str], kind: str) -> str | None:
    """Choose the table that a folder of a kind is read from; None if it has none.

    Args:
        names: Names from ``list_folder``.
        kind: ``questions``, ``native`` or ``table``.

    Raises:
        InputError: If there are several.
    """
    usual = {"questions": QUESTIONS, "native": native.LABELS}.get(kind)
    if usual in names:
        return usual
    tables = list_tables(names)
    if len(tables) > 1:
        shown = ", ".join(tables[:4]) + (", …" if len(tables) > 4 else "")
        raise InputError(
            f"The folder has {len(tables)} tables of questions: {shown}. Keep one, import one alone, or choose the "
            "kind of the source, such as images."
        )
    return tables[0] if tables else None


def detect_folder_kind(names: Collection[str], extract: Callable[[str], Path]) -> str:
    """Detect the kind of a folder.

    Args:
        names: As ``list_folder`` gives them.
        extract: Name of a table in it -> path to read it from.

    Raises:
        InputError: If it has several tables.
        DataError: If its table cannot be read.
    """
    if kind := detect_kind_by_names(names):
        return kind
    if META in names and (kind := read_export_format(extract(META))):
        return kind
    table = choose_table(names, "table")
    if table is None:
        return "images"
    try:
        return detect_table_kind(extract(table))
    except DataError:
        if table.lower().endswith(".json"):  # not a table, such as camera metadata
            return "images"
        raise


def _detect_json_labels(path: Path) -> str | None:
    """Format of a JSON file of COCO or Label Studio; None for any other."""
    try:
        document = read_json(path)
    except DataError:
        return None
    if isinstance(document, dict) and all(isinstance(document.get(name), list) for name in _COCO_LISTS):
        return "coco"
    first = document[0] if isinstance(document, list) and document else document
    if not isinstance(first, dict) or not isinstance(first.get("data"), dict):
        return None
    has_results = any(isinstance(first.get(name), list) for name in ("annotations", "predictions"))
    return "label_studio" if has_results or set(first) <= {"id", "data", "meta"} else None


def read_export_format(records: Path) -> str | None:
    """Format of a HART Studio export, from the records beside it; None if they do not state one.

    Args:
        records: File ``META`` of the export.
    """
    try:
        _, first = next(iterate_lines(records))
        name = get_field(get_field(parse_line(first), "export"), "format")
    except (ValueError, RecursionError, HartError, StopIteration):
        return None
    return name if isinstance(name, str) and name in FORMATS else None


def detect_table_kind(path: Path) -> str:
    """Detect the kind of a table: labels of another tool, native records, native questions, or other columns.

    Raises:
        DataError: If it has no rows.
    """
    if path.suffix.lower() == ".json" and (kind := _detect_json_labels(path)):
        return kind
    names, rows = preview_table(path)
    if "schema" in names and str(rows[0].get("schema", "")).startswith("hart.label/"):
        return "native"
    has_options = all(isinstance(row.get("choices"), list) for row in rows)
    return "questions" if has_options and set(names) >= _QUESTION_FIELDS else "table"
