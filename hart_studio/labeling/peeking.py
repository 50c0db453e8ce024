"""A look at a source before its import: what it is taken for, its first rows, and whether its pictures are there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from hart_studio.data.columns import infer_columns
from hart_studio.data.embedded_images import resolve_image
from hart_studio.data.tables import preview_table
from hart_studio.errors import HartError
from hart_studio.labeling.archives import Archive
from hart_studio.labeling.folders import PICTURE_ENDINGS, choose_table, find_pictures, list_folder
from hart_studio.labeling.sources import guess_kind, is_zip

MOST_SHOWN_PICTURES: Final = 6

_LONGEST_CELL: Final = 120


def peek_source(name: str, image_root: Path | None = None, picture_column: str = "") -> dict[str, Any]:
    """What a source most likely is, and what can be seen of it at once.

    Args:
        name: Path of a file or folder, or a hub id.
        image_root: Folder that pictures' paths start from; the table's own by default.
        picture_column: Column of the pictures, where a person has chosen one.

    Returns:
        ``kind``. Of pictures also ``count`` and the first ``shown``. Of a table of questions ``names`` of the columns,
        the first ``rows``, for a table that is not in our own form the guessed ``columns``, and of these rows how many
        pictures are ``found`` and why the first that is not there is ``missing``.

    Raises:
        InputError: If it cannot be told.
        DataError: If it cannot be read.
    """
    kind, path = guess_kind(name), Path(name)
    if kind == "pictures":
        return {"kind": kind, **_peek_pictures(path)}
    if kind not in ("table", "questions"):
        return {"kind": kind}
    with tempfile.TemporaryDirectory(prefix="hart-peek-") as place:
        folder = Path(place)  # of a table in a zip, and of pictures that are in the table
        if is_zip(path):
            with Archive(path) as archive:
                inside = archive.root + str(choose_table(archive.list_folder(archive.root), kind))
                table = archive.unpack_table(inside, folder)
                return {
                    "kind": kind,
                    **_peek_rows(table, kind, partial(_look_inside, archive, image_root, folder), picture_column),
                }
        table = path / str(choose_table(list_folder(path), kind)) if path.is_dir() else path
        root = image_root or table.parent
        told = _peek_rows(table, kind, lambda value: resolve_image(value, root, folder), picture_column)
        return {"kind": kind, **told}


def _peek_pictures(path: Path) -> dict[str, Any]:
    if is_zip(path):
        with Archive(path) as archive:
            names = sorted(name for name in archive.files if PurePosixPath(name).suffix.lower() in PICTURE_ENDINGS)
    else:
        names = [picture.relative_to(path).as_posix() for picture in find_pictures(path)]
    return {"count": len(names), "shown": names[:MOST_SHOWN_PICTURES]}


def _look_inside(archive: Archive, image_root: Path | None, folder: Path, value: Any) -> None:
    """Look for the picture of a row in an archive; no picture is unpacked for it.

    Raises:
        ValueError: If it is missing, or is none.
    """
    wanted = (PurePosixPath(archive.root) / value).as_posix() if isinstance(value, str) else ""
    if wanted in archive.files:
        archive.check_picture(wanted)
        return
    try:
        resolve_image(value, image_root or folder, folder)
    except (ValueError, HartError) as error:
        if image_root is None and isinstance(value, str):
            raise ValueError(f"the picture is missing in {archive.path.name}") from error
        raise


def _peek_rows(table: Path, kind: str, locate: Callable[[Any], object], picture_column: str) -> dict[str, Any]:
    names, rows = preview_table(table)
    column = picture_column or infer_columns(names).image
    has_pictures = column in names
    found, missing = 0, "" if has_pictures else "no column was taken for the picture"
    for row in rows if has_pictures else ():
        try:
            locate(row.get(column))
            found += 1
        except (ValueError, HartError) as error:
            missing = missing or str(error)
    shown = [{name: _shorten(row.get(name)) for name in names} for row in rows]
    told = {"names": names, "rows": shown, "found": found, "missing": missing}
    return told if kind == "questions" else {**told, "columns": _show_columns(names)}


def _show_columns(names: Sequence[str]) -> dict[str, str]:
    """Field -> column; empty where none was found, also for a field that must have one."""
    return {
        field: ", ".join(value) if isinstance(value, tuple) else value if value in names else ""
        for field, value in vars(infer_columns(names)).items()
    }


def _shorten(value: Any) -> str:
    text = f"{len(value):,} bytes" if isinstance(value, (bytes, bytearray)) else str("" if value is None else value)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"
