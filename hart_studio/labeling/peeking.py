"""A look at a source before its import: what it is taken for, its first rows, and whether its pictures are there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

from hart_studio.data.columns import guess_columns
from hart_studio.data.embedded_pictures import locate_picture
from hart_studio.data.tables import peek_table
from hart_studio.errors import HartError
from hart_studio.labeling.archives import Archive
from hart_studio.labeling.folders import PICTURE_ENDINGS, choose_table, find_pictures, list_folder
from hart_studio.labeling.sources import guess_kind, is_zip

MOST_SHOWN_PICTURES: Final = 6

_LONGEST_CELL: Final = 120


def peek_source(name: str, image_root: Path | None = None) -> dict[str, Any]:
    """What a source most likely is, and what can be seen of it at once.

    Args:
        name: Path of a file or folder, or a hub id.
        image_root: Folder that pictures' paths start from; the table's own by default.

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
    if is_zip(path):
        with Archive(path) as archive, tempfile.TemporaryDirectory(prefix="hart-zip-") as folder:
            inside = archive.root + str(choose_table(archive.list_folder(archive.root), kind))
            table = archive.unpack_table(inside, Path(folder))
            _unpack_named(archive, table, Path(folder))
            return {"kind": kind, **_peek_rows(table, kind, image_root)}
    table = path / str(choose_table(list_folder(path), kind)) if path.is_dir() else path
    return {"kind": kind, **_peek_rows(table, kind, image_root)}


def _peek_pictures(path: Path) -> dict[str, Any]:
    if is_zip(path):
        with Archive(path) as archive:
            names = sorted(name for name in archive.files if PurePosixPath(name).suffix.lower() in PICTURE_ENDINGS)
    else:
        names = [picture.relative_to(path).as_posix() for picture in find_pictures(path)]
    return {"count": len(names), "shown": names[:MOST_SHOWN_PICTURES]}


def _unpack_named(archive: Archive, table: Path, folder: Path) -> None:
    """Bring the pictures of the first rows beside their table; what is wrong with one is found by looking for it."""
    names, rows = peek_table(table)
    for row in rows:
        value = row.get(guess_columns(names).image)
        wanted = str(PurePosixPath(archive.root) / value) if isinstance(value, str) else ""
        if wanted in archive.files:
            with suppress(ValueError, HartError):
                archive.unpack_file(wanted, folder)


def _peek_rows(table: Path, kind: str, image_root: Path | None) -> dict[str, Any]:
    names, rows = peek_table(table)
    columns = guess_columns(names)
    found, missing = 0, ""
    with tempfile.TemporaryDirectory(prefix="hart-peek-") as cache:
        for row in rows:
            try:
                locate_picture(row.get(columns.image), image_root or table.parent, Path(cache))
                found += 1
            except (ValueError, HartError) as error:
                missing = missing or str(error)
    shown = [{name: _shorten(row.get(name)) for name in names} for row in rows]
    told = {"names": names, "rows": shown, "found": found, "missing": missing}
    return told if kind == "questions" else {**told, "columns": _show_columns(names)}


def _show_columns(names: Sequence[str]) -> dict[str, str]:
    return {
        field: ", ".join(value) if isinstance(value, tuple) else value or ""
        for field, value in vars(guess_columns(names)).items()
    }


def _shorten(value: Any) -> str:
    text = f"{len(value):,} bytes" if isinstance(value, (bytes, bytearray)) else str("" if value is None else value)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"
