"""Follow image cells that name another row: VLMEvalKit stores the image of several questions once.

In such a TSV a short ``image`` cell is the ``index`` of the row that has the image. The first reference starts two
passes over the file: one reads the indices, the other writes the referenced images into the cache. Images are never
held in memory together, so that files of several gigabytes can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hart_studio.data.cells import resolve_image
from hart_studio.data.tables import LocatedRow, read_rows
from hart_studio.errors import HartError

MAX_REFERENCE_CHARS: Final = 64
"""Maximum length of a cell that is a reference, as in VLMEvalKit; every base64 image is longer."""

SUFFIXES: Final = frozenset({".tsv", ".csv"})
"""Formats whose rows may refer to others."""

_IMAGE: Final = "image"
_INDEX: Final = "index"
_SHOWN: Final = 5


def follow_references(path: Path, root: Path, cache: Path) -> Iterator[LocatedRow]:
    """Iterate over the rows of a table; an image cell that is the index of another row becomes that row's image.

    A row whose reference is circular, or names a row without a valid image, becomes a ``ValueError``. If two rows have
    the same index, the last one counts, as in VLMEvalKit.

    Args:
        path: The table; formats other than ``SUFFIXES`` have no references.
        root: Base folder of image paths.
        cache: Existing folder for embedded images.

    Raises:
        DataError: If the table cannot be read.
    """
    images: _ReferencedImages | None = None
    for location, row in read_rows(path):
        cell = _read_cell(row) if path.suffix.lower() in SUFFIXES else None
        if cell is None or len(cell) > MAX_REFERENCE_CHARS:
            yield location, row
            continue
        images = images or _ReferencedImages(path, root, cache)
        try:
            yield location, {**row, _IMAGE: images.find(cell)}
        except ValueError as error:
            yield location, error


class _ReferencedImages:
    """Images of the rows that other rows refer to."""

    def __init__(self, path: Path, root: Path, cache: Path) -> None:
        self._references: dict[str, str] = {}  # index -> short cell; empty = the row has its own image
        for _, row in read_rows(path):
            cell, index = _read_cell(row), _read_index(row)
            if cell is not None and index is not None:
                self._references[index] = cell if len(cell) <= MAX_REFERENCE_CHARS else ""
        targets = set()
        for reference in set(self._references.values()):
            try:
                targets.add(self._follow(reference))
            except ValueError:
                continue  # reported with each of its rows
        self._paths: dict[str, str | ValueError] = {}
        for _, row in read_rows(path):
            cell, index = _read_cell(row), _read_index(row)
            if index in targets and cell is not None and len(cell) > MAX_REFERENCE_CHARS:
                try:
                    self._paths[index] = resolve_image(cell, root, cache)
                except (ValueError, HartError) as error:
                    self._paths[index] = ValueError(f"the image is that of row {index!r}, which is invalid: {error}")

    def find(self, cell: str) -> str:
        """Return the path of the image that a cell refers to; a cell that is no reference is returned unchanged.

        Raises:
            ValueError: If the reference is circular or missing, or its image is invalid.
        """
        target = self._follow(cell)
        found = self._paths.get(target, target)
        if isinstance(found, ValueError):
            raise found
        return found

    def _follow(self, cell: str) -> str:
        """Follow a cell to the index of a row with its own image, or to a cell that is no index, such as a path."""
        visited: dict[str, None] = {}
        while self._references.get(cell):
            if cell in visited:
                shown = " -> ".join([*list(visited)[:_SHOWN], "..."] if len(visited) > _SHOWN else [*visited, cell])
                raise ValueError(f"the image refers in a circle: row {shown}")
            visited[cell] = None
            cell = self._references[cell]
        if cell not in self._references and cell.isdecimal():
            raise ValueError(f"the image is that of row {cell!r}, which the file does not have")
        return cell


def _read_cell(row: Any) -> str | None:
    cell = row.get(_IMAGE) if isinstance(row, dict) else None
    return cell.strip() if isinstance(cell, str) and cell.strip() else None


def _read_index(row: Any) -> str | None:
    index = row.get(_INDEX) if isinstance(row, dict) else None
    return index.strip() if isinstance(index, str) and index.strip() else None
