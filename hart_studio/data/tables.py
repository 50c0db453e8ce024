"""Load tables of questions: JSONL, a JSON list, CSV, TSV, Parquet. Rows are streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from hart_studio.data.columns import ColumnMapping, infer_columns, read_row
from hart_studio.data.rows import MAX_ROWS, LoadedSamples, collect_samples
from hart_studio.data.separated_rows import read_separated
from hart_studio.errors import DataError
from hart_studio.files import (
    MAX_DOCUMENT_BYTES,
    MAX_LINE_BYTES,
    open_regular_file,
    parse_bounded_json,
    read_lines,
    read_regular_file,
)
from hart_studio.records import GoldSample

PREVIEW_ROWS: Final = 5
"""Number of rows read for column names and for a preview."""

LINE_TOO_LONG: Final = f"expected a line of at most {MAX_LINE_BYTES >> 20} MiB"
"""Reason for skipping a longer line of JSONL."""

LocatedRow = tuple[str, Any]
"""Location of a row, and the row: a dictionary, or a ``ValueError`` for an invalid line."""


def load_table(
    path: Path,
    cache: Path,
    columns: ColumnMapping | None = None,
    *,
    image_root: Path | None = None,
) -> LoadedSamples[GoldSample]:
    """Load a table of questions.

    Args:
        path: The file; the suffix is the format.
        cache: Folder for images stored as bytes, created if missing.
        columns: The column mapping; inferred from the names if None.
        image_root: Base folder of image paths; default: the folder of the file.

    Raises:
        DataError: If the file cannot be read, lacks a column, or contains no valid row.
    """
    names, _ = preview_table(path)
    chosen = columns or infer_columns(names)
    chosen.check(names, path.name)
    source, root = path.resolve().stem, image_root or path.parent
    return collect_rows(read_rows(path), chosen, source, root, cache, needs_answer=False)


def collect_rows(
    rows: Iterable[LocatedRow], columns: ColumnMapping, source: str, root: Path, cache: Path, *, needs_answer: bool
) -> LoadedSamples[GoldSample]:
    """Convert rows to samples; invalid rows are counted and skipped.

    Args:
        rows: Rows with their locations.
        columns: The column mapping.
        source: Name of the dataset.
        root: Folder that must contain images given as paths.
        cache: Folder for images stored as bytes, created if missing.
        needs_answer: Whether a row without a known answer is invalid.

    Raises:
        DataError: If no row is valid.
    """
    cache.mkdir(parents=True, exist_ok=True)

    def read(numbered: tuple[int, Any]) -> GoldSample:
        number, row = numbered
        if isinstance(row, ValueError):
            raise row
        if not isinstance(row, dict):
            raise ValueError(f"expected an object, got {type(row).__name__}")
        whole = {name: row.get(name) for name in columns.named}
        return read_row(whole, columns, number=number, source=source, root=root, cache=cache)

    placed = ((location, (number, row)) for number, (location, row) in enumerate(rows, start=1))
    return collect_samples(source, placed, read, needs_answer=needs_answer)


def preview_table(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Read the column names and the first valid rows.

    Raises:
        DataError: If the file cannot be read, or has no rows.
    """
    rows: list[dict[str, Any]] = []
    for _, row in read_rows(path):
        if isinstance(row, dict):
            rows.append(row)
        if len(rows) == PREVIEW_ROWS:
            break
    if not rows:
        raise DataError(f"{path.name!r} contains no rows with named columns. Check the file.")
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def read_rows(path: Path) -> Iterator[LocatedRow]:
    """Iterate over the rows of a table with their locations; a table may be larger than memory.

    In memory are one line of JSONL, CSV and TSV, a page of each column of Parquet, or a whole JSON list. All of these
    are bounded, see docs/security.md.

    Args:
        path: The file; the suffix is the format.

    Yields:
        Location of the row, and its cells by column name, or a ``ValueError`` for an invalid line. A
        row of a JSON file may be any value.

    Raises:
        DataError: If the file cannot be read as a table.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path.name!r} is not a supported table ({', '.join(_READERS)}). Convert it, or choose its format."
        )
    try:
        for number, row in enumerate(reader(path)):
            if number == MAX_ROWS:
                raise DataError(f"{path.name!r} has more than {MAX_ROWS:,} rows. Split the file.")
            yield row
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}. Check the path.") from error


def _read_jsonl(path: Path) -> Iterator[LocatedRow]:
    with open_regular_file(path, follow_symlinks=True) as file:
        for number, line in read_lines(file):
            if line is None:
                yield f"line {number}", ValueError(LINE_TOO_LONG)
            elif line.strip():
                yield f"line {number}", _parse(line.rstrip(b"\r\n"))


def _parse(line: bytes) -> Any:
    try:
        return parse_bounded_json(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"invalid JSON: {error}")


def _read_json(path: Path) -> Iterator[LocatedRow]:
    rows = _parse(read_regular_file(path, MAX_DOCUMENT_BYTES, follow_symlinks=True))
    if not isinstance(rows, list):
        found = rows if isinstance(rows, ValueError) else type(rows).__name__
        raise DataError(f"{path.name!r} must contain a JSON list of rows, got {found}. Repair the file.")
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _read_parquet(path: Path) -> Iterator[LocatedRow]:
    from hart_studio.data.parquet_rows import open_parquet  # noqa: PLC0415 - takes a moment, and few files need it

    _, rows = open_parquet(path)
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


_READERS: Final[dict[str, Callable[[Path], Iterator[LocatedRow]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": lambda path: read_separated(path, ",;"),
    ".tsv": lambda path: read_separated(path, "\t"),
    ".parquet": _read_parquet,
}
