"""Preview of a source before its import: detected kind, first rows, and whether the images exist."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from hart_studio.data.cells import resolve_image
from hart_studio.data.columns import infer_columns
from hart_studio.data.tables import preview_table
from hart_studio.errors import HartError
from hart_studio.labeling.source_detection import IMAGE_SUFFIXES, choose_table, list_folder, list_images
from hart_studio.labeling.sources import detect_source_kind, is_zip
from hart_studio.labeling.zip_archives import ZipArchive

MAX_PREVIEW_IMAGES: Final = 6

_MAX_CELL_CHARS: Final = 120


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
